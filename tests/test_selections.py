"""Selections: the grammar, what is unknown, and what is refused with one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import point_sources
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.geometry import is_fiducial, xyz_from_uvw
from xecml.selection_values import FUNCTIONS
from xecml.selections import Selection

EVENTS: dict[str, NDArray[Any]] = {
    "energyTruth": np.array([0.05, 0.04, INVALID, np.nan], np.float32),
    "uvwTruth": np.array([[1, 2, 3], [30, 2, 3], [1, 2, 3], [1, 2, -1]], np.float32),
    "emiAng": np.array([[90, 0], [80, 10], [INVALID, 0], [70, 20]], np.float32),
    "run": np.array([1, 2, 3, 4], np.int32),
    "good": np.array([True, False, True, False]),
}


def chosen(text: str, events: dict[str, NDArray[Any]] = EVENTS) -> list[int]:
    selection = Selection(text)
    branches = selection.branches("f.root", events.__contains__, list(events))
    masks = selection.masks({branch: events[branch] for branch in branches}, len(events["run"]))
    return np.flatnonzero(masks[-1]).tolist()


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("energyTruth > 0.045 and abs(uvwTruth[:,0]) < 23.9", [0]),
        ("0.03 < energyTruth <= 0.05", [0, 1]),
        ("(run > 1) & (run < 4)", [1, 2]),
        ("(run == 1) | (run == 4)", [0, 3]),
        ("~(run == 1)", [1, 2, 3]),
        ("run in [1, 3]", [0, 2]),
        ("run not in (1, 3)", [1, 3]),
        ("run % 2 == 0", [1, 3]),
        ("-run ** 2 + 8 > 0", [0, 1]),
        ("good", [0, 2]),
        ("not good and run != 4", [1]),
        ("good == 0", [1, 3]),
        ("any(uvwTruth > 20)", [1]),
        ("all(uvwTruth > 0)", [0, 1, 2]),
        ("count(uvwTruth > 2.5) == 1", [0, 2]),
        ("max(uvwTruth) == 30", [1]),
        ("min(run, 3) == 3", [2, 3]),
        ("sum(uvwTruth[:, 0:2]) == 3", [0, 2, 3]),
        ("mean(emiAng) == 45", [0, 1, 3]),
        ("uvwTruth[:,-1] < 0", [3]),
        ("hypot(uvwTruth[:,0], uvwTruth[:,1]) > 10", [1]),
        ("run > 0 and True", [0, 1, 2, 3]),
    ],
)
def test_what_is_selected(text: str, events: list[int]) -> None:
    assert chosen(text) == events


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("energyTruth > 0", [0, 1]),
        ("not energyTruth > 0.045", [1]),
        ("energyTruth != 0.05", [1]),  # in single precision, as the branch
        ("energyTruth > 1 or run > 0", [0, 1, 2, 3]),
        ("not (energyTruth > 1 and run > 9)", [0, 1, 2, 3]),
        ("1 / (run - 1) < 9", [1, 2, 3]),
        ("not 1 / (run - 1) < 0.9", [1]),
        ("log(run - 2) < 99", [2, 3]),
        ("sqrt(run - 2) >= 0", [1, 2, 3]),
        ("exp(1000 * run) > 0", []),
        ("10 ** 400 > run", []),
        ("measured(energyTruth)", [0, 1]),
        ("not measured(energyTruth)", [2, 3]),
        ("all(measured(emiAng))", [0, 1, 3]),
        ("any(emiAng > 75)", [0, 1]),  # of the third it is unknown
        ("all(emiAng >= 1)", [1, 3]),
        ("energyTruth in [0.04, 0.05]", [0, 1]),
        ("energyTruth not in [0.04]", [0]),
    ],
)
def test_what_is_unknown_is_not_selected(text: str, events: list[int]) -> None:
    assert chosen(text) == events


def test_the_fiducial_cut_takes_the_position_that_is_there() -> None:
    uvw = point_sources(200, 3)["uvwTruth"]
    uvw[:100, 0] *= 1.5
    run = np.arange(200, dtype=np.int32)
    wanted = np.flatnonzero(is_fiducial(uvw)).tolist()
    assert 100 < len(wanted) < 200
    assert chosen("fiducial", {"uvwTruth": uvw, "run": run}) == wanted
    assert chosen("fiducial", {"xyzTruth": xyz_from_uvw(uvw.astype(float)), "run": run}) == wanted
    assert chosen("fiducial", {"uvwRecoFI": uvw, "run": run}) == wanted
    lost = uvw.copy()
    lost[wanted[0], 1] = INVALID
    assert chosen("fiducial", {"uvwTruth": lost, "run": run}) == wanted[1:]
    outside = chosen("not fiducial", {"uvwTruth": lost, "run": run})
    assert wanted[0] not in outside
    with pytest.raises(InputError, match="no position"):
        chosen("fiducial", {"run": run})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enrgyTruth > 1", r"no branch 'enrgyTruth' \(did you mean 'energyTruth'"),
        ("fiducal", "did you mean 'fiducial'"),
        ("zzz > 1", "no branch 'zzz', which"),
        ("uvwTruth > 1", r"3 answers an event .*\[:,0\]"),
        ("uvwTruth[:,1:] > 1", "2 answers"),
        ("uvwTruth[:,3] > 1", r"has 3 \(0 to 2\)"),
        ("run[:,0] > 1", "is one number an event"),
        ("uvwTruth[0] > 1", r"write \[:,0\]"),
        ("uvwTruth[:,run] > 1", "number of a component"),
        ("any(uvwTruth > emiAng)", "2 components with 3"),
        ("energyTruth", "gives numbers"),
        ("run > 1 & run < 3", "put each in parentheses"),
        ("run or good", "compare them"),
        ("run > (", "cannot be understood"),
        ("energyTruth > 0.045 and", "cannot be understood"),
        ("run = 3", "cannot be understood"),
        ("  ", "is empty"),
        ("run > 'a'", "no meaning"),
        ("run is 1", "no meaning"),
        ("run in 3", "a list of numbers"),
        ("run in [uvwTruth]", "list numbers"),
        ("__import__('os').system('true')", "no meaning"),
        ("open('x')", "no function of selections"),
        ("abss(run) > 1", "did you mean 'abs'"),
        ("abs > 1", r"write abs\(...\)"),
        ("hypot(run) > 1", "takes 2"),
        ("run.__class__ == 1", "no branch 'run.__class__'"),
        ("(lambda: 1)() > 0", "no meaning"),
        ("[run for run in [1]]", "no meaning"),
        ("run if good else run", "no meaning"),
        ("(run := 1) > 0", "no meaning"),
        ("f'{run}' == 1", "no meaning"),
        ("abs(x=run) > 1", "no meaning"),
        ("1" * 3000 + " > run", "more than 2000 characters"),
        ("-" * 200 + "run > 1", "nested too deeply"),
        ("(" * 300 + "run", "cannot be understood"),
        ("+".join(["run"] * 300) + " > 1", "too many parts"),
        ("1" * 1000 + " > run", "too large"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        chosen(text)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")


def test_nothing_of_it_is_run(tmp_path: Any) -> None:
    trace = tmp_path / "trace"
    for text in (f"open('{trace}', 'w')", f"__import__('pathlib').Path('{trace}').touch()", "exit()"):
        with pytest.raises(InputError):
            chosen(text)
    assert not trace.exists()


def test_steps_are_those_that_and_joins() -> None:
    selection = Selection("energyTruth > 0 and (run < 3 or good) and uvwTruth[:,0] < 23.9")
    assert [step.text for step in selection.steps] == ["energyTruth > 0", "run < 3 or good", "uvwTruth[:, 0] < 23.9"]
    masks = selection.masks(EVENTS, 4)
    assert [mask.tolist() for mask in masks] == [[True, True, False, False]] * 2 + [[True, False, False, False]]
    assert selection.names == ("energyTruth", "run", "good", "uvwTruth")


def test_every_function_has_its_example() -> None:
    for name, function in FUNCTIONS.items():
        arguments = ", ".join(["uvwTruth[:,0]"] * function.arguments[0])
        assert isinstance(chosen(f"any({name}({arguments}) >= 0)"), list)
        assert function.meaning
