"""The benchmark of physics: its samples, refusals, numbers, tables and page, on tiny inputs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmark_modules import modules
from tests.test_metrics import prediction_table
from xecml.errors import InputError
from xecml.evaluation.tables import residuals
from xecml.resolution import peak, s68
from xecml.simulation.generate import simulate
from xecml.simulation.settings import make_settings

NAMES = (
    "yardstick_blocks", "yardstick", "physics_samples", "physics_methods", "physics_numbers", "physics_page",
    "physics_text", "physics",
)  # fmt: skip
Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    with modules(NAMES) as found:
        yield found


@pytest.fixture(scope="module")
def tables() -> dict[str, Columns]:
    """Three methods; the second misses more than the first, the third is the first."""
    first = prediction_table(3000)
    rng = np.random.default_rng(1)
    wider = {
        name: first[name] + rng.normal(0, scale, len(first["run"]))
        for name, scale in (("pred_u", 0.5), ("pred_energy", 0.003), ("pred_theta", 10.0))
    }
    return {"net": first, "trees 1,000": first | wider, "same": dict(first)}


@pytest.fixture(scope="module")
def sample(bench: dict[str, Any], tables: dict[str, Columns]) -> dict[str, Any]:
    found = bench["physics_numbers"].measured(tables, [("net", "trees 1,000"), ("net", "same"), ("net", "absent")])
    about = {"label": "signal photons, 52.8 MeV", "kind": "signal", "seed": 7, "varied": False, "line_mev": 52.8}
    return dict(found | about)


# ------------------------------------------------------------------------------------------------------------ numbers


def test_figures_are_those_of_the_package_in_every_bin(sample: dict[str, Any], tables: dict[str, Columns]) -> None:
    assert sample["n"] == 3000
    assert list(sample["events"]) == ["all", "w < 2 cm", "w 2-10 cm", "w > 10 cm"]
    assert sum(n for name, n in sample["events"].items() if name != "all") == 3000
    deep = tables["net"]["true_w"] >= 10
    found = sample["figures"]["trees 1,000"]["u"]["w > 10 cm"]
    assert found["s68"] == pytest.approx(s68(residuals(tables["trees 1,000"], "u")[deep]))
    assert {"bias", "fwhm", "tail", "s68_error"} <= found.keys()


def test_differences_are_paired_by_depth_and_know_what_is_equal(sample: dict[str, Any]) -> None:
    assert [(pair["first"], pair["second"]) for pair in sample["pairs"]] == [("net", "trees 1,000"), ("net", "same")]
    wider, same = (pair["bins"] for pair in sample["pairs"])
    assert list(wider) == list(sample["events"])
    for depth, rows in wider.items():
        named = {(d["quantity"], d["figure"]): d for d in rows}
        u = named["u", "s68"]
        assert u["second"] > u["first"], depth
        assert named["energy / truth", "FWHM/2.355"]["second"] > named["energy / truth", "FWHM/2.355"]["first"]
    assert next(d for d in wider["all"] if (d["quantity"], d["figure"]) == ("u", "s68"))["more_than_chance"]
    assert all(d["difference"] == 0 for rows in same.values() for d in rows)


def test_the_error_of_a_core_is_that_of_the_same_events(bench: dict[str, Any]) -> None:
    """Nearly equal answers differ by much less than two samples of such events would."""
    one = prediction_table(4000)
    other = one | {"pred_energy": one["pred_energy"] * (1 + np.random.default_rng(2).normal(0, 0.002, 4000))}
    (found,) = bench["physics_numbers"].core(one, other)
    cores = [peak(residuals(table, "energy_relative"))[1] for table in (one, other)]
    assert [found["first"], found["second"]] == pytest.approx(cores)
    assert 0 < found["error"] < 0.1 * found["first"]
    assert (
        bench["physics_numbers"].core({n: v[:20] for n, v in one.items()}, {n: v[:20] for n, v in other.items()}) == []
    )


def test_a_line_is_where_it_is(bench: dict[str, Any]) -> None:
    numbers = bench["physics_numbers"]
    rng = np.random.default_rng(3)
    lines = []
    for truth in (0.0176, 0.0549):
        energy = np.full(2000, truth)
        lines.append({"true_energy": energy, "pred_energy": energy * 1.004 * rng.normal(1, 0.01, 2000)})
    found = numbers.line_of(lines[1], None)
    assert found["mean"] == pytest.approx(0.4, abs=4 * found["mean_error"])
    assert found["mode"] == pytest.approx(0.4, abs=4 * found["mode_error"])
    assert numbers.line_of({n: v[:10] for n, v in lines[0].items()}, None) == {}
    slope = numbers.slope_of_lines(lines)
    assert slope["slope"] == pytest.approx(1.004, abs=4 * slope["slope_error"])
    assert numbers.slope_of_lines([{"true_energy": energy}]) is None
    assert [numbers.verdict(*pair) for pair in ((0.0, 0.01), (0.4, 0.05), (0.1, 0.05), (None, 0.1))] == [
        "yes", "no", "undecided", "not known",
    ]  # fmt: skip


def test_the_slope_of_peaks_is_that_of_their_energies(bench: dict[str, Any]) -> None:
    numbers, page = bench["physics_numbers"], bench["physics_page"]
    low = {"line_mev": 17.6, "line": {"peak": 0.5, "peak_error": 0.02}}
    high = {"line_mev": 54.9, "line": {"peak": 0.5, "peak_error": 0.02}}
    found = numbers.slope_of_peaks(low, high)
    assert found["slope"] == pytest.approx(1.005)
    assert found["shift"] == pytest.approx(264.0)
    assert found["slope_error"] == pytest.approx(2e-4 * np.hypot(17.6, 54.9) / 37.3)
    assert numbers.slope_of_peaks(low | {"line": {}}, high) is None
    means = {name: {"slope": 0.97, "slope_error": 1e-3, "shift": -1.0, "shift_error": 0.02} for name in ("a", "b")}
    rows = page.slope_of_lines_table(means, {"a": found}).splitlines()
    assert rows[2] == "| a | 0.500 ± 0.031 | no | 264 ± 10 | -3.00 ± 0.10 | -1000 ± 20 |"
    assert rows[3] == "| b | - | not known | - | -3.00 ± 0.10 | -1000 ± 20 |"


# --------------------------------------------------------------------------------------------------------------- page


def test_tables_say_what_was_measured(bench: dict[str, Any], sample: dict[str, Any]) -> None:
    page = bench["physics_page"]
    text = page.figures_table(sample, "u")
    head, _, *rows = text.splitlines()
    assert head == (
        f"| method | w < 2 cm ({sample['events']['w < 2 cm']}) | w 2-10 cm ({sample['events']['w 2-10 cm']}) | "
        f"w > 10 cm ({sample['events']['w > 10 cm']}) | all (3000) |"
    )
    assert [row.split(" | ")[0] for row in rows] == ["| net", "| trees 1,000", "| same"]
    bias, half, core, tail = rows[0].rstrip(" |").split(" | ")[-1].split(" / ")
    figures = sample["figures"]["net"]["u"]["all"]
    assert float(half.split(" ± ")[0]) == pytest.approx(figures["s68"], abs=2 * figures["s68_error"])
    assert float(core) == pytest.approx(figures["fwhm"], rel=0.01)
    assert float(tail) == pytest.approx(100 * figures["tail"], abs=0.06)
    assert abs(float(bias) - figures["bias"]) < 2 * figures["bias_error"]
    assert page.figures_table(sample, "n_gamma") == ""
    # one that answers no such quantity has no row
    without = sample | {"figures": sample["figures"] | {"net": {}}}
    assert "net" not in page.figures_table(without, "u")


def test_a_difference_above_chance_is_bold(bench: dict[str, Any], sample: dict[str, Any]) -> None:
    text = bench["physics_page"].pair_table(sample["pairs"][0])
    (u,) = [line for line in text.splitlines() if line.startswith("| u, s68")]
    assert u.count("**") >= 2
    assert u.split(" | ")[-1].startswith("**+")
    (w,) = [line for line in text.splitlines() if line.startswith("| w, s68")]
    assert "**" not in w


def test_the_page_is_whole_and_says_what_is_missing(
    bench: dict[str, Any], sample: dict[str, Any], tmp_path: Path
) -> None:
    methods = {
        name: {"name": name, "kind": "signal", "said": f"what {name} is"} for name in ("net", "trees 1,000", "same")
    }
    further = sample | {"label": "line of 54.9 MeV", "line_mev": 54.9}
    result = {"samples": {"signal": sample, "line54": further}, "methods": methods}
    result |= {"slope_of_lines": {}, "slope_of_peaks": {}}
    path = tmp_path / "performance.md"
    text = bench["physics_text"].page(result, path, argparse.Namespace())
    assert "there are fewer of signal photons, 52.8 MeV (3,000)" in text
    assert "The presets `base`, `large`, `reference`: no model" in text
    assert "the most here are 1,000" in text
    for head in ("# Performance", "## Signal photons, 52.8 MeV", "## Lines and linearity", "trees 1,000 against net:"):
        assert head in text, head
    for name in ("performance.png", "performance_lines.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).stat().st_size > 10_000
    assert max(len(line) for line in text.splitlines() if line[:1] not in ("|", "!")) <= 120
    short = bench["physics_numbers"].in_short(result["samples"])
    row = json.loads(json.dumps(short))["signal"]["methods"]["net"]
    assert row["u"]["s68"] == pytest.approx(sample["figures"]["net"]["u"]["all"]["s68"], rel=1e-4)
    assert row["opening_angle"]["q68"] == pytest.approx(sample["opening"]["net"]["all"]["q68"], rel=1e-4)


# ------------------------------------------------------------------------------------------------ samples and methods


def test_seeds_and_names_are_of_one_sample_each(bench: dict[str, Any]) -> None:
    samples = bench["physics_samples"].SAMPLES
    seeds = [one.seed for one in samples] + list(bench["physics_methods"].TRAINING_SEEDS.values())
    assert len(set(seeds)) == len(seeds)
    assert [one.line for one in samples if one.name.startswith("line")] == [17.6, 54.9, 82.9]
    assert {one.kind for one in samples} == {"signal", "decoupled"}
    assert sum(one.varied for one in samples) == 2


@pytest.mark.slow
def test_a_method_that_was_trained_on_a_sample_is_refused(bench: dict[str, Any], tmp_path: Path) -> None:
    refuse = bench["physics_samples"].refuse_trained_on
    settings = make_settings({"vertex": "decoupled", "map_quality": "quick"})
    for name, seed in (("test", 1), ("copy", 1), ("other", 2)):
        simulate(tmp_path / f"{name}.root", 64, settings=settings, seed=seed)
    test = tmp_path / "test.root"
    refuse(test, "net", [tmp_path / "other.root", tmp_path / "gone.root", "gone/*.root"])
    for name in ("test", "copy"):
        with pytest.raises(InputError, match=f"net was trained on .*{name}.root, which holds the test events"):
            refuse(test, "net", [tmp_path / "other.root", tmp_path / f"{name}.root"])
    with pytest.raises(InputError, match="net was trained on"):
        refuse(test, "net", [tmp_path / "*.root"])


def test_a_sample_is_not_made_twice_and_not_taken_for_another(bench: dict[str, Any], tmp_path: Path) -> None:
    samples = bench["physics_samples"]
    varied = samples.SAMPLES[-1]
    path = samples.make(varied, 64, tmp_path)
    before = path.stat().st_mtime_ns
    assert samples.make(varied, 64, tmp_path).stat().st_mtime_ns == before
    record = path.with_suffix(".json")
    said = json.loads(record.read_text())
    assert (said["seed"], said["settings"]["vary"]["events_per_detector"]) == (varied.seed, 64)
    record.write_text(json.dumps(said | {"seed": 5}))
    with pytest.raises(InputError, match="is of other settings"):
        samples.make(varied, 64, tmp_path)


def test_words_of_the_command_line_are_checked(bench: dict[str, Any], tmp_path: Path) -> None:
    physics, methods = bench["physics"], bench["physics_methods"]
    with pytest.raises(InputError, match="no sample 'line99'"):
        physics.chosen_samples("signal line99")
    assert [one.name for one in physics.chosen_samples("line17, signal")] == ["signal", "line17"]
    assert physics.sizes("51200 10000") == [10_000, 51_200]
    with pytest.raises(InputError, match="--trees takes"):
        physics.sizes("many")
    for text in ("model.pth", "a@muon=b.pth", "=b.pth"):
        with pytest.raises(InputError, match="NAME=MODEL"):
            methods.network(text, 1)
    with pytest.raises(InputError, match="no shipped model 'sygnal'"):
        methods.network("a=pretrained:sygnal", 1)
    options = physics.parser().parse_args(["-n", "0", "--trees", "", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="at least 1 event"):
        physics.run(options)
    families = {"conventional (signal)": "conventional", "trees 10,000": "trees", "net": "network", "b": "network"}
    assert physics.rivals(list(families), "signal", families) == [
        ("net", "conventional (signal)"), ("net", "trees 10,000"), ("net", "b"),
    ]  # fmt: skip
    assert physics.rivals(["trees 10,000"], "signal", families) == []


@pytest.mark.slow
def test_the_whole_of_it_at_a_tiny_size_is_resumed(bench: dict[str, Any], tmp_path: Path) -> None:
    """Two samples without trees: page, pictures, numbers; a second run makes no prediction again."""
    physics = bench["physics"]
    words = ["-n", "192", "--trees", "", "--samples", "signal line54", "--out", str(tmp_path), "--jobs", "1"]
    page = physics.run(physics.parser().parse_args(words))
    assert page == tmp_path / "performance.md"
    every = json.loads((tmp_path / "performance_all.json").read_text())
    signal = every["samples"]["signal"]
    assert signal["n"] == 192
    assert list(signal["figures"]) == ["conventional (signal)", "conventional (decoupled)", "compact"]
    # a network beside the conventional reconstruction, on the same photons
    assert (
        signal["figures"]["compact"]["timing"]["all"]["s68"]
        < signal["figures"]["conventional (signal)"]["timing"]["all"]["s68"]
    )
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()}
    assert len(made) == 6
    text = page.read_text()
    physics.run(physics.parser().parse_args(words))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()} == made
    assert page.read_text() == text
    with pytest.raises(InputError, match="Two models are called 'compact'"):
        physics.run(physics.parser().parse_args([*words, "compact=pretrained:signal"]))
