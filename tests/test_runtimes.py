"""The same answers from the runtimes that run exported files: old and new ONNX Runtime, OpenVINO, and node's."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import runtimes
from tests.untrained import analogue_events, regression
from xecml.inference.export import export
from xecml.inference.trained_model import TorchModel, load_model
from xecml.models.normalise import validity
from xecml.models.regressor import Regressor

pytestmark = pytest.mark.slow
TASKS = ("angle", "energy", "timing", "uvwFI")
EVENTS = 256

# each reads npho.f32 and time.f32 and writes <task>.f32
PYTHON = """
import sys
import numpy as np
model, folder, *tasks = sys.argv[1:]
feed = {n: np.fromfile(f"{folder}/{n}.f32", np.float32).reshape(-1, 4760) for n in ("npho", "time")}
"""
ONNXRUNTIME = (
    PYTHON
    + """
import onnxruntime
assert onnxruntime.__version__ == "1.15.1", onnxruntime.__version__
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
for task, values in zip(tasks, session.run(tasks, feed)):
    values.tofile(f"{folder}/{task}.f32")
"""
)
OPENVINO = (
    PYTHON
    + """
import openvino
# by default it computes in 16 bits where the processor can
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
found = compiled(feed)
for task in tasks:
    np.asarray(found[task], np.float32).tofile(f"{folder}/{task}.f32")
"""
)
WEB = """
const ort = require("onnxruntime-web");
const fs = require("fs");
const [model, folder, ...tasks] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const read = (name) => {
  const bytes = fs.readFileSync(`${folder}/${name}.f32`);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
};
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(model));
  const feed = {};
  for (const name of ["npho", "time"]) {
    const values = read(name);
    feed[name] = new ort.Tensor("float32", values, [values.length / 4760, 4760]);
  }
  const found = await session.run(feed);
  for (const task of tasks) {
    const values = found[task].data;
    fs.writeFileSync(`${folder}/${task}.f32`, Buffer.from(values.buffer, values.byteOffset, values.byteLength));
  }
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtimes")
    return export(regression(folder / "tiny.pth", "model.preset=tiny"), folder / "tiny.onnx").out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, values in zip(("npho", "time"), analogue_events(EVENTS, 7), strict=True):
        values.tofile(tmp_path / f"{name}.f32")
    return tmp_path


def answers(folder: Path, *command: str | Path, cwd: Path | None = None) -> dict[str, np.ndarray]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=900, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {task: np.fromfile(folder / f"{task}.f32", np.float32) for task in TASKS}


def answers_of_torch(network: Regressor, dtype: torch.dtype) -> dict[str, np.ndarray]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        npho, time = (torch.from_numpy(values).to(dtype) for values in analogue_events(EVENTS, 7))
        with torch.no_grad():
            found = copy.deepcopy(network).to(dtype)(npho, time, *validity(npho, time))
    finally:
        torch.set_default_dtype(before)
    return {task: found[task].numpy().reshape(EVENTS, -1) for task in TASKS}


def assert_alike(model: Path, found: dict[str, np.ndarray]) -> None:
    """As near the answers in double precision as PyTorch is in single precision, in units of the target width.

    Half of the events agree to some millionths; those whose light is far from any a photon sends come off by up to a
    thousandth in every runtime, PyTorch included, so that runtimes are not compared with one another.
    """
    opened = load_model(model.with_suffix(".pth"))
    assert isinstance(opened, TorchModel)
    network = opened.network
    assert isinstance(network, Regressor)
    exact, single = (answers_of_torch(network, dtype) for dtype in (torch.float64, torch.float32))
    for task in TASKS:
        width = network.get_buffer(f"{task}_width").numpy().reshape(1, -1)
        away, usual = (
            (np.abs(some.reshape(EVENTS, -1) - exact[task]) / width).max(1) for some in (found[task], single[task])
        )
        assert np.isfinite(away).all()
        parts = (0.5, 0.9, 0.98, 1)
        assert (np.quantile(away, parts) < 4 * np.quantile(usual, parts) + 2e-5).all(), task


def test_onnx_runtime_of_2023(model: Path, folder: Path, pytestconfig: pytest.Config) -> None:
    python = runtimes.old_onnxruntime(pytestconfig.cache)  # type: ignore[arg-type]
    assert_alike(model, answers(folder, python, "-c", ONNXRUNTIME, model, folder, *TASKS))


def test_openvino(model: Path, folder: Path, pytestconfig: pytest.Config) -> None:
    python = runtimes.python_with(pytestconfig.cache, "openvino", runtimes.OPENVINO)  # type: ignore[arg-type]
    assert_alike(model, answers(folder, python, "-c", OPENVINO, model, folder, *TASKS))


def test_onnx_runtime_of_browsers_under_node(model: Path, folder: Path, pytestconfig: pytest.Config) -> None:
    modules = runtimes.node_modules(pytestconfig.cache)  # type: ignore[arg-type]
    (modules / "run.js").write_text(WEB)
    assert_alike(model, answers(folder, "node", modules / "run.js", model, folder, *TASKS, cwd=modules))
