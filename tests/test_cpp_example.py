"""The C++ programs of examples/cpp: built with CMake, run on events, their answers equal to Python's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import runtimes
from tests.test_prepare_root import INTERPRETER, needs_root
from tests.untrained import analogue_events, regression
from xecml import rootio
from xecml.inference.export import export
from xecml.inference.trained_model import OnnxModel, TorchModel, load_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "cpp"
COLUMNS = "event angle[0] angle[1] energy timing uvwFI[0] uvwFI[1] uvwFI[2] outlier"  # as the exported file has them
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("cmake") and (shutil.which("c++") or shutil.which("g++"))),
        reason="building the C++ example needs cmake and a C++ compiler",
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpp")
    return export(regression(folder / "tiny.pth", "model.preset=tiny"), folder / "tiny.onnx").out


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A folder with `predict`."""
    return built(tmp_path_factory.mktemp("build"), pytestconfig, "predict")


def built(folder: Path, config: pytest.Config, program: str, *settings: str) -> Path:
    include = runtimes.headers(config.cache)  # type: ignore[arg-type]
    run("cmake", "-S", EXAMPLE, "-B", folder, f"-DONNXRUNTIME_INCLUDE={include}", *settings)
    run("cmake", "--build", folder, "--target", program)
    return folder


def run(*command: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == status, done.stderr + done.stdout
    return done


def table(text: str) -> tuple[list[str], np.ndarray]:
    """Numbers of the events, and their answers (events, columns)."""
    first, *rows = text.splitlines()
    assert first == COLUMNS
    cells = [row.split() for row in rows]
    return [row[0] for row in cells], np.array([row[1:] for row in cells], np.float64)


def assert_as_python_says(model: Path, npho: np.ndarray, time: np.ndarray, found: np.ndarray) -> None:
    """Equal to 1e-5 of the target width, and a unit in the last place of a float32."""
    exported, network = OnnxModel(model), load_model(model.with_suffix(".pth"))
    assert isinstance(network, TorchModel)
    # an event at a time, as the program does
    answers = [exported.predict(npho[i : i + 1], time[i : i + 1]) for i in range(len(npho))]
    names = [*network.tasks, "outlier"]
    wanted = np.stack([np.concatenate([np.ravel(one[name]) for name in names]) for one in answers])
    widths = [np.ravel(network.network.get_buffer(f"{task}_width").numpy()) for task in network.tasks]
    width = np.concatenate([*widths, [1.0]])
    assert (np.isnan(found) == np.isnan(wanted)).all()
    known = np.isfinite(wanted)
    away = np.abs(found - wanted)[known]
    allowed = (1e-5 * width + 2 * np.spacing(np.abs(np.where(known, wanted, 1)).astype(np.float32)))[known]
    assert (away <= allowed).all(), (away / allowed).max()


@pytest.fixture
def events(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, Path]:
    npho, time = analogue_events(12, 8)
    npho[3] = 1e10  # nothing was measured
    time[5] = 1e10
    np.stack([npho, time], 1).astype(np.float32).tofile(tmp_path / "events.f32")
    return npho, time, tmp_path / "events.f32"


def test_a_program_prints_what_python_says(
    model: Path, build: Path, events: tuple[np.ndarray, np.ndarray, Path]
) -> None:
    npho, time, path = events
    done = run(build / "predict", model, path, runtimes.wheel_library())
    numbers, found = table(done.stdout)
    assert numbers == [str(i) for i in range(12)]
    assert np.isnan(found).sum(1).tolist() == [8 if i == 3 else 1 if i == 5 else 0 for i in range(12)]
    assert_as_python_says(model, npho, time, found)
    # the library of the wheel is newer than the headers: the API is that of the older of both
    version, _, api = done.stderr.removeprefix("ONNX Runtime ").partition(", API ")
    assert version.startswith("1.")
    assert 1 <= int(api) <= int(version.split(".")[1])


def test_what_goes_wrong_is_one_sentence(
    model: Path, build: Path, events: tuple[np.ndarray, np.ndarray, Path], tmp_path: Path
) -> None:
    library, path = runtimes.wheel_library(), events[2]
    (tmp_path / "cut.f32").write_bytes(path.read_bytes()[:-4])
    for arguments, said in (
        ((model, tmp_path / "cut.f32", library), "ends within an event"),
        ((model, tmp_path / "none.f32", library), "Cannot read"),
        ((tmp_path / "none.onnx", path, library), "none.onnx"),
        ((model, path, tmp_path / "none.so"), "ONNX Runtime cannot be loaded"),
        ((model, path, "libc.so.6"), "is not ONNX Runtime"),
    ):
        done = run(build / "predict", *arguments, status=2)
        assert said in done.stderr
        assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert run(build / "predict", model, status=2).stderr.startswith("usage: ")


@needs_root
def test_a_program_reads_root_files(
    model: Path, events: tuple[np.ndarray, np.ndarray, Path], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    npho, time, _ = events
    numbers = {"run": np.full(12, 5, np.int32), "event": np.arange(100, 112, dtype=np.int32)}
    rootio.write(tmp_path / "events.root", {"npho": npho, "time": time, **numbers})
    where = "import pathlib, ROOT; print(pathlib.Path(ROOT.__file__).parent)"
    prefix = run(INTERPRETER or sys.executable, "-c", where).stdout.split()[-1]
    build = built(tmp_path / "build", pytestconfig, "predict_root", f"-DROOT_PREFIX={prefix}")
    done = run(build / "predict_root", model, tmp_path / "events.root", runtimes.wheel_library())
    names, found = table(done.stdout)
    assert names == [f"5/{i}" for i in range(100, 112)]
    assert_as_python_says(model, npho, time, found)
    library = runtimes.wheel_library()
    assert (
        "no tree 'other'"
        in run(build / "predict_root", model, tmp_path / "events.root", library, "other", status=2).stderr
    )
