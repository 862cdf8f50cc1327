"""Files of the replaced system's newest version: what they say is obeyed or refused by name, and the commands work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import xecml
from tests.conftest import point_sources
from tests.newer_files import small, small_config
from tests.test_end_to_end import Xec
from xecml import rootio
from xecml.config import Config
from xecml.errors import InputError
from xecml.evaluation.repair_errors import filled_by
from xecml.events import INVALID, TASKS, measured, relative_quantities
from xecml.inference.export import export
from xecml.inference.export_subjects import pack
from xecml.inference.repair_models import NetworkRepair, is_repair, load_repair
from xecml.models.build import build_autoencoder, build_regressor
from xecml.models.newer.checkpoints import describe_newer, load_newer
from xecml.models.newer.form import said_of
from xecml.models.newer.network import NewerModel, NewerRepair
from xecml.models.normalise import validity
from xecml.models.original.checkpoints import load_original, recognise
from xecml.recipes import load_config
from xecml.training.starting_points import start

Content = dict[str, Any]
KINDS = ("regressor", "autoencoder", "inpainter")


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def raw(events: int = 2, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Photons and relative times (events, 4760) of points of light."""
    chunk = point_sources(events, seed=seed, dead=0.02)
    time = relative_quantities(chunk["npho"], chunk["time"])[1]
    return chunk["npho"].astype(np.float32), time.astype(np.float32)


def answers(content: Content, **said: Any) -> dict[str, np.ndarray]:
    network = load_newer("a.pth", content, said=said).eval()
    assert isinstance(network, NewerModel)
    npho, time = (torch.from_numpy(x) for x in raw())
    with torch.no_grad():
        return {task: y.numpy() for task, y in network(npho, time, *validity(npho, time)).items()}


# ---------------------------------------------------------------------------------------------- what a file says


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_recognised_and_described(kind: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    path = saved(small(kind), tmp_path / "a.pth")
    assert recognise(path) == "newer"
    facts = Xec(monkeypatch, capsys).json("info", path)
    for key, value in small_config(kind).items():
        assert facts[key] == value, key
    assert facts["layout"] == "newer"
    assert facts["tasks"] == (["angle", "uvwFI"] if kind == "regressor" else [])
    # an autoencoder does not say its threshold
    usual = "100.0, since the file does not say" if kind == "autoencoder" else 100.0
    assert facts["npho_threshold"] == usual
    assert facts["epochs finished"] == (4 if kind == "regressor" else 5)
    assert is_repair(path) == (kind != "regressor")
    with pytest.raises(InputError, match="newest version of the replaced system, and not of the original layout"):
        load_original(path)


def test_averages_are_preferred_and_prefixes_understood() -> None:
    content, wanted = small("regressor"), answers(small("regressor", seed=1))
    averaged = {f"module.{k}": w for k, w in small("regressor", seed=1)["model_state_dict"].items()}
    averaged["n_averaged"] = torch.tensor(9)
    for key in ("ema_state_dict", "best_ema_state"):
        np.testing.assert_array_equal(answers(content | {key: averaged})["angle"], wanted["angle"])
    compiled = {f"_orig_mod.{k}": w for k, w in small("regressor", seed=1)["model_state_dict"].items()}
    np.testing.assert_array_equal(answers(content | {"model_state_dict": compiled})["angle"], wanted["angle"])
    assert describe_newer("a.pth", content | {"ema_state_dict": averaged})["averaged weights"]


CHANGES: dict[str, Any] = {
    "outer_fine_pool": None, "npho_scale": 1000.0, "time_scale": 1e-7, "time_shift": 0.5, "sentinel_time": -5.0,
    "sentinel_npho": -2.0, "npho_threshold": 10.0, "npho_scheme": "linear",
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_what_a_file_says_of_its_inputs_is_obeyed(key: str) -> None:
    content = small("regressor")
    before, after = answers(content), answers(content | {"config": content["config"] | {key: CHANGES[key]}})
    # 1e-5 of the largest would be rounding
    assert np.abs(after["angle"] - before["angle"]).max() > 1e-4 * np.abs(before["angle"]).max()


def test_numbers_of_numpy_and_tuples_are_numbers() -> None:
    content = small("regressor")
    config = content["config"] | {"npho_scale": np.float64(20000.0), "outer_fine_pool": (2, 2), "encoder_dim": 32.0}
    np.testing.assert_array_equal(answers(content | {"config": config})["angle"], answers(content)["angle"])


def test_widths_are_of_the_file_and_unbounded() -> None:
    content = small("regressor", nll_tasks=["angle"])
    state = content["model_state_dict"]
    state["heads.angle.6.bias"] = torch.tensor([0.0, 0.0, 40.0, -40.0])
    state["heads.angle.6.weight"] = torch.zeros_like(state["heads.angle.6.weight"])
    sigma = answers(content)["sigma_angle"]
    np.testing.assert_allclose(sigma, np.tile(np.exp([20.0, -20.0]), (2, 1)), rtol=1e-5)


def test_logarithms_are_taken_back_where_the_user_says_so() -> None:
    content = small("regressor", active_tasks=["energy"], nll_tasks=["energy"])
    plain, powers = answers(content), answers(content, log_transform=["energy"])
    np.testing.assert_allclose(powers["energy"], np.exp(plain["energy"]), rtol=1e-6)
    np.testing.assert_allclose(powers["sigma_energy"], powers["energy"] * plain["sigma_energy"], rtol=1e-5)
    with pytest.raises(InputError, match="was not trained for timing, which log_transform names"):
        answers(content, log_transform=["timing"])


def test_a_threshold_that_no_key_says_is_the_users() -> None:
    """An autoencoder's: that of 18 photons is another network than that of 100."""
    npho, time = raw()
    dead = np.zeros(4760, bool)
    dead[::50] = True
    content = small("autoencoder")
    fills = []
    for said in ({}, {"npho_threshold": 100.0}, {"npho_threshold": 1.0}):
        network = load_newer("a.pth", content, said=said)
        assert isinstance(network, NewerRepair)
        fills.append(NetworkRepair(network, {"config": {"data": BRANCHES}}).fill(npho, time, dead)[0])
    np.testing.assert_array_equal(fills[0], fills[1])
    assert (fills[0] != fills[2])[:, dead].any()


BRANCHES = {"npho_branch": "npho", "time_branch": "relative_time"}


# ------------------------------------------------------------------------------------------------- what is refused


def without(name: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        del content["model_state_dict"][name]

    return change


def weight(name: str, *shape: int, value: float = 0.0) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["model_state_dict"][name] = torch.full(shape, value)

    return change


def config(**values: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["config"] |= values

    return change


def unsaid(name: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        del content["config"][name]

    return change


def table(name: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["model_state_dict"][name] = content["model_state_dict"][name].flip(-1) + 1

    return change


REFUSED: list[tuple[str, Callable[[Content], None], str]] = [
    ("regressor", unsaid("npho_scale"), "does not say npho_scale in its config; give the values"),
    ("regressor", unsaid("outer_fine_pool"), "does not say outer_fine_pool"),
    ("regressor", unsaid("sentinel_npho"), "does not say sentinel_npho"),
    ("regressor", unsaid("active_tasks"), "does not say active_tasks"),
    ("regressor", unsaid("time_branch"), "does not say time_branch"),
    ("regressor", config(npho_scale=None), "does not say npho_scale"),
    ("regressor", config(npho_schema="log1p"), "'npho_schema' in its config, which is no key of a regressor"),
    ("regressor", config(model={"outer_mode": "split"}), "'model' in its config, which is no key"),
    ("regressor", config(npho_scheme="cube"), "'config.npho_scheme': input should be 'log1p'"),
    ("regressor", config(outer_fine_pool=[2, 0]), "'config.outer_fine_pool.1': input should be greater"),
    ("regressor", config(outer_fine_pool=[50, 2]), "larger than the fine grid"),
    ("regressor", config(npho_scale=float("nan")), "'config.npho_scale'"),
    ("regressor", config(npho_scale="20000"), "'config.npho_scale'"),
    ("regressor", config(outer_mode="split"), "says outer_mode = split, and has weights of finegrid"),
    ("regressor", config(encoder_dim=64), "says encoder_dim = 64, and has weights of 32"),
    ("regressor", config(dim_feedforward=None), "says dim_feedforward = 128, and has weights of 64"),
    ("regressor", config(num_fusion_layers=2), "says num_fusion_layers = 2, and has weights of 1"),
    ("regressor", config(hidden_dim=16), "says hidden_dim = 16, and its heads have 8"),
    ("regressor", config(nll_tasks=["angle"]), r"heads.angle.6.bias \(2,\) instead of \(4,\)"),
    ("regressor", config(nll_tasks=["n_gamma"]), "names n_gamma in nll_tasks, which has classes"),
    ("regressor", config(active_tasks=[]), "names no task in active_tasks"),
    ("regressor", config(active_tasks=["theta"]), "'config.active_tasks.0'"),
    ("regressor", config(active_tasks=["angle", "angle"]), "names a task twice in active_tasks"),
    ("regressor", without("heads.energy.6.bias"), "missing: heads.energy.6.bias"),
    ("regressor", without("backbone.pos_embed"), "missing: backbone.pos_embed"),
    ("regressor", weight("heads.mass.0.weight", 2), "left over: heads.mass.0.weight"),
    ("regressor", weight("backbone.head.0.weight", 2), "left over: backbone.head.0.weight"),
    ("regressor", weight("backbone.backbone.stem.0.bias", 7), r"backbone.backbone.stem.0.bias \(7,\) instead of"),
    ("regressor", weight("backbone.backbone.stem.0.bias", 1, value=float("inf")), "no finite numbers: backbone"),
    ("regressor", weight("backbone.pos_embed", 1, 6, 33), "33 numbers, which is no multiple of 32"),
    ("regressor", weight("backbone.pos_embed", 1, 5, 32), r"has tokens of shape \(1, 5, 32\)"),
    (
        "regressor",
        table("backbone.hex_edge_index"),
        "a table 'backbone.hex_edge_index' that belongs to another detector",
    ),
    ("autoencoder", config(decoder_dim=16), "says decoder_dim = 16, and its decoders have 8"),
    ("autoencoder", config(predict_channels=["npho", "time"]), "dec_bot.head.1.bias"),
    ("autoencoder", config(predict_channels=["time"]), "says predict_channels = .*this version knows"),
    ("autoencoder", unsaid("encoder_dim"), "does not say encoder_dim: it is older than the newest version"),
    ("autoencoder", without("dec_us.linear.weight"), "missing: dec_us.linear.weight"),
    ("inpainter", config(head_type="cross_attention"), "says head_type = cross_attention, and has the weights of per_"),
    ("inpainter", config(use_masked_attention=True), "says use_masked_attention, and has no weights of it"),
    ("inpainter", weight("head_inner.attn_weight.0.weight", 2), "masked attention .head_inner.attn_weight."),
    ("inpainter", weight("head_inner.global_decoder.0.weight", 2), "without local context"),
    ("inpainter", config(sentinel_value=-5.0), "says sentinel_value = -5 and sentinel_time = -1"),
    ("inpainter", table("inner_idx"), "a table 'inner_idx' that belongs to another detector"),
    ("inpainter", table("head_outer_sensor.gather_indices"), "a table 'head_outer_sensor.gather_indices'"),
    ("cross", table("cross_attn_head.face_ids"), "face_ids has numbers outside 0 to 5"),
    ("cross", weight("cross_attn_head.knn_indices", 4760, 4, value=4760), "knn_indices has numbers outside 0 to 4759"),
    ("cross", weight("cross_attn_head.pos_embed", 4761, 12), "pos_embed has the shape"),
    ("cross", weight("cross_attn_head.pos_embed", 4760, 12, value=float("nan")), "numbers that are not finite"),
    ("cross", without("cross_attn_head.knn_indices"), "missing: cross_attn_head.knn_indices"),
    ("cross", config(cross_attn_k=5), "says cross_attn_k = 5, and has weights of 4"),
    ("cross", config(head_type="per_face"), "says head_type = per_face, and has the weights of cross_attention"),
]


@pytest.mark.parametrize(("kind", "change", "said"), REFUSED, ids=lambda x: x[:50] if isinstance(x, str) else "")
def test_what_is_missing_unknown_or_contradicts_itself_is_refused(
    kind: str, change: Callable[[Content], None], said: str, tmp_path: Path
) -> None:
    content = small("inpainter", head_type="cross_attention") if kind == "cross" else small(kind)
    change(content)
    path = saved(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=said) as error:
        (xecml.load_model if kind == "regressor" else load_repair)(path)
    assert str(path) in str(error.value)


def test_files_without_a_configuration_or_with_half_of_their_bytes_are_refused(tmp_path: Path) -> None:
    content = small("regressor")
    for nothing in (None, [1], "outer_mode"):
        with pytest.raises(InputError, match="has no 'config' that says what its inputs and sizes were"):
            xecml.load_model(saved(content | {"config": nothing}, tmp_path / "a.pth"))
    whole = saved(content, tmp_path / "b.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(whole[: len(whole) // 2])
    for use in (xecml.load_model, load_repair):
        with pytest.raises(InputError, match="cannot be read as a checkpoint; it is damaged"):
            use(tmp_path / "b.pth")


def test_what_a_user_says_is_checked(tmp_path: Path) -> None:
    path = saved(small("regressor"), tmp_path / "a.pth")
    for said, message in (
        ({"npho_threshold": 10.0}, r"says npho_threshold = 100.0, not 10.0; leave the key out"),
        ({"npho_treshold": 10.0}, "'npho_treshold' is no property of .*npho_threshold"),
        ({"log_transform": ["angle"]}, "--set: 'log_transform.0'"),
    ):
        with pytest.raises(InputError, match=message):
            xecml.load_model(path, said=said)
    assert xecml.load_model(path, said={"npho_threshold": 100.0}).tasks == ("angle", "uvwFI")
    assert said_of(["npho_threshold=10", "log_transform=energy timing"]) == {
        "npho_threshold": 10,
        "log_transform": ["energy", "timing"],
    }
    with pytest.raises(InputError, match="is not of the form KEY=VALUE"):
        said_of(["npho_threshold"])


def test_a_file_between_versions_is_told_its_missing_keys() -> None:
    """Of 18 February: constants, sentinels and tasks, but neither branches nor sizes; an encoder still had a head."""
    content = small("regressor")
    late = ("npho_scheme", "encoder_dim", "dim_feedforward", "num_fusion_layers", "hidden_dim", "nll_tasks",
            "npho_threshold", "npho_branch", "time_branch")  # fmt: skip
    between = {key: value for key, value in content["config"].items() if key not in late}
    state = content["model_state_dict"] | {"backbone.head.0.weight": torch.zeros(2, 2)}
    old = content | {"config": between, "model_state_dict": state}
    with pytest.raises(InputError, match="does not say npho_branch, time_branch in its config"):
        answers(old)
    usual = content | {"config": content["config"] | {"npho_scheme": "log1p"}}
    np.testing.assert_array_equal(answers(old, **BRANCHES)["angle"], answers(usual)["angle"])


def test_an_encoder_alone_says_nothing_of_its_inputs(tmp_path: Path) -> None:
    state = small("autoencoder")["model_state_dict"]
    inner = {k.removeprefix("encoder."): w for k, w in state.items() if k.startswith("encoder.")}
    path = saved(inner, tmp_path / "mae_encoder_epoch_3.pth")
    assert recognise(path) == "newer"
    facts = describe_newer(path)
    assert (facts["encoder_dim"], facts["dim_feedforward"], facts["num_fusion_layers"]) == (32, 64, 1)
    with pytest.raises(InputError, match="holds only an encoder .*, without a description of its inputs"):
        xecml.load_model(path)
    ours = recipe("normalization.npho_threshold=7")
    network = build_autoencoder(ours)
    line = start(network, resuming(ours, path), kind="mae", tasks=[]).line
    assert "which does not describe its inputs; they are taken from the recipe; epoch 1" in line
    encoder: Any = network.encoder
    torch.testing.assert_close(encoder.positions, inner["pos_embed"])
    assert float(encoder.normaliser.npho_threshold) == 7


# -------------------------------------------------------------------------------------------------- trained further


def recipe(*settings: str) -> Config:
    """The recipe of a small file."""
    options = ("model.layout=newer", "model.encoder_dim=32", "model.dim_feedforward=64", "model.num_fusion_layers=1",
               "model.hidden_dim=8", "model.outer_fine_pool=[2, 2]", "normalization.npho_scheme=sqrt",
               "normalization.sentinel_value=-1", "data.time_branch=relative_time")  # fmt: skip
    return load_config(None, (*options, *settings))


def resuming(config: Config, path: Path) -> Config:
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"resume_from": str(path)})})


def test_the_recipe_of_the_file_is_taken_and_no_other(tmp_path: Path) -> None:
    path = saved(small("autoencoder"), tmp_path / "mae.pth")
    for settings in ((), ("normalization.npho_threshold=10",), ("normalization.npho_scale=20000",)):
        ours = recipe(*settings)
        network = build_regressor(ours)
        begin = start(network, resuming(ours, path), kind="regress", tasks=["angle"])
        assert begin.encoder_given
        assert "heads of angle from scratch" in begin.line
        encoder: Any = network.encoder
        # what the recipe leaves open is the file's, and what the file leaves open the recipe's
        assert float(encoder.normaliser.npho_scale) == 20000
        assert float(encoder.normaliser.npho_threshold) == (10 if "threshold" in "".join(settings) else 100)
    for setting, said in (
        ("model.outer_fine_pool=[3, 3]", r"model.outer_fine_pool is \[3, 3\] here and \[2, 2\] there"),
        ("model.outer_fine_pool=null", r"model.outer_fine_pool is None here and \[2, 2\] there"),
        ("normalization.npho_scheme=log1p", "npho_scheme is log1p here and sqrt there"),
        ("normalization.sentinel_value=-5", "sentinel_value is -5.0 here and -1.0 there"),
        ("normalization.sentinel_npho=-2", "sentinel_npho is -2.0 here and -1.0 there"),
        ("normalization.npho_scale=1000", "npho_scale is 1000.0 here and 20000.0 there"),
        ("data.npho_branch=relative_npho", "npho_branch is relative_npho here and npho there"),
        ("model.encoder_dim=64", "encoder_dim is 64 here and 32 there"),
        ("model.dim_feedforward=null", "linear1.bias"),
        ("model.layout=original", "set model.layout=newer, as the file says: .*--set model.encoder_dim=32"),
    ):
        gone = [] if setting != "model.layout=original" else ["encoder_dim", "dim_feedforward", "num_fusion_layers"]
        ours = load_config(
            None, [*(s for s in _options(recipe()) if s.split("=")[0].split(".")[1] not in gone), setting]
        )
        with pytest.raises(InputError, match=said):
            start(build_regressor(ours), resuming(ours, path), kind="regress", tasks=["angle"])


def _options(config: Config) -> list[str]:
    """Settings that make a small recipe."""
    model, given = config.model, config.normalization
    return [f"model.{k}={getattr(model, k)}" for k in ("layout", "encoder_dim", "dim_feedforward", "num_fusion_layers",
            "hidden_dim")] + ["model.outer_fine_pool=[2, 2]", f"normalization.npho_scheme={given.npho_scheme}",
            "normalization.sentinel_value=-1", "data.time_branch=relative_time"]  # fmt: skip


@pytest.mark.parametrize("sure", [False, True])
def test_heads_keep_their_answers_when_targets_are_fitted(sure: bool, tmp_path: Path) -> None:
    content = small("regressor", nll_tasks=["uvwFI"] if sure else [])
    path = saved(content, tmp_path / "a.pth")
    ours = recipe("tasks.uvwFI.enabled=true", "tasks.uvwFI.loss_fn=gaussian_nll")
    network = build_regressor(ours).eval()
    begin = start(network, resuming(ours, path), kind="regress", tasks=list(network.tasks))
    assert begin.line.startswith(f"Took the encoder and the heads of angle, uvwFI of {path} (newest version)")
    truth = {t: 50 * torch.randn(500, TASKS[t].size) + 20 for t in network.tasks}
    network.fit_targets(torch.zeros(500, 0), torch.zeros(500), truth, keep_features=True)
    npho, time = (torch.from_numpy(x) for x in raw())
    with torch.no_grad():
        now = network(npho, time, *validity(npho, time))
    was = answers(content)
    for task in ("angle", "uvwFI"):
        assert np.abs(now[task].numpy() - was[task]).max() < 1e-5 * 50  # float32 of numbers as large as the mean
    width = now["sigma_uvwFI"].numpy()
    if sure:
        np.testing.assert_allclose(width, was["sigma_uvwFI"], rtol=1e-4)
    else:
        assert width.min() > 5  # about the widths of the targets, until they are learnt


# ------------------------------------------------------------------------------------ the way through the commands


@pytest.fixture(scope="module")
def event_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chunk = point_sources(24, seed=4, dead=0.02)
    names = ("relative_npho", "relative_time")
    chunk |= dict(zip(names, relative_quantities(chunk["npho"], chunk["time"]), strict=True))
    path = tmp_path_factory.mktemp("events") / "events.root"
    rootio.write(path, {k: v.astype(np.float32) if k in names else v for k, v in chunk.items()})
    return path


def read(path: Path, tree: str = "tree") -> dict[str, np.ndarray]:
    with rootio.open_tree(path, tree) as reader:
        return reader.arrays(sorted(reader.in_file), 0, reader.n_events)


@pytest.mark.slow
def test_a_regressor_is_evaluated_exported_and_predicted(
    event_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    xec = Xec(monkeypatch, capsys)
    path = saved(small("regressor", nll_tasks=["energy"], active_tasks=["angle", "energy"]), tmp_path / "old.pth")
    events = read(event_file)
    wanted = xecml.load_model(path).predict(events["npho"], events["relative_time"])
    report = xec.json("evaluate", path, event_file, "--out", tmp_path / "out")
    bias = report["evaluations"][0]["figures"]["theta"]["all"]["bias"]
    assert bias == pytest.approx(float((wanted["angle"] - events["emiAng"])[:, 0].mean()), rel=1e-4)
    assert xec.json("export", path, tmp_path / "old.onnx")["tasks"] == ["angle", "energy"]
    for model in (path, tmp_path / "old.onnx"):
        assert xec.json("predict", model, event_file, "--out", tmp_path / "p.root")["events"] == 24
        columns = read(tmp_path / "p.root", "predictions")
        np.testing.assert_allclose(columns["pred_theta"], wanted["angle"][:, 0], rtol=1e-4, atol=1e-5)
    xec.json("export", path, tmp_path / "log.onnx", "--set", "log_transform=energy")
    powers = xecml.load_model(tmp_path / "log.onnx").predict(events["npho"], events["relative_time"])
    np.testing.assert_allclose(powers["energy"], np.exp(wanted["energy"]), rtol=1e-4)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["sqrt", "log1p"])
def test_packed_input_and_encoders_of_the_newest_version_are_exported(
    scheme: str, event_file: Path, tmp_path: Path
) -> None:
    path = saved(small("regressor", npho_scheme=scheme, active_tasks=["angle", "energy"]), tmp_path / "old.pth")
    events = read(event_file)
    npho, time = events["npho"], events["relative_time"].copy()
    npho[0, :200], npho[1, 300:400], time[2, :50] = 1e10, -3.0, 1e10
    model = xecml.load_model(path)
    normaliser: Any = model.network.encoder.normaliser  # type: ignore[attr-defined]
    feed = {"input": pack(normaliser, npho, time)}
    assert (feed["input"][0, :200] == -1).all()
    packed = onnxruntime.InferenceSession(export(path, tmp_path / "packed.onnx", packed=True).out)
    assert "sentinel_npho where dead" in packed.get_modelmeta().custom_metadata_map["xecml.input"]
    wanted, found = model.predict(npho, time), dict(zip(("angle", "energy"), packed.run(None, feed), strict=True))
    for task, values in found.items():
        np.testing.assert_allclose(values, wanted[task], rtol=1e-3, atol=1e-3 * np.ptp(wanted[task]))
    tensors = [torch.from_numpy(array) for array in (npho, time)]
    with torch.no_grad():
        code = model.network.encoder(*tensors, *validity(*tensors))[0].numpy()  # type: ignore[attr-defined]
    encoder = onnxruntime.InferenceSession(export(path, tmp_path / "encoder.onnx", encoder=True).out)
    np.testing.assert_allclose(encoder.run(None, {"npho": npho, "time": time})[0], code, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("inpainter", {"predict_channels": ["npho", "time"]}),
        pytest.param("inpainter", {"outer_mode": "split", "outer_fine_pool": None}, marks=pytest.mark.long),
        pytest.param(
            "inpainter", {"head_type": "cross_attention", "predict_channels": ["npho", "time"]}, marks=pytest.mark.long
        ),
        pytest.param("autoencoder", {}, marks=pytest.mark.long),
    ],
    ids=["faces", "split", "cross", "autoencoder"],
)
def test_dead_sensors_are_filled_by_a_checkpoint_and_its_export(
    kind: str, changes: dict[str, Any], event_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    xec = Xec(monkeypatch, capsys)
    path, exported = saved(small(kind, **changes), tmp_path / "old.pth"), tmp_path / "old.onnx"
    (tmp_path / "dead.txt").write_text("7\n2000\n4200\n4747\n4320\n4600\n")
    dead = [7, 2000, 4200, 4747, 4320, 4600]
    assert xec.json("export", path, exported)["tasks"] == ["repair"]
    before, filled = read(event_file), []
    for model in (path, exported):
        out = tmp_path / "filled.root"
        options = ("--dead-list", tmp_path / "dead.txt", "--out", out, "--force")
        assert xec.json("inpaint", model, event_file, *options)["filled"] == 24 * len(dead)
        filled.append(read(out))
    ours, theirs = filled
    live = np.ones(4760, bool)
    live[dead] = False
    for branch in ("npho", "time", "relative_time"):
        np.testing.assert_array_equal(ours[branch][:, live], before[branch][:, live])
        np.testing.assert_allclose(theirs[branch], ours[branch], rtol=2e-3, atol=1e-3 if branch == "npho" else 1e-10)
    timed = "time" in (changes.get("predict_channels") or ())
    assert measured(ours["time"][:, dead]).all() == timed
    repair = load_repair(path)
    lost = np.zeros(before["npho"].shape, bool)
    lost[:, dead] = True
    wanted = repair.fill(before["npho"], before["relative_time"], lost)
    np.testing.assert_allclose(ours["npho"][:, dead], wanted[0][:, dead], rtol=1e-6)
    if timed:  # on the clock of the event's live sensors
        own = filled_by(repair, before["npho"], before["time"], lost)[1]
        clock = (before["time"] - before["relative_time"])[:, [3]]
        near = measured(before["time"][:, [3]]) & measured(before["relative_time"][:, [3]])
        shift = np.where(near, own[:, dead] - wanted[1][:, dead], clock)
        np.testing.assert_allclose(shift[near[:, 0]], np.broadcast_to(clock, shift.shape)[near[:, 0]], atol=2e-11)


@pytest.mark.slow
@pytest.mark.long
def test_a_training_goes_on_from_a_file_and_an_inpainter_is_evaluated(
    event_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """With a rate so small that no weight moves, what a training leaves answers as the file did."""
    xec = Xec(monkeypatch, capsys)
    path = saved(small("regressor"), tmp_path / "old.pth")
    settings = [
        "tasks.uvwFI.enabled=true", "training.lr=1e-12", "training.lr_min=0", "training.epochs=1", "training.amp=false",
        "data.batch_size=12", f"checkpoint.save_dir={tmp_path}", "mlflow.enabled=false", "mlflow.tensorboard=null",
    ]  # fmt: skip
    options = [part for text in (*_options(recipe()), *settings) for part in ("--set", text)]
    paths = ("--train_path", event_file, "--val_path", event_file, "--resume_from", path, "--name", "further")
    done = xec.json("train", "regress", *options, *paths)
    events = read(event_file)
    inputs = events["npho"], events["relative_time"]
    was, now = (xecml.load_model(p).predict(*inputs) for p in (path, done["checkpoint"]))
    for task in ("angle", "uvwFI"):
        assert np.abs(now[task] - was[task]).max() < 1e-5 * 90  # of float32 numbers as large as their mean
    repair = saved(small("inpainter", predict_channels=["npho", "time"]), tmp_path / "inpainter.pth")
    report = xec.json("evaluate", repair, event_file, "--out", tmp_path / "repairs", "--events", 4)
    assert (tmp_path / "repairs" / "repair.pdf").stat().st_size > 10_000
    assert "inpainter" in str(report)


def test_invalid_is_what_is_not_predicted(tmp_path: Path) -> None:
    """A model of counts gives no times; the decoders of `split` have none for the 18 sensors of the centre map."""
    npho, time = raw()
    dead = np.zeros(4760, bool)
    dead[[5, 4200, 4750]] = True
    path = saved(small("autoencoder", outer_mode="split", outer_fine_pool=None), tmp_path / "a.pth")
    counts, times = load_repair(path).fill(npho, time, dead)
    assert (times[:, dead] == INVALID).all()
    assert (counts[:, 4750] == INVALID).all()
    assert measured(counts[:, [5, 4200]]).all()
