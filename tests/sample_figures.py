"""Every figure of the package on a small sample from seeds: no training, and the same numbers on every machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tests.conftest import point_sources
from tests.data_tables import FIRST_RUN, data_table
from tests.test_metrics import WIDTHS, prediction_table
from xecml import rootio
from xecml.checks.event_files import check_files
from xecml.conditions_file import load_conditions
from xecml.conventional.dead_sensor_estimates import ConventionalRepair
from xecml.data.damage import draw_damage
from xecml.data.event_numbers import BY_KEY, CONDITIONS
from xecml.data.reweighting import Reweighting
from xecml.evaluation import metrics
from xecml.evaluation.energy_line import energy_line
from xecml.evaluation.hot_spots import REACH, REGIONS
from xecml.evaluation.integrated_gradients import Integrated
from xecml.evaluation.paired import compare_paired
from xecml.evaluation.periods import parse_periods
from xecml.evaluation.permutations import GROUPS, Permutations
from xecml.evaluation.profiles import opening_slices
from xecml.evaluation.real_data import Asked, measure
from xecml.evaluation.repair_errors import compare_repairs
from xecml.evaluation.saliency import Saliency
from xecml.evaluation.selection_efficiency import selections
from xecml.evaluation.what_decides import WhatDecides
from xecml.events import INVALID, valid_counts
from xecml.figures import (
    check_page,
    geometry_pictures,
    real_data_pages,
    rebuilt_event,
    repair_pages,
    report_pages,
    resolution_pages,
    reweighted_sample,
    saliency,
    search_pictures,
    training_page,
    unfolded_detector,
    what_decides,
    worst_events,
)
from xecml.figures.style import drawable
from xecml.geometry import positions
from xecml.inference.training_comparison import Compared, Comparison, Training
from xecml.reports.run_summary import RunSummary

Columns = dict[str, np.ndarray]


class Drawn(NamedTuple):
    """Figures that belong together.

    Attributes:
        by: the public function that draws them.
        make: calls it on the sample.
        pages: names of what it gives, in order.
    """

    by: Callable[..., Any]
    make: Callable[[], Figure | Iterable[Figure]]
    pages: tuple[str, ...] = ("",)


# ------------------------------------------------------------------------------------------------ prediction tables


_NOT_SHOWN = tuple(f"{kind}_{name}" for kind in ("pred", "sigma") for name in ("u", "v", "timing"))


@cache
def said_table(seed: int = 5, off: float = 1.0, events: int = 600) -> Columns:
    """Predictions with widths, outlier values and dead sensors."""
    rng = np.random.default_rng(3)
    table = prediction_table(events, seed=5)
    for name, width in WIDTHS.items():
        sigma = width * rng.uniform(0.5, 1.5, events)
        away = off * sigma * np.random.default_rng((seed, len(name))).normal(size=events)
        table |= {f"sigma_{name}": sigma, f"pred_{name}": table[f"true_{name}"] + away}
    table |= {"outlier": rng.exponential(0.3, events), "n_dead": rng.integers(0, 60, events)}
    table |= {"total_npho": 1e6 * table["true_energy"] * rng.normal(1, 0.02, events)}
    # those of u, v and time look as that of w does
    return {name: values for name, values in table.items() if not name.startswith(_NOT_SHOWN)}


def three_tables() -> dict[str, Columns]:
    """A model, another one and a constant."""
    model = said_table()
    constants = {name: float(np.mean(model[f"true_{name}"])) for name in WIDTHS if f"pred_{name}" in model}
    other = {k: v for k, v in said_table(6, 1.4).items() if not k.startswith("sigma_")}
    return {
        "compact_nll.pth": model,
        "conventional reconstruction": other,
        "mean of the training": metrics.constant_table(model, constants),
    }


@cache
def pages_of_resolutions() -> dict[str, Figure]:
    """Pages by what is on them; those of theta, phi and energy look as those of others do."""
    pages = resolution_pages.resolution_figures(three_tables(), title="a_test_sample_of_signal_photons.root")
    return dict(zip(_RESOLUTIONS, pages, strict=True))


_RESOLUTIONS = (
    "summary", "theta", "phi", "energy", "energy_relative", "w", "energy_and_angle", "pulls",
)  # fmt: skip


def resolutions(shown: Iterable[str]) -> Iterable[Figure]:
    return [pages_of_resolutions()[name] for name in shown]


_RESOLUTIONS_SHOWN = ("summary", "energy_relative", "w", "energy_and_angle", "pulls")


def real_data() -> Iterable[Figure]:
    """Two predictors on runs with conditions, periods, an edge and a line."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "conditions.yaml"
        table.write_text(
            "ranges:\n"
            f"  - {{runs: [{FIRST_RUN}, {FIRST_RUN + 2}], dead: [1, 2, 3], gains: {{sipm: 0.99}}}}\n"
            f"  - {{runs: [{FIRST_RUN + 3}, {FIRST_RUN + 9}], dead: [1], gains: {{sipm: 0.98}}}}\n"
        )
        conditions = load_conditions(table)
    periods = parse_periods(f"before={FIRST_RUN}-{FIRST_RUN + 2} {FIRST_RUN + 3}-{FIRST_RUN + 5}")
    table_of = {k: v for k, v in data_table(2500, drift=-0.003).items() if not k.endswith(("_v", "_phi"))}
    worse = np.random.default_rng(2).normal(0, 1, 2500)
    tables = {"compact_nll.pth": table_of, "conventional": table_of | {"pred_w": table_of["pred_w"] + worse}}
    data = measure(tables, Asked(edges=(52.83,), periods=periods, conditions=conditions), "reco")
    return real_data_pages.real_data_figures(data, title="runs_430000_to_430005.root")


_REAL_DATA = (
    "comparison", "by_run", "in_order", "conditions", "face", "by_depth", "by_time", "periods", "spectra",
    "spectrum", "spectrum_by_period",
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ files


def _in_file(columns: Mapping[str, NDArray[Any]], use: Callable[[Path], Any]) -> Any:
    """What `use` makes of a file with these columns, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.root"
        rootio.write(path, dict(columns))
        return use(path)


@cache
def light(events: int = 40, seed: int = 21) -> Columns:
    return point_sources(events, seed, dead=0.01)


def checked() -> Figure:
    """A file in which sensors are dead and one is hot, and with a constant that is no angle."""
    columns = {name: values.copy() for name, values in light().items()}
    for name in ("npho", "time"):
        columns[name][:, np.r_[500:520, 4200:4206]] = INVALID
    columns["npho"][:, 2000] *= 50
    columns["emiAng"][3:9, 0] = 250
    return check_page.draw_check(_in_file(columns, check_files))


class LightAsNumbers:
    """Energy is the sum of counts and the position their centre: every dead sensor costs them something."""

    tasks = ("energy", "uvwFI", "timing")
    branches = ("npho", "time")
    names: dict[str, str] = {}  # noqa: RUF012 - the protocol's type
    truth_means = {"energy": 0.04, "uvwFI": 0.0, "timing": 0.0}  # noqa: RUF012 - the protocol's type

    def predict(self, npho: ArrayLike, time: ArrayLike) -> dict[str, NDArray[Any]]:
        n = np.asarray(npho, np.float64)
        n = np.where(valid_counts(n), n, 0)[:, :4092]
        u, v = unfolded_detector.places()[:4092].T
        total = n.sum(1)
        w = 4e4 / n.max(1)
        first = np.where(np.asarray(time) < 9e9, time, np.inf)[:, :4092].min(1)
        place = np.stack([n @ u / total, n @ v / total, w], 1)
        return {"energy": total * 1e-6, "uvwFI": place, "timing": first - 2e-9}


@cache
def repairs() -> Any:
    """Errors and effects of two repairs at two shares of dead sensors."""
    named = {name: ConventionalRepair(name) for name in ("neighbour_mean", "point_source")}
    model: Any = LightAsNumbers()
    return _in_file(
        light(), lambda path: compare_repairs(path, named, model=model, fractions=(0.02, 0.1), max_events=24)
    )


def repaired_event() -> Figure:
    npho = np.where(light()["npho"][0] < 9e9, light()["npho"][0], 0)
    dead = draw_damage("blocks", 0.05, 1, seed=4)[0]
    filled = {
        "neighbour_mean": npho * np.random.default_rng(1).lognormal(0, 0.2, 4760),
        "inpaint/checkpoint_best.pth": npho * np.random.default_rng(2).lognormal(0, 0.05, 4760),
    }
    return repair_pages.draw_repaired_event(npho, dead, filled, title="Run 21, event 0: blocks of dead sensors, 5 %")


def reweighted() -> Figure:
    rng = np.random.default_rng(8)
    n = 4000
    truth = {
        "energyTruth": 0.015 + 0.045 * rng.beta(2, 5, n),
        "emiAng": np.stack([90 + 25 * rng.normal(size=n).clip(-2, 2), rng.uniform(-60, 60, n)], 1),
        "uvwTruth": np.stack([rng.normal(0, 8, n), rng.uniform(-60, 60, n), rng.exponential(4, n)], 1),
        "timeTruth": rng.uniform(-1e-8, 1e-8, n),
    }
    bins = {"energy": (30,), "uvwFI": (10, 10, 10), "angle": (20, 20), "timing": (30,)}
    columns = {name: values.astype(np.float32) for name, values in truth.items()}
    return reweighted_sample.draw_reweighting(_in_file(columns, lambda path: Reweighting.fit(path, bins)))


# ----------------------------------------------------------------------------------------------------- single events


def _truth(event: int) -> dict[str, Any]:
    columns = light()
    u, v, w = columns["uvwTruth"][event]
    theta, phi = columns["emiAng"][event]
    energy, timing = columns["energyTruth"][event], columns["timeTruth"][event]
    return {"theta": theta, "phi": phi, "energy": energy, "timing": timing, "u": u, "v": v, "w": w}


_OFF = {"theta": 4.0, "phi": -2.0, "energy": 1e-3, "timing": -8e-11, "u": 0.4, "v": 4.0, "w": -0.6}


def event() -> Figure:
    truth = _truth(1)
    said = {name: value + _OFF[name] for name, value in truth.items()}
    title = "signal_photons.root, entry 1 (run 21, event 1)"
    return unfolded_detector.draw_event(
        light()["npho"][1], light()["time"][1], truth=truth, prediction=said, title=title
    )


def worst() -> Figure:
    truth = _truth(2)
    columns = {"run": np.int32(21), "event": np.int32(2)} | {f"true_{k}": v for k, v in truth.items()}
    columns |= {f"pred_{k}": v - 5 * _OFF[k] for k, v in truth.items()}
    parts = {"angle": 1.41, "energy": 12.3, "timing": 0.2, "uvwFI": 4.56}
    one = worst_events.Event(18.47, parts, light()["npho"][2], light()["time"][2], columns)
    return worst_events.draw_worst(one, place=1, title="compact_nll: ")


def rebuilt() -> Figure:
    npho, time = light()["npho"][3], light()["time"][3]
    rng = np.random.default_rng(4)
    hidden = (rng.random(4760) < 0.6) & (npho < 9e9)
    said_npho, said_time = npho * rng.lognormal(0, 0.1, 4760), time + rng.normal(0, 3e-10, 4760)
    columns = {
        "mask": hidden,
        "truth_npho": npho, "truth_time": time,
        "masked_npho": np.where(hidden, INVALID, npho), "masked_time": np.where(hidden, INVALID, time),
        "pred_npho": said_npho, "pred_time": said_time,
        "err_npho": said_npho - npho, "err_time": said_time - time,
    }  # fmt: skip
    return rebuilt_event.draw_rebuilt(
        columns, title="mae_predictions_epoch_20.root, entry 3: counts above, times below"
    )


# ------------------------------------------------------------------------------------ trainings, searches, comparisons


def compared() -> Figure:
    """A file whose PMTs are late, beside a training sample."""
    rng = np.random.default_rng(5)
    keys, depths, events = tuple(BY_KEY), 8, 2000
    shape = (depths, len(keys))
    edges = np.log(np.geomspace(0.5, 30, depths + 1))
    training = Training(
        keys, np.zeros(shape), -np.ones(shape), np.ones(shape), np.full(len(keys), 0.03), edges,
        np.array([[-24.0] * len(CONDITIONS), [1e6] * len(CONDITIONS)]), 20_000,
    )  # fmt: skip
    shift = np.array([1.5 if "time" in key or "late" in key else 0.05 for key in keys])
    z = rng.normal(size=(events, len(keys))) + shift
    conditions = rng.uniform(-20, 20, (events, len(CONDITIONS)))
    conditions[:, CONDITIONS.index("w")] = rng.uniform(edges[0], edges[-1], events)
    found = Comparison(training)
    found.add(Compared(z, np.ones_like(z), np.ones_like(z), conditions), rng.lognormal(-1.2, 0.6, events))
    return training_page.draw_comparison(found, "runs_430000_to_430005.root beside the training of compact_nll.pth")


@cache
def trials() -> list[search_pictures.ShownTrial]:
    rng = np.random.default_rng(7)
    found = []
    for number in range(24):
        rate, width = 10 ** rng.uniform(-4, -2), int(rng.choice([32, 64, 128]))
        score = 1.2 + 0.2 * (np.log10(rate) + 3) ** 2 + 3 / width + 0.05 * rng.random()
        values = {
            "training.learning_rate": rate,
            "training.weight_decay": 10 ** rng.uniform(-6, -2),
            "model.width": width,
            "model.drop_path_rate": rng.uniform(0, 0.3),
            "tasks.angle.loss_fn": str(rng.choice(["smooth_l1", "gaussian_nll", "huber"])),
        }
        pruned = number % 5 == 4
        curve = {epoch: score * (1 + 1.5 / epoch) for epoch in range(1, 4 if pruned else 11)}
        state = search_pictures.PRUNED if pruned else search_pictures.COMPLETE
        found.append(search_pictures.ShownTrial(number, state, curve[max(curve)], values, curve))
    return found


_KEYS = (
    "training.learning_rate",
    "training.weight_decay",
    "model.width",
    "model.drop_path_rate",
    "tasks.angle.loss_fn",
)
_LOG = _KEYS[:2]
_METRIC = "val_resolution_deg"
_IMPORTANCES = dict(zip(_KEYS, (0.52, 0.03, 0.3, 0.1, 0.05), strict=True))


def epochs(count: int = 12) -> list[dict[str, Any]]:
    """Numbers of a training, epoch by epoch."""
    names = ("theta", "phi", "energy", "timing", "u", "v")
    return [
        {
            "epoch": i,
            "train/loss": 2.0 / i + 0.3,
            "val/loss": 2.2 / i + 0.35,
            "val/resolution_deg": 3 + 5 / i,
            **{f"val/{name}_s68": 1 + (3 + k) / i for k, name in enumerate(names)},
            "train/lr": 3e-4 * (0.5 + 0.5 * np.cos(np.pi * i / count)) + 1e-6,
        }
        for i in range(1, count + 1)
    ]


def run_curves() -> Figure:
    run = RunSummary.__new__(RunSummary)
    object.__setattr__(run, "folder", Path("compact_nll"))
    object.__setattr__(run, "epochs", epochs())
    return run.curves()


def _lines() -> Figure:
    tables = {name: table for name, table in three_tables().items() if not name.startswith("mean")}
    found = {name: energy_line(table) for name, table in tables.items()}
    return report_pages.draw_energy_line({name: line for name, line in found.items() if line is not None})


def _slices() -> Figure:
    return report_pages.draw_slices(opening_slices(said_table()))


def _selections() -> Figure:
    return report_pages.draw_selections(selections(said_table(), metrics.evaluate(said_table()).figures))


def _curves() -> Figure:
    figure = report_pages.draw_curves(epochs())
    assert figure is not None
    return figure


# ------------------------------------------------------------------------------------------- what decides answers

_ANSWERS = {"theta": "angle", "phi": "angle", "energy": "energy", "u": "uvwFI", "v": "uvwFI", "w": "uvwFI"}
_LOOKED_AT = 60


def parts(*, signed: bool, outputs: tuple[str, ...] = tuple(_ANSWERS)) -> Saliency:
    """Sizes that fall with the distance from a sensor near the middle; maps with both signs, or sizes."""
    rng = np.random.default_rng(11)
    places = positions()
    away = np.linalg.norm(places - places[2000], axis=1)
    shape = np.exp(-away / 15) * rng.uniform(0.5, 1.5, (len(outputs), len(away)))
    rows = np.arange(-REACH, REACH + 1)
    hill = np.exp(-np.hypot(*np.meshgrid(rows, rows)) / 3)
    slope = rows / 4 if signed else np.ones(len(rows))
    maps = rng.uniform(0.5, 1, (2, len(outputs), 1, 1)) * hill * slope
    fall = np.linspace(1, 0.1, len(REGIONS))
    regions = rng.normal(0, 0.1, (2, _LOOKED_AT, len(outputs), len(REGIONS))) * fall
    measured = rng.random(len(away)) > 0.02
    depth = np.linspace(0.5, 20, _LOOKED_AT)
    tasks = tuple(_ANSWERS[name] for name in outputs)
    sizes = regions if signed else np.abs(regions)
    return Saliency(outputs, tasks, shape, 0.2 * shape, measured, _LOOKED_AT, sizes, maps, depth)


@cache
def decided() -> WhatDecides:
    """Losses that are larger for counts than for times, in all bins of depth."""
    rng = np.random.default_rng(12)
    quantities, n = ("theta", "phi", "energy_relative", "timing", "u", "v", "w"), 300
    widths = np.array([3.0, 1.0, 2.5, 32.0, 2.5, 2.4, 2.8])[:, None]
    off = widths * rng.standard_normal((len(quantities), n))
    more = np.array([1.5 if g.kind != "times" else 0.4 for g in GROUPS]) * np.array(
        [1.0 if len(g.regions) > 1 else 0.6 / (1 + g.regions[0]) for g in GROUPS]
    )
    moved = more[:, None, None] * widths * rng.standard_normal((len(GROUPS), len(quantities), n))
    known = 8 * widths * rng.standard_normal((len(quantities), n))
    found = Permutations(quantities, moved, off, off + moved, known)
    integrated = parts(signed=False)
    answers = rng.standard_normal((_LOOKED_AT, len(_ANSWERS)))
    scale = np.array([3.0, 1.0, 2.5, 2.5, 2.4, 2.8])
    units = ("deg", "deg", "%", "mm", "mm", "mm")
    whole = Integrated(integrated, answers, np.zeros_like(answers), scale, units)
    return WhatDecides(n, 0, np.linspace(0.2, 20, n), found, parts(signed=True), whole)


_ONE = ("theta",)

FIGURES: dict[str, Drawn] = {
    "resolution": Drawn(
        resolution_pages.resolution_figures, partial(resolutions, _RESOLUTIONS_SHOWN), _RESOLUTIONS_SHOWN
    ),
    "real_data": Drawn(real_data_pages.real_data_figures, real_data, _REAL_DATA),
    "repair_errors": Drawn(repair_pages.draw_errors, lambda: repair_pages.draw_errors(repairs())),
    "repair_effects": Drawn(repair_pages.draw_effects, lambda: repair_pages.draw_effects(repairs())),
    "repaired_event": Drawn(repair_pages.draw_repaired_event, repaired_event),
    "check": Drawn(check_page.draw_check, checked),
    "training": Drawn(training_page.draw_comparison, compared),
    "event": Drawn(unfolded_detector.draw_event, event),
    "worst_event": Drawn(worst_events.draw_worst, worst),
    "rebuilt_event": Drawn(rebuilt_event.draw_rebuilt, rebuilt),
    "reweighting": Drawn(reweighted_sample.draw_reweighting, reweighted),
    "search_importances": Drawn(
        search_pictures.importances_figure, lambda: search_pictures.importances_figure(_IMPORTANCES)
    ),
    "search_history": Drawn(search_pictures.history_figure, lambda: search_pictures.history_figure(trials(), _METRIC)),
    "search_slices": Drawn(
        search_pictures.slices_figure, lambda: search_pictures.slices_figure(trials(), _KEYS, _METRIC, _LOG)
    ),
    "search_parallel": Drawn(
        search_pictures.parallel_figure, lambda: search_pictures.parallel_figure(trials(), _KEYS, _METRIC, _LOG)
    ),
    "report_energy_line": Drawn(report_pages.draw_energy_line, _lines),
    "report_slices": Drawn(report_pages.draw_slices, _slices),
    "report_selections": Drawn(report_pages.draw_selections, _selections),
    "report_differences": Drawn(
        report_pages.draw_differences, lambda: report_pages.draw_differences(compare_paired(three_tables()))
    ),
    "report_curves": Drawn(report_pages.draw_curves, _curves),
    "run_curves": Drawn(RunSummary.curves, run_curves),
    "saliency": Drawn(
        saliency.saliency_figures,
        lambda: saliency.saliency_figures(parts(signed=True, outputs=_ONE)),
        ("by_face", "about_hot_spot", *_ONE),
    ),
    "saliency_hot_spot": Drawn(saliency.draw_hot_spot_maps, lambda: saliency.draw_hot_spot_maps(parts(signed=True))),
    "saliency_faces": Drawn(saliency.draw_face_weights, lambda: saliency.draw_face_weights(parts(signed=True))),
    "decides_losses": Drawn(what_decides.draw_losses, lambda: what_decides.draw_losses(decided())),
    "decides_regions": Drawn(what_decides.draw_regions, lambda: what_decides.draw_regions(decided())),
    "decides_depths": Drawn(what_decides.draw_depths, lambda: what_decides.draw_depths(decided())),
} | {f"geometry_{draw.__name__}": Drawn(draw, draw) for draw in geometry_pictures.PICTURES.values()}
"""All figures by name."""

CASES = {
    f"{name}_{page}" if page else name: (name, number)
    for name, drawn in FIGURES.items()
    for number, page in enumerate(drawn.pages)
}
"""Every page of every figure: the name of its image, and which page of what it is."""


@cache
def _pages(name: str) -> list[Figure]:
    made = FIGURES[name].make()
    pages = [drawable(one) for one in ([made] if isinstance(made, Figure) else made)]
    assert len(pages) == len(FIGURES[name].pages), f"'{name}' has {len(pages)} pages, and {FIGURES[name].pages} names"
    for one in pages:
        if (engine := one.get_layout_engine()) is not None:
            # once and for all, as in files
            engine.execute(one)
            one.set_layout_engine("none")
    return pages


def figure(case: str) -> Figure:
    """The figure of a case, drawn once, as it is before it is written."""
    name, number = CASES[case]
    return _pages(name)[number]
