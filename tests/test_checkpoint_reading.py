"""What checkpoints say of themselves, and their weights: anything wrong is one sentence that names the key or layer."""

from __future__ import annotations

import copy
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.test_training import TINY
from xecml.cli.info import describe_file
from xecml.config import Config
from xecml.errors import InputError
from xecml.inference.trained_model import load_model
from xecml.models import weight_files
from xecml.models.build import build_model
from xecml.recipes import load_config
from xecml.training import checkpoint_writing
from xecml.training.starting_points import restore, start
from xecml.training.weight_average import WeightAverage

LAYER = "encoder.window.0.weight"
Content = dict[str, Any]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(TINY)


@pytest.fixture(scope="module")
def whole(config: Config) -> Content:
    """Content of a checkpoint as a training writes it."""
    torch.manual_seed(0)
    network = build_model(config)
    optimizer = torch.optim.AdamW([{"params": list(network.parameters()), "lr_scale": 1.0}])
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return checkpoint_writing.manifest() | {
        "kind": "regress", "config": config.model_dump(mode="json"), "tasks": list(network.tasks),  # type: ignore[arg-type]
        "model_state": network.state_dict(), "loss_state": {}, "ema_state": network.state_dict(), "ema_updates": 1,
        "optimizer_state": optimizer.state_dict(), "random_states": [[torch.get_rng_state()]], "epoch": 2,
        "batch_in_epoch": 0, "data_fingerprint": "0", "sums": {"sums": {}, "counts": {}}, "best": 1.5, "since_best": 0,
        "metrics": {"epoch": 1, "val/loss": 1.5}, "reweighting": None, "run_name": "run", "run_id": None,
    }  # fmt: skip


def written(folder: Path, content: Content) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tensors, here where they are written
        torch.save(content, folder / "c.pth")
    return folder / "c.pth"


def go_on(config: Config, path: Path, key: str = "checkpoint.resume_from") -> Content:
    """Start a training from a checkpoint as far as the first step; what it goes on from."""
    section, _, name = key.partition(".")
    given = getattr(config, section).model_copy(update={name: str(path)})
    network = build_model(config)
    begin = start(network, config.model_copy(update={section: given}), kind="regress", tasks=list(network.tasks))  # type: ignore[arg-type]
    assert begin.resumed is not None
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "lr_scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.5, weight_decay=0.25)
    average = WeightAverage(network, 0.9)
    restore(begin.resumed, str(path), optimizer, groups, torch.nn.Module(), average)
    return {"optimizer": optimizer, "average": average}


def test_a_whole_checkpoint_is_used_as_it_is(whole: Content, config: Config, tmp_path: Path) -> None:
    path = written(tmp_path, whole)
    assert load_model(path).tasks == ("angle", "energy", "timing", "uvwFI")
    assert describe_file(str(path))["best"] == 1.5
    found = go_on(config, path)
    # moments are the file's, what groups say is the recipe's; the rate is chosen before each step
    assert found["optimizer"].param_groups[0]["weight_decay"] == 0.25
    saved = whole["optimizer_state"]["state"][0]["exp_avg"]
    assert torch.equal(next(iter(found["optimizer"].state.values()))["exp_avg"], saved)
    assert found["average"].updates == 1


DROP = object()
DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]
WRONG: list[tuple[str, Any, str]] = [
    ("kind", DROP, "'kind' is missing"),
    ("kind", 3, "'kind': input should be 'regress', 'mae' or 'inpaint'"),
    ("kind", "other", "'kind': input should be 'regress', 'mae' or 'inpaint'"),
    ("config", DROP, "'config' is missing"),
    ("config", "text", "'config': input should be a valid dictionary"),
    ("config", {"data": {}}, "'config.data.npho_branch' is missing"),
    ("format_version", DROP, "'format_version' is missing"),
    ("format_version", "1", "'format_version': input should be a valid integer"),
    ("format_version", True, "'format_version': input should be a valid integer"),
    ("geometry_hash", DROP, "'geometry_hash' is missing"),
    ("geometry_hash", torch.ones(3), "'geometry_hash': input should be a valid string"),
    ("xecml", DROP, "'xecml' is missing"),
    ("tasks", ["angle", "charm"], "'tasks.1': input should be 'angle', 'energy'"),
    ("tasks", "angle", "'tasks': input should be a valid list"),
    ("epoch", 0, "'epoch': input should be greater than or equal to 1"),
    ("epoch", 10**30, "'epoch': input should be less than"),
    ("batch_in_epoch", 1.5, "'batch_in_epoch': input should be a valid integer"),
    ("best", math.nan, "'best': it must be a number"),
    ("best", "low", "'best': input should be a valid number"),
    ("metrics", {"loss": "low"}, "'metrics.loss': input should be a valid number"),
    ("run_id", "' OR 1=1", "'run_id': string should match pattern"),
    ("ema_updates", -1, "'ema_updates': input should be greater than or equal to 0"),
    ("model_state", "text", "'model_state' does not hold named weights"),
    ("revision", DEEP, "'revision': input should be a valid string"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=[f"{i}-{k}" for i, (k, _, _) in enumerate(WRONG)])
def test_a_wrong_key_is_named(whole: Content, config: Config, tmp_path: Path, key: str, value: Any, said: str) -> None:
    path = written(tmp_path, {k: v for k, v in whole.items() if k != key} | ({} if value is DROP else {key: value}))
    uses: tuple[Callable[[], object], ...] = (
        lambda: load_model(path), lambda: describe_file(str(path)), lambda: go_on(config, path),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(InputError, match=f"c.pth is damaged: {said}.*; use another checkpoint") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["best", "optimizer_state", "random_states", "epoch", "sums", "ema_updates", "tasks"])
def test_what_only_a_training_needs_is_asked_for_there(
    whole: Content, config: Config, tmp_path: Path, key: str
) -> None:
    path = written(tmp_path, {k: v for k, v in whole.items() if k != key})
    assert load_model(path).tasks[0] == "angle"
    if key != "ema_updates":
        assert describe_file(str(path))["cannot be gone on from, without"] == [key]
    if key == "tasks":  # not the same job, so that only the encoder is taken
        return
    with pytest.raises(InputError, match=f"c.pth is damaged: '{key}' is missing; use another checkpoint"):
        go_on(config, path)


def _with(content: Content, place: str, value: Any) -> Content:
    """A copy of content with one value in its depth changed; the weights themselves are shared."""
    changed = inner = copy.copy(content)
    *path, last = place.split("/")
    for part in path:
        key = int(part) if part.isdigit() else part
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("optimizer_state/state/3/exp_avg", torch.zeros(2), "'optimizer_state.3' does not fit its weights"),
        ("optimizer_state/state/3/exp_avg", torch.full((8,), math.nan), "optimizer_state.3.exp_avg"),
        ("optimizer_state/state/3/exp_avg", torch.eye(8).to_sparse(), "optimizer_state.3.exp_avg is sparse"),
        ("optimizer_state/state/3/more", torch.zeros(2), "'optimizer_state.3' does not fit its weights"),
        ("optimizer_state/state/3/step", "many", "'optimizer_state.state.3.step': input should be an instance"),
        ("optimizer_state/param_groups", [], "its state is of other weights than its groups"),
        ("optimizer_state/param_groups", [{"params": [0, 0]}], "state is of other weights than its groups"),
        ("random_states", [[torch.zeros(9, dtype=torch.uint8)]], "'random_states' is of no random generator"),
        ("random_states", [[]], "'random_states' is of no random generator"),
        ("batch_in_epoch", 3, "it stands within an epoch, and has no sums of it"),
        ("sums", {"sums": {"loss": torch.ones(3)}, "counts": {"loss": 1}}, "'sums.sums.loss': it must be one number"),
        ("sums", {"sums": {"loss": torch.ones(())}, "counts": {"loss": 0}}, "'sums.counts.loss': input should be"),
        ("sums", {"sums": {"loss": torch.ones(())}, "counts": {}}, "its sums and counts are of different quantities"),
        ("loss_state", {"a": torch.ones(1)}, "trained other weights"),
    ],
)
def test_a_state_that_cannot_be_gone_on_from_is_named(
    whole: Content, config: Config, tmp_path: Path, place: str, value: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        go_on(config, written(tmp_path, _with(whole, place, value)))


def test_no_mutated_group_reaches_the_optimizer(whole: Content, config: Config, tmp_path: Path) -> None:
    group = whole["optimizer_state"]["param_groups"][0] | {"betas": "text", "lr": math.nan, "amsgrad": True}
    path = written(tmp_path, _with(whole, "optimizer_state/param_groups", [group]))
    assert go_on(config, path)["optimizer"].param_groups[0]["betas"] == (0.9, 0.999)


# --------------------------------------------------------------------------------------------------- weights


def quantised(weight: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


def sparse_rows(weight: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


SPOILED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "meta": (lambda w: w.to("meta"), r"has no numbers, only a shape \(meta\)"),
    "sparse": (lambda w: w.to_sparse(), "is sparse or nested"),
    "rows": (sparse_rows, "is sparse or nested"),
    "quantised": (quantised, "holds numbers of qint8, not real ones"),
    "complex": (lambda w: w.to(torch.complex64), "holds numbers of complex64, not real ones"),
    "text": (lambda w: "text", "is of type str and no tensor"),
    "list": (lambda w: [1.0, 2.0], "is of type list and no tensor"),
    "endless": (lambda w: torch.ones(1).expand(10**12), "says that it has 1000000000000 numbers, and has fewer"),
}
UNFIT: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nan": (lambda w: w * math.nan, "weights that are no finite numbers: (encoder.)?window.0.weight;"),
    "infinite": (
        lambda w: torch.where(w > w.median(), math.inf, w),
        "that are no finite numbers: (encoder.)?window.0.weight;",
    ),
    "shape": (lambda w: w[:3], r"window.0.weight is \(3, 5, 4, 4\) instead of"),
    "integers": (lambda w: w.long(), "window.0.weight is of int64 instead of float32"),
}


@pytest.mark.parametrize("state", ["model_state", "ema_state"])
@pytest.mark.parametrize("name", SPOILED)
def test_weights_of_another_kind_are_named(
    whole: Content, config: Config, tmp_path: Path, state: str, name: str
) -> None:
    """Whatever is done with the file, and without the warnings of the library beside the sentence."""
    spoil, said = SPOILED[name]
    path = written(tmp_path, _with(whole, f"{state}/{LAYER}", spoil(whole[state][LAYER])))
    uses: tuple[Callable[[], object], ...] = (
        lambda: load_model(path), lambda: describe_file(str(path)), lambda: go_on(config, path),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(InputError, match=f"c.pth has weights that cannot be used: {LAYER} {said}; use another"):
            use()


@pytest.mark.parametrize("name", UNFIT)
def test_weights_that_do_not_fit_or_are_no_numbers_are_named(
    whole: Content, config: Config, tmp_path: Path, name: str
) -> None:
    spoil, said = UNFIT[name]
    spoiled = spoil(whole["ema_state"][LAYER])
    path = written(tmp_path, _with(whole, f"ema_state/{LAYER}", spoiled))
    for use in (load_model, lambda p: go_on(config, p), lambda p: go_on(config, p, "training.mae_checkpoint")):
        with pytest.raises(InputError, match=said):
            use(path)
    path = written(tmp_path, _with(whole, f"model_state/{LAYER}", spoiled))
    with pytest.raises(InputError, match=said):
        go_on(config, path)
    load_model(path)  # which uses the averages


def test_a_large_finite_weight_is_a_weight(whole: Content) -> None:
    """Its sum is infinite in float32, and every number of it is not."""
    weight_files.check_finite({"w": torch.full((1000,), 3e38), "i": torch.ones(3, dtype=torch.int64)}, "c.pth")
    with pytest.raises(InputError, match="no finite numbers: a, b, c, d and 1 more"):
        weight_files.check_finite({name: torch.tensor([1.0, -math.inf]) for name in "abcde"}, "c.pth")


@pytest.mark.parametrize("width", [10**9, 10**12, 10**18, 2**70])
def test_a_recipe_larger_than_the_weights_is_refused_before_it_is_built(
    whole: Content, tmp_path: Path, width: int
) -> None:
    """The first would take 128 GB."""
    path = written(tmp_path, _with(whole, "config/model/hidden_dim", width))
    with pytest.raises(
        InputError, match="does not fit the network of its recipe.*(the recipe asks for a layer of|'model.hidden_dim')"
    ):
        load_model(path)


def test_a_recipe_of_another_version_is_named(whole: Content, tmp_path: Path) -> None:
    for place, value, said in (
        ("config/model/preset", "enormous", "'model.preset': input should be"),
        ("config/model/wings", 2, "'model.wings': extra inputs are not permitted"),
        ("config/tasks", None, "'tasks': input should be"),
    ):
        with pytest.raises(InputError, match=f"c.pth does not fit the network of its recipe in this version.*{said}"):
            load_model(written(tmp_path, _with(whole, place, value)))


# --------------------------------------------------------------------------------------------------- files


def test_files_that_are_none_say_why(whole: Content, tmp_path: Path) -> None:
    path = written(tmp_path, whole)
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in good.namelist():
            packed.writestr(part, good.read(part))
    (tmp_path / "text.pth").write_text("no weights at all")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-200])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "object.pth")
    torch.save({"run": os.system}, tmp_path / "code.pth")
    for name, said in (
        ("packed", "its parts are compressed, which torch never does"),
        ("text", "it does not begin as a file of torch does, or is cut off"),
        ("empty", "it does not begin as a file of torch does, or is cut off"),
        ("cut", "failed finding central directory"),
        ("object", "it holds 'torch.nn.modules.linear.Linear', which is code or an object and no number"),
        ("code", "it holds '(posix|nt).system', which is code or an object and no number"),
    ):
        with pytest.raises(InputError, match=f"{name}.pth cannot be read as a checkpoint.*{said}") as caught:
            weight_files.read(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe.pth")
    for wrong, what in (("pipe.pth", "is a pipe"), (".", "is a folder"), ("none.pth", "No such checkpoint")):
        with pytest.raises(InputError, match=what):
            weight_files.read(tmp_path / wrong)
