"""Devices and precisions: what a machine has is used, what it has not is one sentence; what 16 bits lose is said."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from tests import untrained
from tests.conftest import point_sources
from xecml import rootio
from xecml.cli.commands import app
from xecml.errors import InputError
from xecml.inference import arithmetic as module
from xecml.inference.arithmetic import Arithmetic, arithmetic, native_bf16, onnx_providers
from xecml.inference.inpaint import inpaint_files
from xecml.inference.precision_loss import loss_of_answers, loss_of_repairs
from xecml.inference.predict import predict_files
from xecml.inference.prediction_writers import said_of
from xecml.inference.repair_models import NetworkRepair, load_repair
from xecml.inference.trained_model import TorchModel, load_model
from xecml.models.normalise import validity
from xecml.reports import repair_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression and an inpainter of small sizes, untrained, and files of events."""
    path = tmp_path_factory.mktemp("arithmetic")
    untrained.regression(path / "model.pth", events=600)
    untrained.rebuilding(path / "repair.pth", "inpaint")
    events = point_sources(70, 3, dead=0.01)
    rootio.write(path / "events.root", events)
    dead = np.arange(4760) % 97 == 5
    rootio.write(path / "dead.root", events | {"dead": np.tile(dead, (70, 1))})
    return path


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies 16-bit numbers; others do the same more slowly."""
    monkeypatch.setattr(module, "native_bf16", lambda _: True)


def flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(module, "_CPU_FACTS", tmp_path / "cpuinfo")
    module._cpu_flags.cache_clear()
    monkeypatch.setattr(module, "_cpu_flags", module._cpu_flags.__wrapped__)


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("flags : fpu amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags : fpu avx2 avx512f avx512_vnni\nbugs : bf16\n", False),
        ("", False),
    ],
)
def test_a_processor_has_16_bits_by_its_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, native: bool
) -> None:
    flags(monkeypatch, tmp_path, text)
    assert native_bf16("cpu") is native
    if native:
        assert arithmetic("cpu", "bf16") == Arithmetic("cpu", "bf16")
    else:
        with pytest.raises(InputError, match="processor .* has no native 16-bit brain floats"):
            arithmetic("cpu", "bf16")


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert arithmetic() == arithmetic("cpu") == Arithmetic()
    with pytest.raises(InputError, match="--device cuda: PyTorch sees no GPU on this machine"):
        arithmetic("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (arithmetic().device, arithmetic("cuda").device, arithmetic("cpu").device) == ("cuda", "cuda", "cpu")
    assert (arithmetic().batch, arithmetic("cpu").batch) == (1024, 256)
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(InputError, match="this GPU has no native 16-bit"):
        arithmetic("cuda", "bf16")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"--device 'gpu' is none.*; choose one of auto, cpu, cuda"):
        arithmetic("gpu")
    with pytest.raises(InputError, match=r"--precision 'bf61' is none \(did you mean 'bf16'\?\)"):
        arithmetic("cpu", "bf61")
    with pytest.raises(InputError, match="'neighbour_mean' is no network"):
        load_repair("neighbour_mean", device="cuda")


def test_onnx_runtime_takes_a_gpu_where_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu, gpu = "CPUExecutionProvider", "CUDAExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [gpu, cpu])
    assert onnx_providers("m.onnx", "auto", "float32") == onnx_providers("m.onnx", "cuda", "float32") == [gpu, cpu]
    assert onnx_providers("m.onnx", "cpu", "float32") == [cpu]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cpu])
    with pytest.raises(InputError, match="m.onnx is not run on a GPU: the installed ONNX Runtime has no CUDA provider"):
        onnx_providers("m.onnx", "cuda", "float32")
    assert onnx_providers("m.onnx", "auto", "float32") == [cpu]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert onnx_providers("m.onnx", "auto", "float32") == [cpu]
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="computes in the precision that it was exported in"):
        onnx_providers("m.onnx", "auto", "bf16")


def test_all_of_a_network_goes_to_its_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without memory, where a tensor that stayed behind is an error: in place of a GPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device does not have
    model = load_model(folder / "model.pth")
    assert isinstance(model, TorchModel)
    network = model.network.to("meta")
    n, t = (torch.zeros(4, 4760, device="meta") for _ in range(2))
    answers, judged = network.judged(n, t, *validity(n, t))
    assert {values.device.type for values in (*answers.values(), *judged)} == {"meta"}


@pytest.mark.usefixtures("sixteen")
def test_16_bits_are_used_and_their_loss_is_measured(folder: Path, tmp_path: Path) -> None:
    model, exact = load_model(folder / "model.pth", precision="bf16"), load_model(folder / "model.pth")
    assert isinstance(model, TorchModel)
    events = next(rootio.read(folder / "events.root"))
    rough, whole = (one.predict(events["npho"], events["time"]) for one in (model, exact))
    assert {values.dtype for values in rough.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(rough["outlier"], whole["outlier"])
    assert (rough["uvwFI"] != whole["uvwFI"]).any()
    loss = loss_of_answers(model, events["npho"], events["time"])
    width = model.widths()["uvwFI"]
    away = np.abs(rough["uvwFI"] - whole["uvwFI"]) / width
    assert loss.events == 70
    assert loss.largest["uvwFI"] == pytest.approx(away.max(), rel=1e-5)
    assert loss.within["uvwFI"] == pytest.approx(np.quantile(away.max(1), 0.68), rel=1e-5)
    assert 0 < loss.within["uvwFI"] < 0.2
    report = predict_files(model, [folder / "events.root"], tmp_path / "p.root")
    assert report.loss == loss
    said = json.loads(said_of(tmp_path / "p.root", "prediction") or "")
    assert (said["loss"], said["options"]["precision"]) == (loss.as_dict(), "bf16")
    assert loss.line().startswith("bf16 against float32 on the first 70 events, in widths of the targets: 68 %")
    assert predict_files(exact, [folder / "events.root"], tmp_path / "q.root").loss is None


def test_an_answer_that_16_bits_do_not_have_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder / "model.pth")
    assert isinstance(model, TorchModel)
    events = next(rootio.read(folder / "events.root"))
    whole = model.predict(events["npho"], events["time"])
    monkeypatch.setattr(model, "predict", lambda *_: whole | {"energy": np.full(70, np.nan, np.float32)})
    with pytest.raises(InputError, match="the model has no answer for energy where float32 has one; use --precision"):
        loss_of_answers(model, events["npho"], events["time"])


@pytest.mark.usefixtures("sixteen")
def test_repairs_in_16_bits_say_what_they_lose(folder: Path, tmp_path: Path) -> None:
    repair, exact = load_repair(folder / "repair.pth", precision="bf16"), load_repair(folder / "repair.pth")
    assert isinstance(repair, NetworkRepair)
    report = inpaint_files(repair, folder / "dead.root", tmp_path / "f.root")
    events = next(rootio.read(folder / "dead.root", ["npho", "time", "dead"]))
    loss = loss_of_repairs(repair, events["npho"], events["time"], events["dead"].astype(bool))
    assert report.loss == loss
    assert 0 < loss.within["npho"] < 0.1
    assert report.as_dict()["loss"] == loss.as_dict()
    assert json.loads(rootio.read_text(tmp_path / "f.root", "precision") or "") == loss.as_dict()
    inpaint_files(exact, folder / "dead.root", tmp_path / "g.root")
    assert rootio.read_text(tmp_path / "g.root", "precision") is None
    assert repair_evaluation._loss(exact, [str(folder / "dead.root")], "tree", {}, None, None) is None
    evaluated = repair_evaluation._loss(repair, [str(folder / "dead.root")], "tree", {}, None, None)
    assert evaluated is not None
    assert (evaluated.precision, evaluated.events) == ("bf16", 70)
    # what was live passes bit for bit all the same
    found = next(rootio.read(tmp_path / "f.root", ["npho"]))["npho"]
    live = ~events["dead"].astype(bool)
    np.testing.assert_array_equal(found[live], events["npho"][live])


@pytest.mark.parametrize("jobs", [1, 3])
def test_answers_and_repairs_do_not_depend_on_the_jobs(folder: Path, tmp_path: Path, jobs: int) -> None:
    model, repair = load_model(folder / "model.pth"), load_repair(folder / "repair.pth")
    files = [folder / "events.root"] * 5
    predict_files(model, files, tmp_path / "p.root", jobs=jobs)
    inpaint_files(repair, folder / "dead.root", tmp_path / "f.root", jobs=jobs, chunk_events=20)
    events = next(rootio.read(files[0], ["npho", "time"]))
    answers = model.predict(events["npho"], events["time"])
    found = next(rootio.read(tmp_path / "p.root", ["pred_w"], tree="predictions"))["pred_w"]
    np.testing.assert_array_equal(found, np.tile(answers["uvwFI"][:, 2], 5))
    whole = next(rootio.read(folder / "dead.root", ["npho", "time", "dead"]))
    parts = [repair.fill(*(whole[n][i : i + 20] for n in ("npho", "time", "dead")))[0] for i in range(0, 70, 20)]
    filled = next(rootio.read(tmp_path / "f.root", ["npho"]))["npho"]
    np.testing.assert_array_equal(filled, np.concatenate(parts))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", "model.pth", "events.root", "--out", "p.root", "--device", "tpu"), "--device 'tpu' is none"),
        (("evaluate", "model.pth", "events.root", "--out", "e", "--precision", "half"), "--precision 'half' is none"),
        (("inpaint", "repair.pth", "dead.root", "--out", "f.root", "--precision", "fp8"), "--precision 'fp8' is none"),
        (("inpaint", "point_source", "dead.root", "--out", "f.root", "--precision", "bf16"), "is no network"),
        (("evaluate", "repair.pth", "events.root", "--out", "e", "--jobs", "2"), "--jobs is for models that predict"),
        (("evaluate", "repair.pth", "events.root", "--out", "e", "--saliency", "9"), "--saliency is for models that"),
        (("evaluate", "model.pth", "events.root", "--out", "e", "--follow", "--saliency", "9"), "is about one"),
    ],
)
def test_the_commands_refuse_what_is_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    given = [str(folder / word) if (folder / word).exists() else word for word in words]
    monkeypatch.chdir(tmp_path)
    done: Any = CliRunner().invoke(app, given)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_whose_cuda_libraries_are_missing_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lists the provider, and then silently computes without."""
    from xecml.inference import onnx_files

    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    monkeypatch.setattr(onnx_files, "check_graph", lambda _: None)
    with pytest.raises(InputError, match="no CUDA provider that works here"):
        onnx_files._session(tmp_path / "m.onnx", "cuda", "float32", 1)
    assert onnx_files._session(tmp_path / "m.onnx", "auto", "float32", 1) is session
    assert "no CUDA provider that works here" in capsys.readouterr().err
