"""The small programs of examples/python: each is run as its readers run it, and what it says is checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.untrained import regression
from xecml import rootio
from xecml.demo import SEEDS
from xecml.events import valid_counts
from xecml.inference.predict import predict_files
from xecml.inference.trained_model import load_model
from xecml.resolution import s68
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings, parse_energy

FOLDER = Path(__file__).parents[1] / "examples"
PROGRAMS = FOLDER / "python"
pytestmark = pytest.mark.slow


def run(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-W", "error::UserWarning", PROGRAMS / name, *arguments]
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_program_is_listed_and_tested() -> None:
    listed = set(re.findall(r"examples/python/(\w+\.py)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in PROGRAMS.glob("*.py")} == listed == tested


def test_reading(sample: Path, tmp_path: Path) -> None:
    said = run("read.py", sample / "test.root", cwd=tmp_path)
    assert said.startswith("256 events, ")
    shares = [float(found) for found in re.findall(r"([\d.]+) % of the light", said)]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=0.4)
    (npho,) = (chunk["npho"] for chunk in rootio.read(sample / "test.root", ["npho"]))
    light = np.where(valid_counts(npho), npho, 0)
    assert shares[0] == pytest.approx(100 * light[:, :4092].sum() / light.sum(), abs=0.06)


def test_plotting(sample: Path, tmp_path: Path) -> None:
    run("plot.py", sample / "test.root", tmp_path / "light.png", cwd=tmp_path)
    for name in ("light.png", "light_event.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG"), name
        assert (tmp_path / name).stat().st_size > 10_000, name


def test_training(sample: Path, tmp_path: Path) -> None:
    paths = (sample / "train.root", sample / "val.root")
    said = run("train.py", *paths, "mine", "tiny", "training.epochs=1", cwd=tmp_path)
    assert (tmp_path / "artifacts" / "mine" / "checkpoint_best.pth").exists()
    found = dict(re.findall(r"^ *(\w+): ([\d.e+]+)$", said, re.MULTILINE))
    quantities = ("theta_s68_deg", "energy_s68_MeV", "timing_s68_ps", "u_s68_mm", "v_s68_mm", "w_s68_mm")
    assert tuple(found) == quantities
    # what one epoch of a toy reaches on points of light is a few cm; the sample is 13 cm wide (s68 of u is 150 mm)
    assert float(found["u_s68_mm"]) < 60


def test_predicting_and_comparing(sample: Path, tmp_path: Path) -> None:
    events = sample / "test.root"
    models = [regression(tmp_path / f"{name}.pth", "model.preset=tiny", events=events_seen)
              for name, events_seen in (("a", 1200), ("b", 600))]  # fmt: skip
    said = run("predict.py", models[0], events, tmp_path / "mine.root", cwd=tmp_path)
    assert "mean energy" in said
    (mine,) = rootio.read(tmp_path / "mine.root", ["run", "event"], tree="mine")
    assert len(mine["run"]) == 256
    for model, name in zip(models, "ab", strict=True):
        predict_files(load_model(model), [events], tmp_path / f"{name}.root")
    with rootio.open_tree(tmp_path / "mine.root", "mine") as tree:
        assert {"energy_MeV", "u_mm"} <= set(tree.in_file)
    said = run("compare.py", tmp_path / "a.root", tmp_path / "b.root", cwd=tmp_path)
    assert said.startswith("256 events in both files")
    from xecml.evaluation.tables import read_table

    row = re.search(r"^u +(\S+) +(\S+) +(\S+) \+- (\S+) mm$", said, re.MULTILINE)
    assert row, said
    first, second, difference, error = map(float, row.groups())
    for found, name in ((first, "a"), (second, "b")):
        table = read_table(tmp_path / f"{name}.root")
        assert found == pytest.approx(10 * s68(table["pred_u"].astype(float) - table["true_u"]), rel=0.01)
    assert difference == pytest.approx(first - second, abs=0.02 * first)
    assert 0 < error < first


@pytest.mark.parametrize(("sample_name", "option", "seed_of"), [("mono", "52.8", "mono"), ("wide", "15:60", "test")])
def test_the_benchmark_sample_is_the_one_of_the_page(
    sample_name: str, option: str, seed_of: str, tmp_path: Path
) -> None:
    """Its first events, made as its page says, have the hash that stands there; so have those of `make demo`."""
    page = (FOLDER.parent / "docs" / "benchmark.md").read_text(encoding="utf-8")
    seed = SEEDS[seed_of]
    assert f"xec simulate {sample_name}.root -n 4000 --energy {option} --seed {seed}\n" in page
    demo = {"relative_branches": False, "run": seed}
    for name, events, more in (("first", 256, {}), ("demo", 256, demo), ("longer", 300, {})):
        settings = make_settings({"energy_mev": parse_energy(option)} | more)
        simulate(tmp_path / f"{name}.root", events, settings=settings, seed=seed)
    chunks = list(rootio.read(tmp_path / "longer.root", ["event", "npho", "energyTruth", "uvwTruth"]))
    first = {name: np.concatenate([chunk[name] for chunk in chunks])[:256] for name in chunks[0]}
    rootio.write(tmp_path / "cut.root", first)
    said = run("fingerprint.py", "first.root", "demo.root", "cut.root", cwd=tmp_path)
    hashes = re.findall(r": 256 events, ([0-9a-f]{16}), (\d+) photons, w [\d.]+ cm", said)
    assert len(hashes) == 3
    assert len(set(hashes)) == 1
    row = re.search(
        rf"^\| {sample_name}, first 256 events \| 256 \| `([0-9a-f]{{16}})` \| ([\d,]+) photons", page, re.M
    )
    assert row
    # the hash is of rounded numbers; a processor that rounds otherwise may count a few photons of a million otherwise
    assert hashes[0][0] == row[1], "the simulation has changed: make the table of the page anew"
    assert int(hashes[0][1]) == pytest.approx(int(row[2].replace(",", "")), rel=1e-5)
