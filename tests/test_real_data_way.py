"""The page on real data is executed: its commands, in order, from look-alike rec files to plots."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import point_sources
from xecml import geometry, rootio
from xecml.cli import main
from xecml.recipes import load_config
from xecml.simulation.settings import load_settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "real_data.md").read_text(encoding="utf-8")
SMALLER = {"-n 6000": "-n 768", "-n 3000": "-n 320"}


def commands() -> list[str]:
    return [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> str:
    if command.startswith("python "):
        script = command.replace("python examples", f"{sys.executable} {ROOT}/examples")
        done = subprocess.run(shlex.split(script), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert not ended.value.code, f"{command}\n{captured.err}"
    return captured.out


def test_the_look_alike_is_what_the_page_says() -> None:
    settings = load_settings("reallike")
    rows, columns = np.divmod(np.array(settings.dead_sensors), 44)
    assert (set(rows), set(columns)) == ({40, 41, 42, 43}, {10, 11, 12, 13})
    dead = round(settings.dead_fraction * geometry.N_SENSORS) + settings.dead_cluster_size + len(settings.dead_sensors)
    assert dead / geometry.N_SENSORS == pytest.approx(0.03, abs=2e-4)
    assert settings.response.gain_spread == 0.05
    assert settings.response.time_model != load_settings("simulation").response.time_model


def test_rec_files_hold_the_truth_smeared(tmp_path: Path) -> None:
    events = point_sources(600, seed=7)
    events["run"] = np.repeat([5, 6], 300).astype(np.int32)
    rootio.write(tmp_path / "truth.root", events)
    make = [sys.executable, str(ROOT / "examples" / "rec_files.py"), str(tmp_path / "truth.root"), "--out"]
    subprocess.run([*make, str(tmp_path / "rec")], check=True, capture_output=True)
    assert sorted(p.name for p in (tmp_path / "rec").iterdir()) == ["rec000005.root", "rec000006.root"]
    again = subprocess.run([*make, str(tmp_path / "rec")], check=False, capture_output=True, text=True)
    assert (again.returncode, "exists; name another folder" in again.stderr) == (1, True)
    subprocess.run([*make, str(tmp_path / "one"), "--run", "99"], check=True, capture_output=True)
    names = ["Info.event", "xeccl.npho", "xecposlfit.xyz[3]", "reco.EGamma", "xectimefit.time"]
    (rec,) = rootio.read(tmp_path / "one" / "rec000099.root", names, tree="rec", chunk_events=600)
    np.testing.assert_array_equal(rec["Info.event"], np.arange(600))
    np.testing.assert_array_equal(rec["xeccl.npho"], events["npho"])
    off = geometry.uvw_from_xyz(rec["xecposlfit.xyz[3]"]) - events["uvwTruth"]
    # four errors of a width of 600 events
    np.testing.assert_allclose(off.std(0), [0.25, 0.25, 0.5], rtol=4 / np.sqrt(1200))
    assert (rec["reco.EGamma"] / events["energyTruth"]).std() == pytest.approx(0.0185, rel=0.15)
    assert (rec["xectimefit.time"] - events["timeTruth"]).std() == pytest.approx(65e-12, rel=0.12)


@pytest.mark.slow
def test_the_commands_of_the_page_run(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("conditions.yaml").write_text(block)
    shown = commands()
    assert {c.split()[1] for c in shown if c.startswith("xec ")} == {
        "simulate", "prepare", "check", "inpaint", "predict", "evaluate",
    }  # fmt: skip
    assert load_config("tiny").training.epochs < 5
    train = (
        f"xec train regress --config tiny --train_path {sample}/train.root --val_path {sample}/val.root --name first"
    )
    run(monkeypatch, capsys, f"{train} --epochs 2")
    said = {}
    for command in shown:
        for large, small in SMALLER.items():
            command = command.replace(large, small)
        said[command] = run(monkeypatch, capsys, command)
    table = next(text for command, text in said.items() if "xec evaluate" in command)
    assert "Stability by run" in table
    assert "edge at 52.83 MeV" in table
    found = json.loads(Path("plots/evaluation.json").read_text())["real_data"]
    drift = found["quantities"]["energy_relative"]["by_run"]["checkpoint_best.pth"]
    assert drift["first"] == list(range(430000, 430006))
    assert found["conditions"]["dead"] == [0, 0, 0, 16, 16, 16]
    assert found["quantities"]["theta"]["by_run"].keys() == {"checkpoint_best.pth", "without_repair.root"}
    lines = json.loads(Path("pi0_plots/evaluation.json").read_text())["real_data"]["spectra"]
    assert {(one["true_energy"], one["predictor"]) for one in lines} == {
        (energy, name) for energy in (54.9, 82.9) for name in ("checkpoint_best.pth", "reconstruction")
    }
    reconstructed = [one for one in lines if one["predictor"] == "reconstruction"]
    assert all(abs(one["scale"] - 1) < 5 * one["scale_error"] for one in reconstructed)
    assert Path("plots/real_data.pdf").read_bytes().startswith(b"%PDF")
    (events,) = rootio.read("repaired.root", ["dead", "inpainted", "run"], chunk_events=10_000)
    assert events["dead"][:, 1770].all()
    board = events["dead"][:, 2660]
    np.testing.assert_array_equal(board, events["run"] >= 430003)
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(snippet, "docs/real_data.md", "exec"), {})
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ["theta", "phi"]
    assert "s68 without_repair" in printed
    # nothing is filled but what is dead
    assert not (events["inpainted"] & ~events["dead"].astype(bool)).any()
