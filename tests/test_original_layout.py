"""The original layout: weights and inputs by a fixed recipe lead to the numbers that its network gave."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xecml
from tests.conftest import point_sources
from tests.test_end_to_end import Xec
from xecml import geometry, rootio
from xecml.config import Config
from xecml.errors import InputError
from xecml.events import INVALID, TASKS, relative_quantities
from xecml.models.build import build_regressor
from xecml.models.networks.reference import ReferenceEncoder
from xecml.models.normalise import RELATIVE_DEFAULTS, Normaliser, validity
from xecml.models.original.checkpoints import describe, load_original, recognise
from xecml.models.original.network import OriginalModel, OriginalViews, coarse_map, hex_neighbours, original
from xecml.recipes import load_config
from xecml.training import loop
from xecml.training.starting_points import start

State = dict[str, torch.Tensor]
TABLES = {"top_hex_indices": [73], "bottom_hex_indices": [73], "hex_edge_index": [3, 431]}


def numbers(text: str) -> list[float]:
    return [float(x) for x in text.split()]


# tokens, every 1024th number, and outputs of the network of that time on the recipe's weights and inputs
CASES: dict[str, dict[str, Any]] = {
    "finegrid": {
        "seeds": (11, 12),
        "tokens": numbers(
            "1.029729 -0.593426 1.175199 1.179945 0.845169 1.101586 0.324641 0.16726 0.084447 "
            "-0.078352 0.88229 1.22811 -0.582005 -0.228321 0.368663 0.284845 0.640915 0.745209"
        ),
        "angle": [[0.491865, -0.404101], [0.490763, -0.101344], [0.597016, 0.017197]],
        "energy": [[-0.185381], [0.366626], [0.016866]],
        "timing": [[-0.363851], [0.099463], [0.103886]],
        "uvwFI": [[-0.022575, 0.617322, 0.045591], [0.057396, 0.112204, 0.209725], [0.161586, 0.109082, 0.656753]],
        "angleVec": [
            [-0.802936, 0.174903, 0.126604],
            [-0.547969, -0.00406, -0.253731],
            [-0.457344, -0.09411, -0.530582],
        ],
        "n_gamma": [
            [0.699876, -0.274396, -0.616038, 0.026943, -0.016256],
            [0.823703, 0.042977, -0.625164, 0.044196, 0.097763],
            [0.841437, -0.254126, -0.120426, 0.034539, -0.362359],
        ],
    },
    "split": {
        "seeds": (12, 13),
        "tokens": numbers(
            "-0.033993 0.309595 0.372724 0.4715 -0.646487 -0.842419 -0.745108 -0.643763 -0.691186 1.73154 -0.221788 "
            "0.085988 -0.719218 -0.597507 0.225725 0.076328 0.380619 -0.521542 -0.975154 -0.855679 -0.757016"
        ),
        "angle": [[-0.575617, -0.37945], [-0.64772, -0.334573], [-0.249814, -0.333293]],
        "energy": [[-0.219436], [-0.014535], [0.23986]],
        "timing": [[-0.258178], [-0.336088], [-0.118385]],
        "uvwFI": [[-0.103562, -0.404793, 0.702493], [0.240847, -0.056177, 0.896366], [-0.636188, 0.166063, 0.519454]],
        "angleVec": [
            [-0.226033, 0.473611, -0.30634],
            [-0.113595, 0.218295, -0.329517],
            [-0.697158, 0.132724, -0.365039],
        ],
        "n_gamma": [
            [-0.126549, -0.311599, -0.459369, -0.487816, -0.244445],
            [0.132412, -0.437218, -0.397072, 0.0999, -0.287089],
            [-0.267561, -0.162771, -0.491177, -0.279832, -0.221991],
        ],
    },
}
MODES = tuple(CASES)


def old_shapes(mode: str) -> dict[str, list[int]]:
    """Names and shapes of every tensor in an old file."""
    width = 1024 * (6 if mode == "finegrid" else 7)
    shapes = {f"backbone.{name}": shape for name, shape in TABLES.items()}
    new = {"faces": "backbone", "hexagons": "hex_encoder", "fusion": "fusion_transformer"}
    for name, parameter in original(Normaliser(**RELATIVE_DEFAULTS), outer_mode=mode).named_parameters():
        part, _, rest = name.partition(".")
        shapes["backbone.pos_embed" if part == "positions" else f"backbone.{new[part]}.{rest}"] = list(parameter.shape)
    heads = {f"heads.{task}": info.size for task, info in TASKS.items()}
    for head, size in heads.items():
        shapes |= {f"{head}.4.weight": [256, 256], f"{head}.4.bias": [256]}
        shapes |= {f"{head}.6.weight": [size, 256], f"{head}.6.bias": [size]}
    shapes |= {"backbone.head.4.weight": [2, 256], "backbone.head.4.bias": [2]}
    for head in (*heads, "backbone.head"):
        shapes |= {f"{head}.0.weight": [256, width]}
        shapes |= {f"{head}.{name}": [256] for name in ("0.bias", "1.weight", "1.bias")}
    return shapes


@cache
def recipe(mode: str) -> State:
    """Weights of a case: normal numbers in the order of sorted names."""
    random = np.random.RandomState(CASES[mode]["seeds"][0])
    state: State = {}
    for name, shape in sorted(old_shapes(mode).items()):
        if name.removeprefix("backbone.") in TABLES:
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        n = random.standard_normal(shape)
        if name.endswith("weight"):
            n = n / np.sqrt(np.prod(shape[1:])) if len(shape) >= 2 else 1 + 0.1 * n
        else:
            n = 0.1 * n
        state[name] = torch.from_numpy(n.astype(np.float32))
    return state


def events(mode: str, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw relative counts and times that normalise to the recipe's input."""
    random = np.random.RandomState(CASES[mode]["seeds"][1])
    shape = (batch, geometry.N_SENSORS)
    npho, time = 0.58 * np.expm1(random.gamma(0.5, 0.6, shape)), (random.uniform(-0.5, 1.0, shape) + 0.5) * 6.5e-8
    bad = random.uniform(size=shape) < 0.07
    raw = (np.where(bad, INVALID, x).astype(np.float32) for x in (npho, time))
    npho32, time32 = (torch.from_numpy(x) for x in raw)
    return npho32, time32


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def state(mode: str) -> State:
    return recipe(mode)


@pytest.fixture(scope="module")
def model(mode: str, state: State, tmp_path_factory: pytest.TempPathFactory) -> OriginalModel:
    return load(save(tmp_path_factory.mktemp("original") / f"{mode}.pth", state))


def save(path: Path, state: State, **more: Any) -> Path:
    """A file of January: regressors say nothing of themselves."""
    torch.save({"model_state_dict": state} | more, path)
    return path


def autoencoder(state: State, config: Any = None) -> dict[str, Any]:
    """Content of a file of January's autoencoder, whose configuration is flat."""
    inner = {k.removeprefix("backbone."): w for k, w in state.items() if k.startswith("backbone.")}
    weights = {f"encoder.{name}": w for name, w in inner.items()} | {"decoders.inner.weight": torch.zeros(3)}
    return {"model_state_dict": weights, "epoch": 3} | ({} if config is None else {"config": config})


def untrained(state: State, *tasks: str) -> State:
    """The same weights with heads that never learnt: their norms are as they were made."""
    made = {f"heads.{task}.1.{name}": value for task in tasks for name, value in (("weight", 1.0), ("bias", 0.0))}
    return {name: torch.full_like(w, made[name]) if name in made else w for name, w in state.items()}


def load(path: Path) -> OriginalModel:
    loaded = load_original(path)
    assert isinstance(loaded, OriginalModel)
    return loaded.eval()


def relative(got: torch.Tensor, wanted: Any) -> float:
    """Largest difference over the largest absolute value."""
    want = torch.as_tensor(wanted)
    return float((got - want).abs().max() / want.abs().max())


def test_the_case_is_met(mode: str, model: OriginalModel) -> None:
    npho, time = events(mode)
    masks = validity(npho, time)
    with torch.no_grad():
        answers, _ = model.standardised(npho, time, *masks)
        tokens = model.encoder.tokens(npho, time, *masks)
        given = model(npho, time, *masks)
    assert relative(tokens.flatten()[::1024], CASES[mode]["tokens"]) < 1e-5
    for task, answer in answers.items():
        assert relative(answer, CASES[mode][task]) < 1e-5
    assert relative(given["n_gamma"], torch.tensor(CASES[mode]["n_gamma"]).softmax(1)) < 1e-5
    assert given["energy"].shape == (3,)


def test_names_shapes_and_all_numbers_of_the_table(mode: str, model: OriginalModel) -> None:
    table = json.loads((Path(__file__).parent / "data" / "original_checkpoint.json").read_text())
    shapes = table["state_dict_finegrid"] | (table["state_dict_split_differs_in"] if mode == "split" else {})
    assert old_shapes(mode) == shapes
    npho, time = events(mode)
    masks = validity(npho, time)
    with torch.no_grad():
        tokens = model.encoder.tokens(npho, time, *masks)
        answers, _ = model.standardised(npho, time, *masks)
    assert relative(tokens.flatten()[::128], table["tokens_every_128th"][mode]) < 1e-5
    for task, wanted in table["outputs"][mode].items():
        assert relative(answers[task], wanted) < 1e-5


def test_prefixes_of_wrappers_are_understood_and_averaged_weights_preferred(
    mode: str, state: State, model: OriginalModel, tmp_path: Path
) -> None:
    zeros = {f"_orig_mod.{name}": torch.zeros_like(w) for name, w in state.items()}
    averaged = {f"module._orig_mod.{name}": w for name, w in state.items()} | {"n_averaged": torch.tensor(7)}
    wrapped = load(save(tmp_path / "wrapped.pth", zeros, ema_state_dict=averaged, epoch=3))
    for ours, theirs in zip(wrapped.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    distributed = {f"module.{name}": w for name, w in state.items()}
    plain = load(save(tmp_path / "distributed.pth", distributed))
    assert torch.equal(plain.encoder.positions, model.encoder.positions)


def test_missing_left_over_and_misshapen_weights_are_named(state: State, mode: str, tmp_path: Path) -> None:
    broken = dict(state)
    del broken["backbone.backbone.stem.0.bias"]
    broken["heads.angle.6.bias"] = torch.zeros(4)
    broken["backbone.something.weight"] = torch.zeros(2)
    with pytest.raises(InputError) as error:
        load_original(save(tmp_path / "broken.pth", broken))
    for part in (
        "missing: encoder.faces.stem.0.bias",
        "left over: backbone.something.weight",
        "heads.angle.6.bias (4,)",
    ):
        assert part in str(error.value)


def test_other_files_of_that_time_give_what_they_hold(
    mode: str, state: State, model: OriginalModel, tmp_path: Path
) -> None:
    inner = {name.removeprefix("backbone."): w for name, w in state.items() if name.startswith("backbone.")}
    single = load(save(tmp_path / "single.pth", inner))
    assert single.tasks == ("angle",)
    npho, time = events(mode)
    with torch.no_grad():
        assert single(npho, time, *validity(npho, time))["angle"].shape == (3, 2)
    torch.save(inner, tmp_path / "raw.pth")
    torch.save(autoencoder(state), tmp_path / "mae_checkpoint_3.pth")
    files = {"mae": tmp_path / "mae_checkpoint_3.pth", "encoder": tmp_path / "raw.pth"}
    for kind, file in files.items():
        assert recognise(file) == kind
        encoder = load_original(file)
        assert isinstance(encoder, ReferenceEncoder)
        assert torch.equal(encoder.positions, model.encoder.positions)


def test_files_are_recognised(state: State, mode: str, tmp_path: Path) -> None:
    file = save(tmp_path / "a.pth", state, epoch=4)
    assert recognise(file) == "model"
    facts = describe(file)
    assert (facts["outer_mode"], facts["tasks"], facts["epochs finished"]) == (mode, sorted(TASKS), 4)
    assert recognise({"format": "xecml-checkpoint", "model_state": {}}) is None
    torch.save({"model_state_dict": {"layer.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    assert recognise(tmp_path / "other.pth") is None
    with pytest.raises(InputError, match="it holds layer"):
        load_original(tmp_path / "other.pth")


def test_constants_come_from_the_caller_then_the_file(state: State, mode: str) -> None:
    config = {"outer_mode": mode, "npho_scale": 2.0, "time_shift": np.float64(0.25), "mask_ratio": 0.6}
    loaded = load_original("a.pth", autoencoder(state, config), normalization={"time_shift": 0.75})
    assert isinstance(loaded, ReferenceEncoder)
    constants = loaded.normaliser
    assert (float(constants.npho_scale), float(constants.time_shift)) == (2.0, 0.75)
    assert float(constants.time_scale) == pytest.approx(6.5e-8)


# -------------------------------------------------------------------------- what files of that system say of themselves

POOLS = ([2, 2], [3, 3], [5, 2], (4, 5), None)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_the_outer_grid_is_pooled_as_by_the_network_of_that_time(pool: Any) -> None:
    """What does not fill a cell at the end is not seen: of 45 rows pooled by 2 the last."""
    normaliser, (npho, time) = Normaliser(**RELATIVE_DEFAULTS), events("finegrid", 2)
    masks = validity(npho, time)
    pair = tuple(pool) if pool else None
    views, whole = (OriginalViews(normaliser, outer_mode="finegrid", outer_fine_pool=p) for p in (pair, None))
    (grid,), (cells,) = (v(npho, time, *masks).outer for v in (views, whole))
    wanted = torch.nn.functional.avg_pool2d(cells.permute(0, 3, 1, 2), pair or 1).permute(0, 2, 3, 1)
    assert grid.shape[1:3] == wanted.shape[1:3] == (45 // (pool or (1, 1))[0], 72 // (pool or (1, 1))[1])
    torch.testing.assert_close(grid, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pool", [[2, 2], (3, 3), None], ids=str)
def test_the_flat_configuration_of_an_autoencoder_is_read(pool: Any) -> None:
    state, (npho, time) = recipe("finegrid"), events("finegrid", 2)
    config = {"outer_mode": "finegrid", "outer_fine_pool": pool, "mask_ratio": 0.6}
    content, silent = autoencoder(state, config), autoencoder(state)
    found, other = (load_original("mae.pth", c) for c in (content, silent))
    masks = validity(npho, time)
    with torch.no_grad():
        tokens, default = (e.eval().tokens(npho, time, *masks) for e in (found, other))  # type: ignore[operator]
    own = original(Normaliser(**RELATIVE_DEFAULTS), outer_fine_pool=tuple(pool) if pool else None).eval()
    own.load_state_dict(found.state_dict())
    with torch.no_grad():
        assert torch.equal(tokens, own.tokens(npho, time, *masks))
    away = relative(tokens, default)
    assert away == 0 if pool == (3, 3) else away > 0.1
    facts = describe("mae.pth", content)
    assert facts["outer_fine_pool"] == (str(list(pool)) if pool else "none")
    assert facts["kind"] == "original masked autoencoder: gives its encoder"
    assert describe("none.pth", silent)["outer_fine_pool"] == "[3, 3], since the file does not say"


def test_a_start_takes_the_recipe_of_the_file_and_no_other(tmp_path: Path) -> None:
    config = {"outer_mode": "finegrid", "outer_fine_pool": [2, 2], "mask_ratio": 0.6}
    file, silent = tmp_path / "mae.pth", tmp_path / "silent.pth"
    torch.save(autoencoder(recipe("finegrid"), config), file)
    for pool, right in (("[2, 2]", True), ("[3, 3]", False), ("null", False)):
        ours = further(f"model.outer_fine_pool={pool}")
        network = build_regressor(ours)
        if right:
            assert start(network, resuming(ours, file), kind="regress", tasks=["angle"]).encoder_given
        else:
            with pytest.raises(InputError, match=r"an outer grid of \(22, 36\) cells and the recipe one of"):
                start(network, resuming(ours, file), kind="regress", tasks=["angle"])
    # what a file does not say is the recipe's
    torch.save(autoencoder(recipe("finegrid")), silent)
    ours = further("model.outer_fine_pool=[5, 2]")
    assert start(build_regressor(ours), resuming(ours, silent), kind="regress", tasks=["angle"]).encoder_given


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"outer_fine_pool": [2, "2"]}, "'config.outer_fine_pool.1': input should be a valid integer"),
        ({"outer_fine_pool": [0, 2]}, "'config.outer_fine_pool.0': input should be greater than or equal to 1"),
        ({"outer_fine_pool": [50, 2]}, "larger than the fine grid"),
        ({"outer_mode": "split"}, "says outer_mode split, and has the tokens of finegrid"),
        ({"npho_scale": float("nan")}, "'config.npho_scale': input should be"),
        ({"time_scale": -1.0}, "'config.time_scale': input should be greater than 0"),
        ([3, 3], "'config': input should be a valid dictionary"),
    ],
)
def test_a_wrong_configuration_is_named(config: Any, said: str) -> None:
    content = autoencoder(recipe("finegrid"), config)
    for use in (load_original, describe):
        with pytest.raises(InputError, match=said):
            use("mae.pth", content)


def test_weights_that_are_no_finite_numbers_are_named(state: State, mode: str, tmp_path: Path) -> None:
    name = "backbone.backbone.stem.0.weight"
    for value in (float("nan"), float("inf")):
        spoiled = state[name].clone()
        spoiled[0, 0, 0, 0] = value
        with pytest.raises(InputError, match="weights that are no finite numbers: encoder.faces.stem.0.weight"):
            load_original("a.pth", {"model_state_dict": state | {name: spoiled}})
    sparse = state | {name: state[name].to_sparse()}
    assert recognise(save(tmp_path / "a.pth", sparse)) == "model"
    with pytest.raises(InputError, match=f"{name} is sparse"):
        load_original(tmp_path / "a.pth")


def test_an_inpainter_of_that_time_is_refused_by_name(tmp_path: Path) -> None:
    config = {"outer_mode": "finegrid", "outer_fine_pool": [3, 3], "mask_ratio": 0.05, "freeze_encoder": True}
    content = autoencoder({name: torch.zeros(1) for name in old_shapes("finegrid")}, config)
    content["model_state_dict"]["head_inner.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(
        InputError, match="an inpainter of an older version of the replaced system, which this version does not read"
    ):
        xecml.load_model(tmp_path / "a.pth")


def test_the_old_geometry_is_as_it_was() -> None:
    assert coarse_map().shape == (9, 24)
    table = hex_neighbours()
    assert int((table >= 0).sum()) == 431
    # an even row's node 1 hears its right neighbour through the step to the left, and so on
    assert table[1].tolist()[:3] == [1, 2, 0]


# ------------------------------------------------------------------------------------ the way through the commands


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = untrained(recipe("finegrid"), "energy", "timing", "n_gamma")
    return save(tmp_path_factory.mktemp("file") / "old.pth", state)


@pytest.fixture(scope="module")
def relative_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events with relative branches alone, as the old network takes them."""
    chunk = point_sources(48, seed=4, dead=0.02)
    names = ("relative_npho", "relative_time")
    chunk |= dict(zip(names, relative_quantities(chunk.pop("npho"), chunk.pop("time")), strict=True))
    path = tmp_path_factory.mktemp("events") / "relative.root"
    rootio.write(path, {k: v.astype(np.float32) if k in names else v for k, v in chunk.items()})
    return path


def columns(path: Path) -> dict[str, np.ndarray]:
    with rootio.open_tree(path, "predictions") as reader:
        return reader.arrays(sorted(reader.in_file), 0, reader.n_events)


@pytest.mark.slow
def test_an_old_file_is_evaluated_exported_and_predicted(
    old_file: Path, relative_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    xec = Xec(monkeypatch, capsys)
    assert xec.json("info", old_file)["layout"] == "original"
    assert xec.json("info", old_file)["tasks"] == ["angle", "angleVec", "uvwFI"]
    first = next(rootio.read(relative_file, ["relative_npho", "relative_time", "emiAng"], chunk_events=48))
    inputs = first["relative_npho"], first["relative_time"]
    wanted = xecml.load_model(old_file).predict(*inputs)
    report = xec.json("evaluate", old_file, relative_file, "--out", tmp_path / "out")
    bias = report["evaluations"][0]["figures"]["theta"]["all"]["bias"]
    assert bias == pytest.approx(float((wanted["angle"] - first["emiAng"])[:, 0].mean()), rel=1e-4)
    assert (tmp_path / "out" / "resolution.pdf").stat().st_size > 10_000
    exported = xec.json("export", old_file, tmp_path / "old.onnx")
    assert exported["tasks"] == ["angle", "uvwFI", "angleVec"]
    for model in (old_file, tmp_path / "old.onnx"):
        assert xec.json("predict", model, relative_file, "--out", tmp_path / "p.root")["events"] == 48
        table = columns(tmp_path / "p.root")
        for name, answer in (("theta", wanted["angle"][:, 0]), ("w", wanted["uvwFI"][:, 2])):
            np.testing.assert_allclose(table[f"pred_{name}"], answer, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(table["pred_emiVec"], wanted["angleVec"], atol=1e-4)
        assert "pred_energy" not in table


# ---------------------------------------------------------------------------------------------- trained further


def further(*settings: str) -> Config:
    options = ("model.layout=original", "data.npho_branch=relative_npho", "data.time_branch=relative_time")
    return load_config(None, (*options, *settings))


def resuming(config: Config, path: Path) -> Config:
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"resume_from": str(path)})})


def test_heads_keep_their_answers_when_targets_are_fitted(old_file: Path) -> None:
    """Of the trained heads: those of other tasks begin anew, and a head that gives widths too keeps its answers."""
    tasks = ("uvwFI", "angleVec", "energy")
    config = further(*(f"tasks.{t}.enabled=true" for t in tasks[:2]), "tasks.uvwFI.loss_fn=gaussian_nll")
    torch.manual_seed(0)
    ours = build_regressor(config).eval()
    names = list(ours.tasks)
    begin = start(ours, resuming(config, old_file), kind="regress", tasks=names)
    assert begin.line == (
        f"Took the encoder and the heads of angle, uvwFI, angleVec of {old_file} (original layout); "
        "epoch 1, a new optimizer."
    )
    assert (begin.resumed, begin.encoder_given, begin.targets_given) == (None, True, False)
    truth = {t: 50 * torch.randn(500, TASKS[t].size) + 20 for t in names}
    ours.fit_targets(torch.zeros(500, 0), torch.zeros(500), truth, keep_features=True)
    assert float(ours.get_buffer("angle_width").min()) > 40
    npho, time = events("finegrid")
    with torch.no_grad():
        was, now = (m(npho, time, *validity(npho, time)) for m in (load(old_file), ours))
    for task in ("angle", "uvwFI"):
        # float32 of numbers as large as the mean
        assert float((now[task] - was[task]).abs().max()) < 1e-5 * 50
    # the direction of a vector is kept; ours is a unit vector
    torch.testing.assert_close(now["angleVec"], torch.nn.functional.normalize(was["angleVec"]), rtol=1e-3, atol=1e-3)
    assert now["sigma_uvwFI"].shape == (3, 3)


def test_heads_that_were_not_trained_begin_anew(old_file: Path, tmp_path: Path) -> None:
    config = further("tasks.n_gamma={enabled: true, loss_fn: cross_entropy}")
    n_gamma = build_regressor(config)
    before = n_gamma.heads["n_gamma"].state_dict()["0.weight"].clone()
    line = start(n_gamma, resuming(config, old_file), kind="regress", tasks=list(n_gamma.tasks)).line
    assert line.endswith("heads of n_gamma from scratch.")
    assert torch.equal(n_gamma.heads["n_gamma"].state_dict()["0.weight"], before)
    inner = {k.removeprefix("backbone."): w for k, w in recipe("finegrid").items() if k.startswith("backbone.")}
    single = save(tmp_path / "single.pth", inner)
    assert "Took the encoder of" in start(n_gamma, resuming(config, single), kind="regress", tasks=["angle"]).line


def test_an_old_file_that_does_not_fit_is_named(old_file: Path) -> None:
    for settings, message in (
        (("model.layout=standard", "model.preset=reference"), "set model.layout=original"),
        (("model.outer_mode=split",), r"positions is \(1, 6, 1024\) instead of \(1, 7, 1024\)"),
        (("model.hidden_dim=128",), r"the configured head of angle: 0.weight is \(256, 6144\) instead of"),
    ):
        with pytest.raises(InputError, match=message):
            config = further(*settings)
            start(build_regressor(config), resuming(config, old_file), kind="regress", tasks=["angle"])


@pytest.mark.slow
def test_training_further_begins_at_the_answers_of_the_old_file(
    old_file: Path, relative_file: Path, tmp_path: Path
) -> None:
    """With a rate so small that no weight moves, what a training leaves answers as the file did."""
    paths = [f"data.{k}_path={relative_file}" for k in ("train", "val")]
    config = further(*paths, "tasks.uvwFI.enabled=true", "training.lr=1e-12", "training.lr_min=0", "training.epochs=1",
                     "training.amp=false", "data.batch_size=24", f"checkpoint.resume_from={old_file}",
                     f"checkpoint.save_dir={tmp_path}", "mlflow.enabled=false", "mlflow.tensorboard=null")  # fmt: skip
    best = loop.train(config, name="further", quiet=True).best
    events_ = next(rootio.read(relative_file, ["relative_npho", "relative_time"], chunk_events=48))
    was, now = (xecml.load_model(p).predict(*events_.values()) for p in (old_file, best))
    for task in ("angle", "uvwFI"):
        assert np.abs(now[task] - was[task]).max() < 1e-5 * 90  # of float32 numbers as large as their mean
