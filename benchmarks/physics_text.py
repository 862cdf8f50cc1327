"""The words of the page of the physics benchmark, about tables and pictures that `physics_page.py` makes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import physics_page as parts

Numbers = Mapping[str, Any]

FULL = 20_000
"""Test events of a sample that the tables are meant to have."""
_WIDTH = 120
_NETWORKS = ("base", "large", "reference")
_HEAD = """\
# Performance on simulated photons

This page holds all methods of the package against each other on the same simulated events, on which none was trained:
the conventional reconstruction, boosted trees, and the trained networks. It is written by

    make bench-physics                 # 20,000 events of each sample; --help: python benchmarks/physics.py --help
    make bench-physics BENCH='-n 4000 --further 2000 base=artifacts/base/checkpoint_best.pth'

which keeps all that it makes in `artifacts/bench-physics` and does not make it again. `performance.json` beside this
page has the figures of all events in short, `performance_all.json` in that folder everything, in bins of depth."""
_READING = """\
## How to read the tables

Half-widths (s68), FWHM/2.355 and the share beyond three half-widths are defined in [metrics](metrics.md); errors are
one standard deviation. Bins are of the true depth w, with their numbers of events. A cell of the detailed tables is

    bias / s68 ± error / FWHM/2.355 / share beyond 3 half-widths in %

and for the opening angle the median / the angle that contains 68 %. Conventional constants belong to a kind of photons:
`conventional (signal)` was calibrated on photons of 52.8 MeV from the target, `conventional (decoupled)` on photons of
15 to 60 MeV whose direction is independent of their position; the constants of the other kind stand there to show what
a wrong choice costs. Trees correct the conventional answers of the kind of the sample; they learn from 222 numbers of
an event (`src/xecml/conventional/features.py`), and are no part of the package (`benchmarks/yardstick.py`).

The samples of signal photons have one energy. A method that had learnt on 52.8 MeV alone could answer 52.8 and be
right; trees and networks were trained on 15 to 60 MeV, the conventional energy with the constants `signal` on 52.8 MeV
but its formula knows nothing of the energy, only of where the light is."""
_PAIRS = """\
By how much the figure of the method named first is larger than that of the one it is held against, as a share of the
latter, event by event ([comparisons](compare.md)); the error is that of the difference, in which the events' common
fluctuations cancel. Above zero the method named second is better. Bold is what differs by three errors or more."""
_LINES = """\
## Lines and linearity

A spectrum's edge or line must come out where it is. The peak is that of a fit (a Gaussian with an exponential tail to
low energies), the mode that of a kernel density without a fit, the mean contains the tail of leaking showers. The aim
is 0.1 %. 82.9 MeV lies outside of what the trees were trained on; the networks of the package know up to 140 MeV. Who
learns the middle of a distribution with a tail to one side puts its peak on the other side of the truth. Trainings of
networks move it back by one factor for all energies ([training](training.md#energy-a-line-is-where-it-is)), and
`xec calibrate --line` for a line ([calibration](calibration.md))."""
_SLOPES = """\
Slope of the mean answer against the truth, less 1, in percent, and whether it is 1 within 0.2 % (`undecided`: the
events are too few to say). The mean of the energy contains the tail of showers that leak, which depends on the energy,
so that a slope says less than the peaks of lines do; a direction that is known badly is drawn to the mean of the
training."""


def page(result: Numbers, path: Path, options: argparse.Namespace) -> str:
    """The whole page in Markdown; its pictures are written beside it."""
    samples = result["samples"]
    labels = [samples[name]["label"] for name in ("signal", "decoupled") if name in samples]
    found = [_HEAD, *_shortly(samples), *_methods(result, options), _READING]
    pictures = dict(parts.save_pictures(samples, path))
    for name, alt in pictures.items():
        if not name.endswith("_lines.png"):
            found.append(f"![{alt}]({name})\n\n*Widths by depth; energy: the core, FWHM/2.355.*")
    for name in ("signal", "decoupled"):
        if name in samples:
            found += _detailed(samples[name])
    others = [s for name, s in samples.items() if name not in ("signal", "decoupled")]
    if others:
        found += _others(others)
    if any(s["line_mev"] is not None and not s["varied"] for s in samples.values()):
        found += [_LINES, *(f"![{alt}]({name})" for name, alt in pictures.items() if name.endswith("_lines.png"))]
        found.append(parts.lines_table(samples))
        if result["slope_of_lines"]:
            found += [
                "From the lines of 17.6 and 54.9 MeV together, by their fitted peaks and by their means:",
                parts.slope_of_lines_table(result["slope_of_lines"], result["slope_of_peaks"]),
            ]
    slopes = {s["label"]: parts.slopes_table(s) for s in samples.values() if s["label"] in labels}
    if any(slopes.values()):
        found += ["### Slopes of all quantities", _SLOPES]
        found += [f"{label}:\n\n{text}" for label, text in slopes.items() if text]
    return "\n\n".join(map(wrapped, found)) + "\n"


def wrapped(text: str) -> str:
    """Paragraphs with lines of the usual length; tables, lists, headings, pictures and commands stay as they are."""
    blocks = text.split("\n\n")
    return "\n\n".join(_filled(block) if block[:1] not in ("|", "#", "!", " ") else block for block in blocks)


def _filled(text: str) -> str:
    options: dict[str, Any] = {"width": _WIDTH, "break_long_words": False, "break_on_hyphens": False}
    if text.startswith("- "):
        return "\n".join(textwrap.fill(line, subsequent_indent="  ", **options) for line in text.splitlines())
    return textwrap.fill(text, **options)


def _shortly(samples: Mapping[str, Numbers]) -> list[str]:
    """All quantities of the two main samples in all events."""
    wanted = [samples[name] for name in ("signal", "decoupled") if name in samples]
    if not wanted:
        return []
    return [
        "## In short",
        "Half-widths of the central 68 % with their errors, in all events of a sample; with the bias in brackets "
        "where it is above a tenth of the half-width; of the energy also the core, FWHM/2.355, which leaking showers "
        "do not widen; of the opening angle the value that contains 68 %.",
        *(text for sample in wanted for text in (f"**{_title(sample)}**", parts.overview(sample))),
    ]


def _title(sample: Numbers) -> str:
    return str(sample["label"][:1].upper() + sample["label"][1:])


def _methods(result: Numbers, options: argparse.Namespace) -> list[str]:
    """What was measured, on how many events, and what was not."""
    rows = [[m["name"], m["kind"] or "all", m["said"]] for m in result["methods"].values()]
    samples = [
        [
            s["label"],
            f"{s['n']:,}",
            str(s["seed"]),
            ", ".join(f"{b}: {n}" for b, n in s["events"].items() if b != "all"),
        ]
        for s in result["samples"].values()
    ]
    lacking = not_measured(result, options)
    return [
        "## What was measured",
        parts.table(["sample", "test events", "seed", "by depth"], samples),
        parts.table(["method", "kind of photons", "what it is"], rows),
        "The networks of the package were trained on detectors that vary and not on the nominal one alone, for "
        "[robustness](robustness.md#how-they-were-trained), which also says on how many events; trees and conventional "
        "constants know the nominal detector alone. On nominal events that is to their advantage, on varied detectors "
        "it is not.",
        *(["### What was not measured", "\n".join(f"- {line}" for line in lacking)] if lacking else []),
    ]


def not_measured(result: Numbers, options: argparse.Namespace) -> list[str]:
    """Sentences on what a complete page would have."""
    found = []
    less = [f"{s['label']} ({s['n']:,})" for s in result["samples"].values() if s["n"] < FULL]
    if less:
        found.append(f"{FULL:,} test events: there are fewer of {'; '.join(less)}. Errors are larger accordingly.")
    named = {m["name"] for m in result["methods"].values()}
    if missing := [name for name in _NETWORKS if name not in named]:
        found.append(
            f"The presets {', '.join(f'`{name}`' for name in missing)}: no model of them was given; trained ones are "
            f"named as `{missing[0]}=CHECKPOINT`."
        )
    most = max((_events(name) for name in named if name.startswith("trees ")), default=0)
    if not most:
        found.append("Trees.")
    elif most < 400_000:
        found.append(
            f"Trees trained on as many events as the networks: the most here are {most:,}, those of the networks more "
            "than 400,000 of each kind."
        )
    found.append("A network trained on the nominal detector alone, unless one is among the methods above.")
    found.append("Differences between trainings of the same recipe with other seeds, which errors here do not contain.")
    return found


def _events(name: str) -> int:
    digits = name.removeprefix("trees ").replace(",", "")
    return int(digits) if digits.isdigit() else 0


def _detailed(sample: Numbers) -> list[str]:
    """All quantities of a sample by depth, and the differences."""
    found = [f"## {_title(sample)}", f"{parts.said_of_events(sample)}. {parts.few(sample)}".strip()]
    for quantity in parts.ROWS:
        if text := parts.figures_table(sample, quantity):
            found += [f"**{parts.label_of(quantity)}**", text]
    if sample["pairs"]:
        found += [f"### Differences on the same {sample['label']}", _PAIRS]
        for pair in sample["pairs"]:
            found += [f"{pair['second']} against {pair['first']}:", parts.pair_table(pair)]
    warned = [f"- {name}: {line}" for name, lines in sample["warnings"].items() for line in lines]
    return [*found, *(["\n".join(warned)] if warned else [])]


def _others(samples: Sequence[Numbers]) -> list[str]:
    """The other samples in all events."""
    found = [
        "## Lines and varied detectors",
        "All events of each sample, as in the short tables above; `performance_all.json` has the depths. On varied "
        "detectors every 64 events are of another detector: optics, gains, thresholds, dead sensors and the "
        "definition of a sensor's time differ ([robustness](robustness.md)).",
    ]
    for sample in samples:
        found += [f"**{_title(sample)}** ({parts.said_of_events(sample)})", parts.overview(sample)]
    return found
