"""The measurement of GPUs: its tables and its budget, and the whole of it at a tiny size without a GPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    """Modules of the benchmark, which import one another as a script's do."""
    names = ("gpu_tables", "gpu_steps", "gpu_checks", "gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


# ------------------------------------------------------------------------------------------------------------ tables


def test_memory_is_a_straight_line_and_batches_are_what_fits(bench: dict[str, Any]) -> None:
    tables = bench["gpu_tables"]
    rows = [{"batch": b, "peak_memory_bytes": 2e9 + 3e6 * b} for b in (256, 1024, 4096)]
    fixed, an_event = tables.memory_law([*rows, {"batch": 8192, "failed": "out of memory"}])
    assert (fixed, an_event) == (pytest.approx(2e9), pytest.approx(3e6))
    assert tables.memory_law(rows[:1]) is None
    assert tables.memory_law([{"batch": 8, "events_per_s": 1.0}] * 3) is None
    # 0.9 x 40 GB less 2 GB are 34 GB, which is 11333 events of 3 MB
    assert tables.largest_batch(2e9, 3e6, 40) == 8192
    assert tables.largest_batch(2e9, 3e6, 80) == 16384
    assert tables.largest_batch(2e9, 34e9, 40) == 1
    assert tables.largest_batch(2e9, 35e9, 40) == 0
    assert tables.largest_batch(0.0, 1.0, 80) == 65_536  # no recipe has more


def found(**parts: Any) -> dict[str, Any]:
    machine = {
        "device": "A Card", "date": "2026-11-30", "torch": "2.13.0", "cuda": "13.0", "driver": "570.1",
        "architecture": "aarch64", "cores": 72, "small": False,
    }  # fmt: skip
    empty = {name: [] for name in ("training", "agreement", "resume", "reading", "prediction", "not_measured")}
    return {"machine": machine, "matrix": {"bf16": 5e14}, "seconds": 400.4, "budget_s": 420.0} | empty | parts


def test_tables_say_what_was_found_and_what_failed(bench: dict[str, Any]) -> None:
    case = {"preset": "compact", "job": "mae", "precision": "bf16"}
    training = [
        case | {"batch": b, "compiled": False, "events_per_s": 1e5 * b, "share_of_matrix_rate": 0.5,
                "peak_memory_bytes": 1e9 + 1e6 * b}
        for b in (256, 1024)
    ] + [case | {"batch": 256, "compiled": True, "failed": "no | compiler"}]  # fmt: skip
    exact = {p: {"loss": 1e-6, "gradient": 2e-5} for p in ("float32", "tf32", "bf16")}
    text = bench["gpu_tables"].markdown(
        found(
            training=training,
            agreement=[{"preset": "compact", "job": "mae", "agrees": False, **exact}],
            resume=[{"preset": "compact", "job": "mae", "algorithms": "-", "failed": "gone"}],
            not_measured=["mae large"],
        )
    )
    lines = text.splitlines()
    assert lines[0] == "# A Card"
    assert "PyTorch 2.13.0, CUDA 13.0, driver 570.1, aarch64, 72 processors; took 400 s of at most 420." in lines[2]
    assert "| compact | mae | 256 |  |  | 25,600,000 (50 %) |  |  | no \\| compiler |" in lines
    assert "| compact | mae | 1000 | 1.00 | 32,768 | 65,536 | 65,536 | 65,536 |" in lines
    assert "| compact | mae | NO | 1.0e-06 | 2.0e-05 | 1.0e-06 | 2.0e-05 | 1.0e-06 | 2.0e-05 |" in lines
    assert "| compact | mae | - | gone |  |  |" in lines
    assert lines[-1] == "- mae large"
    assert "The whole loop" not in text  # of which nothing was measured


# ------------------------------------------------------------------------------------------------------------ budget


def test_what_would_not_fit_is_left_out_and_listed(bench: dict[str, Any]) -> None:
    now = [0.0]
    budget = bench["gpu"].Budget(100.0, clock=lambda: now[0])

    def takes(seconds: float) -> Any:
        def call() -> str:
            now[0] += seconds
            return "done"

        return call

    assert budget.run("agreement", "agreement", "one", takes(5.0)) == "done"  # until 20 of 100 s
    assert budget.run("agreement", "agreement", "two", takes(20.0)) == "done"
    assert budget.run("agreement", "agreement", "three", takes(1.0)) is None  # at 25 s
    assert budget.run("compiled", "compiling", "four", takes(30.0)) == "done"
    assert budget.run("compiled", "compiling", "five", takes(30.0)) == "done"
    assert budget.run("compiled", "compiling", "six", takes(1.0)) is None  # 15 s are left, the last one took 30
    assert budget.run("compiled", "others", "seven", takes(1.0)) == "done"
    assert (budget.missed, budget.spent()) == (["three", "six"], 86.0)


def test_a_measurement_that_goes_on_for_ever_is_interrupted(bench: dict[str, Any]) -> None:
    budget = bench["gpu"].Budget(1.5)

    def for_ever() -> None:
        try:
            while True:
                sum(range(1000))
        except Exception:  # as compilers do
            pytest.fail("the end of the budget was taken for an error")

    with budget.enforced():
        assert budget.run("compiled", "compiling", "long", for_ever) is None
        assert budget.run("compiled", "compiling", "short", lambda: "done") is None
    assert budget.missed == ["long (begun)", "short"]


def test_out_of_memory_is_a_result_and_other_failures_are_not(bench: dict[str, Any]) -> None:
    reason = bench["gpu_steps"].reason
    assert reason(torch.OutOfMemoryError("CUDA out of memory. Tried ...")) == "out of memory"
    assert reason(RuntimeError("no kernel\nmore")) == "no kernel"
    assert reason(RuntimeError("")) == "RuntimeError"
    run = object.__new__(bench["gpu"].Bench)
    run.found = found(
        training=[{"failed": "out of memory"}, {"failed": "no kernel"}],
        agreement=[{"preset": "base", "job": "mae", "agrees": False}, {"preset": "base", "job": "mae", "agrees": True}],
        prediction=[{"failed": f"ONNX Runtime has no provider; {bench['gpu_checks'].ADVICE}"}],
    )
    assert run.failures() == ["no kernel", "mae base disagrees"]


def test_states_are_compared_to_the_bit(bench: dict[str, Any]) -> None:
    difference = bench["gpu_checks"].difference
    one = {"a": [torch.ones(2), 1, 2.0], "b": {"c": torch.zeros(0)}}
    assert difference(one, {"a": [torch.ones(2), 1, 2.0], "b": {"c": torch.zeros(0)}}) == 0.0
    assert difference(one, {"a": [torch.tensor([1.0, 1.5]), 1, 2.0], "b": {"c": torch.zeros(0)}}) == 0.5
    for other in ({"a": one["a"]}, {**one, "a": one["a"][:2]}, {**one, "b": {"c": 0}}, {**one, "a": 1}):
        assert difference(one, other) == float("inf")


# ------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.slow
@pytest.mark.long
def test_without_a_gpu_all_of_it_runs_at_a_tiny_size(tmp_path: Path) -> None:
    """Every part, with every job, as a GPU would be measured; on one processor it agrees with itself to the bit."""
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--out", str(tmp_path), "--minutes", "60"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    said = json.loads((tmp_path / "gpu.json").read_text())
    assert (said["machine"]["small"], said["not_measured"]) == (True, [])
    assert (tmp_path / "gpu.md").read_text() in done.stdout

    jobs, precisions = {"regress", "mae", "inpaint"}, {"float32", "tf32", "bf16"}
    assert said["matrix"].keys() == precisions
    rows = said["training"]
    assert not [row for row in rows if "failed" in row]
    assert all(row["events_per_s"] > 0 and 0 < row["share_of_matrix_rate"] < 1 for row in rows)
    cases = {(row["job"], row["precision"], row["batch"], row["compiled"]) for row in rows}
    assert cases >= {(job, p, batch, False) for job in jobs for p in precisions for batch in (8, 16)}
    assert cases >= {(job, p, 16, True) for job in jobs for p in precisions}
    assert all(row["compile_s"] > 0 for row in rows if row["compiled"])

    assert {row["job"] for row in said["agreement"]} == jobs
    for row in said["agreement"]:
        assert row["agrees"]
        assert (row["float32"]["loss"], row["float32"]["gradient"]) == (0.0, 0.0)
        assert 0 < row["bf16"]["gradient"] < 0.2  # another arithmetic, and no other function
    assert {(row["job"], row["algorithms"]) for row in said["resume"]} == {
        *((job, "as usual") for job in jobs), ("regress", "deterministic"),
    }  # fmt: skip
    for row in said["resume"]:
        assert (row["stopped_by"], row["twice_the_same"], row["bit_for_bit"]) == ("SIGUSR1", True, True)
    assert {(row["job"], row["from"]) for row in said["reading"]} == {
        (job, kind) for job in ("regress", "mae") for kind in ("shards", "ROOT")
    }
    assert all(row["events_per_s"] > 0 and 0 <= row["waiting_percent"] < 100 for row in said["reading"])
    assert {row["by"] for row in said["prediction"]} == {
        "PyTorch, float32", "PyTorch, bf16", "ONNX Runtime, CPUExecutionProvider",
    }  # fmt: skip
    assert all(row["events_per_s"] > 0 for row in said["prediction"])


def test_a_gpu_that_is_not_there_is_a_sentence(
    bench: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cuda"])
    assert bench["gpu"].main() == 2
    assert "sees no GPU here; 'xec info --system' says what there is." in capsys.readouterr().err
