"""Forms of exported graphs: operators, opsets, packed input, encoders, 16 and 8 bits, and what each says of itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import xecml
from tests.conftest import point_sources
from tests.untrained import analogue_events, rebuilding, regression
from xecml import rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.inference import onnx_files
from xecml.inference.example_events import analogue, example_events
from xecml.inference.export import TOLERANCE, Report, export
from xecml.inference.export_graphs import small_expm1
from xecml.inference.export_precision import Losses
from xecml.inference.export_subjects import pack
from xecml.inference.onnx_files import packed_names
from xecml.models.normalise import ABSOLUTE_DEFAULTS, RELATIVE_DEFAULTS, Normaliser

# what a runtime must know to run a compact network, and how often: less is fine, more wants a look
OPERATORS = {
    "Abs": 5, "Add": 150, "And": 45, "ArgMax": 1, "Atan": 2, "AveragePool": 4, "Cast": 45, "Clip": 70, "Concat": 75,
    "Conv": 6, "Cos": 2, "CumSum": 3, "Div": 135, "Erf": 8, "Exp": 3, "Expand": 10, "Floor": 1, "Gather": 20,
    "GatherElements": 9, "Gemm": 16, "Greater": 12, "GreaterOrEqual": 40, "IsNaN": 2, "LayerNormalization": 9,
    "Less": 34, "LessOrEqual": 1, "Log": 22, "MatMul": 36, "Max": 4, "Min": 3, "Mod": 1, "Mul": 190, "Neg": 7,
    "Pad": 20, "Pow": 24, "Reciprocal": 1, "ReduceMax": 4, "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 180, "Relu": 6,
    "Reshape": 45, "Shape": 9, "Sign": 1, "Sin": 2, "Slice": 230, "Sqrt": 13, "Squeeze": 40, "Sub": 55, "Tanh": 4,
    "Transpose": 18, "Unsqueeze": 210, "Where": 24,
}  # fmt: skip
TASKS = ("angle", "energy", "timing", "uvwFI")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return regression(folder / "tiny.pth", "model.preset=tiny")


@pytest.fixture(scope="module")
def report(checkpoint: Path) -> Report:
    return export(checkpoint, checkpoint.with_suffix(".onnx"))


def refused(said: str, *arguments: object, **options: object) -> None:
    with pytest.raises(InputError, match=said):
        export(*arguments, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ without any export


def test_what_cannot_be_exported_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    refused(r"Opset 6 cannot be written; choose one from 18 to 22", checkpoint, out, opset=6)
    refused(r"Opset 99 cannot be written", checkpoint, out, opset=99)
    refused(
        r"The loss of int8 is measured on events; name event files with --sample", checkpoint, out, precision="int8"
    )
    refused(r"--sample measures the loss of a lower precision", checkpoint, out, sample=["some.root"])
    refused(
        r"Unknown precision 'flot16' \(did you mean 'float16'\?\)", checkpoint, out, precision="flot16", sample=["a"]
    )
    refused(
        r"An encoder predicts no task; leave --tasks or --encoder out", checkpoint, out, tasks=["angle"], encoder=True
    )
    rootio.write(tmp_path / "empty.root", {k: v[:0] for k, v in point_sources(2).items()})
    refused("holds no events", checkpoint, out, precision="int8", sample=[tmp_path / "empty.root"])
    inpaint = rebuilding(tmp_path / "i.pth", "inpaint", "model.preset=tiny")
    refused(r"no packed form; leave --packed out, or add --encoder", inpaint, out, packed=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.root", "i.pth"]


@pytest.mark.parametrize("constants", [ABSOLUTE_DEFAULTS, RELATIVE_DEFAULTS])
def test_packed_values_are_those_of_the_specification(constants: dict[str, float]) -> None:
    npho, time = np.float32([[10.0, 1e10, 0.0, 500.0]]), np.float32([[1e-8, 2e-8, 3e-8, 1e10]])
    packed = pack(Normaliser(**constants), npho, time)
    assert packed.shape == (1, 4, 2)
    scale, shift = constants["time_scale"], constants["time_shift"]
    counts = np.log1p(np.array([10, 0, 0, 500]) / constants["npho_scale"]) / constants["npho_scale2"]
    np.testing.assert_allclose(packed[0, :, 0], counts, rtol=1e-6)
    np.testing.assert_allclose(packed[0, :, 1], [1e-8 / scale - shift, -5, -5, -5], rtol=1e-5)


def test_small_counts_keep_their_digits() -> None:
    x = torch.cat([torch.logspace(-7, 1, 400), torch.tensor([0.0, 0.4999, 0.5, 0.5001])])
    np.testing.assert_allclose(small_expm1(x).numpy(), np.expm1(x.double().numpy()), rtol=4e-7)


def test_names_of_packed_outputs() -> None:
    assert packed_names(["angle", "energy"], ["angle", "energy"]) == {
        "angle": "output_angle",
        "energy": "output_energy",
    }
    assert packed_names(["energy", "sigma_energy"], ["energy"]) == {"energy": "output", "sigma_energy": "output_sigma"}
    assert packed_names(["code"], []) == {"code": "output"}


def test_analogue_counts_lie_on_no_limit() -> None:
    npho, _ = example_events(3)
    changed = analogue(npho)
    lit = (npho > 0) & (npho < 9e9)
    assert (changed[~lit] == npho[~lit]).all()
    assert np.abs(changed[lit] / npho[lit] - 1).std() > 0.005
    assert (changed[lit] == np.round(changed[lit])).mean() < 0.01


def test_losses_are_quantiles_and_numbers_that_vanish_are_refused() -> None:
    losses = Losses(lambda feed, ours, theirs: {"energy": np.abs(ours["energy"] - theirs["energy"])})
    for part in np.split(np.arange(1000.0), 4):
        losses.add({"npho": part}, {"energy": part}, {"energy": np.zeros(250)})
    found = losses.by_answer("int8")["energy"]
    assert losses.events == 1000
    assert found.within == pytest.approx(679.32, abs=0.01)
    assert found.largest == 999
    losses.add({"npho": np.zeros(1)}, {"energy": np.array([np.inf])}, {"energy": np.zeros(1)})
    with pytest.raises(InputError, match="In int8 the model has no answer for energy where float32 has one"):
        losses.by_answer("int8")


# --------------------------------------------------------------------------------------------------- exported


@pytest.mark.slow
def test_operators_are_those_that_old_runtimes_have(report: Report) -> None:
    assert report.opset == 18
    proto = onnx.load(report.out)
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 8
    found = Counter(node.op_type for node in proto.graph.node)
    assert found.keys() <= OPERATORS.keys()
    assert {name: n for name, n in found.items() if n > OPERATORS[name]} == {}
    shaped = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    kinds = {value.type.tensor_type.elem_type for value in shaped.graph.value_info}
    kinds |= {tensor.data_type for tensor in proto.graph.initializer}
    assert kinds <= {getattr(onnx.TensorProto, name) for name in ("FLOAT", "INT64", "BOOL", "UINT8")}  # no float64
    # nothing of how it was made: names of files and lines
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert b".py" not in Path(report.out).read_bytes()


@pytest.mark.long
@pytest.mark.slow
def test_an_opset_that_cannot_be_had_is_said(checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["export", str(checkpoint), str(tmp_path / "e.onnx"), "--tasks", "energy", "--packed", "--opset", "17"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "Opset 17 was asked for, but PyTorch's exporter writes none below 18: the file has opset 18" in done.output
    session = onnxruntime.InferenceSession(tmp_path / "e.onnx")
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [("input", "tensor(float)", [4760, 2])]
    assert [o.name for o in session.get_outputs()] == ["output"]
    npho, time = analogue_events(40, 3)
    model = xecml.load_model(checkpoint)
    (found,) = session.run(["output"], {"input": pack(model.network.encoder.normaliser, npho, time)})  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, model.predict(npho, time)["energy"], rtol=1e-4)


@pytest.mark.slow
def test_packed_graphs_answer_as_raw_ones(checkpoint: Path, tmp_path: Path) -> None:
    done = export(checkpoint, tmp_path / "packed.onnx", packed=True)
    assert max(done.largest_difference.values()) < TOLERANCE
    session = onnxruntime.InferenceSession(done.out)
    assert [o.name for o in session.get_outputs()] == [f"output_{task}" for task in TASKS]
    said = session.get_modelmeta().custom_metadata_map
    assert said["xecml.form"] == "packed"
    assert json.loads(said["xecml.units"])["output_energy"] == "GeV"
    assert "log1p(npho / npho_scale) / npho_scale2" in said["xecml.input"]
    npho, time = analogue_events(60, 4)
    npho[0], time[1] = 1e10, 1e10
    model = xecml.load_model(checkpoint)
    packed = pack(model.network.encoder.normaliser, npho, time)  # type: ignore[attr-defined]
    wanted = model.predict(npho, time)
    for task, found in zip(TASKS, session.run(None, {"input": packed}), strict=True):
        width = model.network.get_buffer(f"{task}_width").numpy().reshape(found.shape[1:])  # type: ignore[attr-defined]
        assert (np.isnan(found) == np.isnan(wanted[task])).all()
        away = np.nan_to_num(np.abs(found - wanted[task])) / width
        assert np.quantile(away, 0.9) < 1e-3  # normalised times of 32 bits are good to 4 fs
    with pytest.raises(InputError, match="takes packed, normalised values, .* export the model without --packed"):
        xecml.load_model(done.out)
    assert "packed" in CliRunner().invoke(app, ["info", str(done.out)]).output


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "worst"), [("float16", 0.02), pytest.param("int8", 0.5, marks=pytest.mark.long)])
def test_sixteen_and_eight_bits_state_their_loss(
    checkpoint: Path, report: Report, precision: str, worst: float, tmp_path: Path
) -> None:
    rootio.write(tmp_path / "sample.root", point_sources(300, seed=5, dead=0.02))
    done = export(checkpoint, tmp_path / "m.onnx", precision=precision, sample=[tmp_path / "sample.root"])
    assert done.loss_events == 300
    assert set(done.loss) == {*TASKS, "outlier"}
    assert done.bytes < report.bytes - 1.5 * 112_000  # bytes of the matrices' numbers
    proto = onnx.load(done.out)
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", 18)]
    assert proto.ir_version == 8
    model, exact = xecml.load_model(done.out), xecml.load_model(report.out)
    events = point_sources(300, seed=5, dead=0.02)
    ours, theirs = (m.predict(events["npho"], events["time"]) for m in (exact, model))
    for task in TASKS:
        width = xecml.load_model(checkpoint).network.get_buffer(f"{task}_width").numpy()  # type: ignore[attr-defined]
        away = (np.abs(ours[task] - theirs[task]) / width.reshape(ours[task].shape[1:])).reshape(300, -1).max(1)
        assert done.loss[task].within == pytest.approx(np.quantile(away, 0.68), rel=0.05)
        assert done.loss[task].largest == pytest.approx(away.max(), rel=0.05)
        assert 1e-6 < done.loss[task].within < worst
    said = model.metadata  # type: ignore[attr-defined]
    assert said["xecml.precision"] == precision
    assert json.loads(said["xecml.loss"])["by_answer"]["energy"]["largest"] == pytest.approx(
        done.loss["energy"].largest, rel=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mae", pytest.param("inpaint", marks=pytest.mark.long)])
def test_encoders_of_other_models(kind: str, tmp_path: Path) -> None:
    path = rebuilding(tmp_path / f"{kind}.pth", kind, "model.preset=tiny")
    done = export(path, tmp_path / "encoder.onnx", encoder=True)
    assert done.tasks == ("encoder",)
    session, said = onnx_files.open_onnx(done.out)
    assert isinstance(said, onnx_files.EncoderMetadata)
    npho, time = analogue_events(9, 5)
    (code,) = session.run(["code"], {"npho": npho, "time": time})
    assert code.shape == (9, said.encodes)
    assert np.isfinite(code).all()
    assert code.std(0).max() > 1e-3  # it sees the event
    with pytest.raises(InputError, match="is an encoder and predicts nothing"):
        xecml.load_model(done.out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            ("model.preset=reference", "model.outer_mode=split", "model.hex_mixing=attention"), marks=pytest.mark.long
        ),
        pytest.param(
            ("model.preset=reference", "model.validity_channel=true", "model.outer_fine_pool=null"),
            marks=pytest.mark.long,
        ),
        ("model.layout=original", "data.npho_branch=relative_npho", "data.time_branch=relative_time"),
    ],
)
def test_large_networks_of_every_layout(settings: tuple[str, ...], tmp_path: Path) -> None:
    """As regressions in raw form, and of the original layout as encoders in packed form, as older code takes them."""
    relative = settings[0].endswith("original")
    path = regression(tmp_path / "large.pth", *settings, events=64, tasks=("angle", "uvwFI") if relative else TASKS)
    done = export(path, tmp_path / "m.onnx", packed=relative, encoder=relative)
    assert max(done.largest_difference.values()) < TOLERANCE
    assert onnx.load(done.out).ir_version == 8
