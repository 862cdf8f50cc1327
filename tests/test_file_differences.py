"""`xec diff`: what changed between two prediction files, where most, and an exit status that says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.test_metrics import prediction_table
from xecml import rootio
from xecml.cli.commands import app
from xecml.errors import InputError

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def table() -> Columns:
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in prediction_table(300).items()}


def diff(folder: Path, first: Columns, second: Columns, *words: str) -> Result:
    for name, columns in (("a", first), ("b", second)):
        rootio.write(folder / f"{name}.root", columns, tree="predictions")
    return CliRunner().invoke(app, ["diff", str(folder / "a.root"), str(folder / "b.root"), *words])


def test_equal_files_are_equal_whatever_their_order(table: Columns, tmp_path: Path) -> None:
    silent = table | {"pred_u": np.where(np.arange(300) < 9, np.nan, table["pred_u"]).astype(np.float32)}
    turned = {k: v[::-1] for k, v in silent.items()}
    for other in (silent, turned):
        result = diff(tmp_path, silent, other)
        assert result.exit_code == 0, result.output
        assert "15 of 15 columns are the same, in 300 events of both." in result.output


def test_changes_are_named_with_the_event_of_the_largest(table: Columns, tmp_path: Path) -> None:
    changed = {k: v.copy() for k, v in table.items()}
    changed["pred_u"][[7, 100]] += np.float32(0.25), np.float32(-0.5)
    changed["pred_theta"][3] = np.nan
    changed["xyzVTX"][11, 2] += 1.0
    result = diff(tmp_path, table, changed, "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert not found["equal"]
    rows = {row["name"]: row for row in found["changed"]}
    assert set(rows) == {"pred_u", "pred_theta", "xyzVTX"}
    assert (rows["pred_u"]["events"], rows["pred_u"]["in_one"]) == (2, 0)
    assert rows["pred_u"]["largest"] == pytest.approx(-0.5, abs=1e-5)
    assert rows["pred_u"]["relative"] == pytest.approx(0.5 / table["pred_u"].std(), rel=1e-3)
    assert rows["pred_u"]["where"] == "run 3 event 100"
    assert rows["pred_u"]["first"] == pytest.approx(float(table["pred_u"][100]))
    assert (rows["pred_theta"]["in_one"], rows["pred_theta"]["largest"]) == (1, None)
    assert rows["xyzVTX"]["where"] == "run 3 event 11 [2]"
    told = diff(tmp_path, table, changed)
    assert re.search(r"pred_u\s+2\s+0\s+-0\.5\s", told.output)
    assert "12 of 15 columns are the same" in told.output


def test_a_tolerance_forgives_rounding_and_no_more(table: Columns, tmp_path: Path) -> None:
    rounded = table | {"pred_u": table["pred_u"] * np.float32(1 + 1e-6)}
    assert diff(tmp_path, table, rounded).exit_code == 1
    assert diff(tmp_path, table, rounded, "--tolerance", "1e-5").exit_code == 0
    assert diff(tmp_path, table, table | {"pred_u": table["pred_u"] * 1.01}, "--tolerance", "1e-5").exit_code == 1


def test_other_columns_and_events_are_differences(table: Columns, tmp_path: Path) -> None:
    fewer = {k: v[2:] for k, v in table.items() if k != "pred_w"} | {"outlier": np.ones(298, np.float32)}
    result = diff(tmp_path, table, fewer)
    assert result.exit_code == 1
    assert "Only the first has 2 events: run 3 event 0, run 3 event 1." in result.output
    assert "Only the first has the column pred_w." in result.output
    assert "Only the second has the column outlier." in result.output
    assert "in 298 events of both" in result.output


def test_bad_input_is_one_sentence(table: Columns, tmp_path: Path) -> None:
    elsewhere = table | {"run": table["run"] + 1}
    repeated = {k: np.concatenate([v, v[:1]]) for k, v in table.items()}
    for other, message in (
        (elsewhere, "no event in common"),
        (repeated, "b.root repeats run and event numbers"),
        (table | {"xyzVTX": table["xyzVTX"][:, :2]}, "'xyzVTX' has"),
        ({k: v[:0] for k, v in table.items()}, "b.root holds no events"),
    ):
        error = diff(tmp_path, table, other).exception
        assert isinstance(error, InputError), message
        assert message in str(error)
    error = CliRunner().invoke(app, ["diff", str(tmp_path / "none.root"), str(tmp_path / "a.root")]).exception
    assert isinstance(error, InputError)
    assert "No such file" in str(error)
