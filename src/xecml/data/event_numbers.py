"""About forty numbers of an event by which a file is compared with a training sample, and their descriptions.

Each number says something about the detector (times of a face, light of a face, sensors that have a count) or about
the photons (how the light lies about the hot spot). A detector that differs from that of the training makes a model
wrong; a sample of other photons need not. `xecml.models.networks.event_numbers` computes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xecml.geometry import FACES

Kind = Literal["time", "light", "counts", "times", "photons"]
"""What a difference in a number is about: when sensors fire, how bright they are, which have a count, which have a
time, or what the photons are."""
DETECTOR: tuple[Kind, ...] = ("time", "light", "counts", "times")
"""Differences of these kinds are the detector's, and are warned of."""
Form = Literal["ns", "logarithm", "share", "slope", "ratio"]
"""How a number is said: nanoseconds; a logarithm as per cent more or less; shares and slopes as per cent; a ratio."""

PMT_FACES = FACES[1:]
BRIGHTNESS = (3.0, 10.0, 30.0, 100.0)
"""Photoelectrons that bound the bins of brightness of SiPMs."""
DIM = (1.3, 2.25)
"""Photoelectrons below which SiPMs are counted: between the charges of one, two and three, with and without excess
noise, so that gains matter little."""
SQUARES = (1, 3, 9)
"""Sides of the squares about the hot spot, in SiPMs."""


@dataclass(frozen=True)
class Number:
    """One number of an event.

    Attributes:
        key: its name in files.
        group: of numbers that say the same of several faces, or of bins.
        kind: what a difference is about.
        form: how it is said.
        floor: smallest width that it is taken to have, in its own unit: smaller differences do not matter.
        tolerance: by how many widths of training events a file's median may be off. Above the common one are numbers
            that feel where photons go, as decoupled photons have it against those from the target, and gains spread by
            5 %, which cost no resolution.
        subject: of what it is a number.
        what: what it is, for a table; `{0}` stands for the subject.
        more: sentence for a file in which it is larger; `{0}` is the subject, `{1}` the difference, `{2}` the file's
            number, `{3}` that of training.
        less: the same for one in which it is smaller.
    """

    key: str
    group: str
    kind: Kind
    form: Form
    floor: float
    tolerance: float
    subject: str
    what: str
    more: str
    less: str

    @property
    def title(self) -> str:
        """What it is, for a table."""
        return self.what.format(self.subject)

    def said(self, value: float) -> str:
        """A value, with its unit; logarithms as they are."""
        if self.form == "ns":
            return f"{value:.2f} ns"
        if self.form in ("share", "slope"):
            return f"{100 * value:.3g} %"
        return f"{value:.3g}"

    def said_difference(self, value: float) -> str:
        """The size of a difference, with its unit; one of logarithms as per cent."""
        size = abs(value)
        if self.form == "ns":
            return f"{size:.2g} ns"
        if self.form == "logarithm":
            # more than as much again is said as a factor's per cent, less never as more than all
            return _percent(abs(math.expm1(min(value, 7.0))))
        return _percent(size) if self.form in ("share", "slope") else f"{size:.2g}"

    def sentence(self, file: float, training: float, subject: str = "") -> str:
        """What differs between a file's value and that of training, in words."""
        text = self.more if file > training else self.less
        difference = self.said_difference(file - training)
        return text.format(subject or self.subject, difference, self.said(file), self.said(training))


def _percent(share: float) -> str:
    """Two digits, without a power of ten."""
    return f"{float(f'{100 * share:.2g}'):g} %"


def face_in_words(face: str) -> str:
    """A face's name as one says it."""
    return {"us": "upstream", "ds": "downstream"}.get(face, face)


def _faces(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(face, f"the {face_in_words(face)} face") for face in names]


def _group(
    group: str, kind: Kind, form: Form, sizes: tuple[float, float], of: list[tuple[str, str]], texts: tuple[str, ...]
) -> tuple[Number, ...]:
    """Numbers of a group: by floor and tolerance, names and subjects, and what it is, more, less."""
    floor, tolerance = sizes
    what, more, less = texts if len(texts) == 3 else (*texts, texts[1])
    return tuple(
        Number(f"{group}_{name}" if name else group, group, kind, form, floor, tolerance, subject, what, more, less)
        for name, subject in of
    )


_USUAL, _BY_DIRECTION, _BY_GAIN = 0.6, 1.5, 1.5
_BINS = [
    (f"{high:g}", f"SiPMs {f'of {low:g} to' if low else 'under'} {high:g} photoelectrons")
    for low, high in zip((0.0, *BRIGHTNESS), BRIGHTNESS, strict=False)
]
_IN_TRAINING = "than in training at the same depth and total"
NUMBERS: tuple[Number, ...] = (
    *_group("light", "light", "logarithm", (0.02, _USUAL), _faces(PMT_FACES), (
        "light of a sensor of {0} (logarithm of its share of all light)",
        f"sensors of {{0}} have {{1}} more light {_IN_TRAINING}",
        f"sensors of {{0}} have {{1}} less light {_IN_TRAINING}",
    )),
    *_group("counted", "counts", "share", (0.02, _USUAL), _faces(FACES), (
        "sensors of {0} with a count (share)",
        "{2} of the sensors of {0} have a count where training had {3}",
    )),
    *_group("timed", "times", "share", (0.02, _USUAL), [("sipm", "SiPMs"), ("pmt", "PMTs")], (
        "{0} with a time (share of those with a count)",
        "{2} of the {0} with a count have a time where training had {3}",
    )),
    *_group("dim", "counts", "share", (0.02, _USUAL), [(f"{edge:g}", f"{edge:g}") for edge in DIM], (
        "SiPMs under {0} photoelectrons (share of those with a count)",
        "{2} of the SiPMs with a count have under {0} photoelectrons where training had {3}",
    )),
    *_group("uneven", "light", "logarithm", (0.1, _BY_GAIN), [("", "neighbouring SiPMs")], (
        "difference of bright {0} (logarithm, over that of chance)",
        "{0} differ by {1} more than in training",
        "{0} differ by {1} less than in training",
    )),
    *_group("time", "time", "ns", (0.05, _USUAL), _faces(PMT_FACES), (
        "time of {0} against the inner face (less the light's travel)",
        "times of {0} come {1} later against those of the inner face than in training",
        "times of {0} come {1} earlier against those of the inner face than in training",
    )),
    *_group("time_of", "time", "ns", (0.05, _USUAL), _BINS, (
        "time of {0} against brighter (less the light's travel)",
        "times of {0} come {1} later against those of brighter ones than in training",
        "times of {0} come {1} earlier against those of brighter ones than in training",
    )),
    *_group("stretch", "time", "slope", (0.01, _BY_DIRECTION), [("sipm", "SiPMs"), ("pmt", "PMTs")], (
        "rise of the times of {0} with distance (beyond the light's travel, to it)",
        "times of {0} lie further apart than in training, by {1} of the light's travel",
        "times of {0} lie closer together than in training, by {1} of the light's travel",
    )),
    *_group("spread", "time", "logarithm", (0.02, _USUAL), [
        ("dim", "SiPMs under 10 photoelectrons"), ("bright", "SiPMs over 10 photoelectrons"),
    ], (
        "spread of the times of {0} (logarithm, over that of chance)",
        "times of {0} spread by {1} more than in training",
        "times of {0} spread by {1} less than in training",
    )),
    *_group("spread", "time", "logarithm", (0.02, _BY_DIRECTION), [("pmt", "PMTs")], (
        "spread of the times of {0} (logarithm, over that of chance)",
        "times of {0} spread by {1} more than in training",
        "times of {0} spread by {1} less than in training",
    )),
    *_group("square", "photons", "logarithm", (0.03, _USUAL), [(f"{s}", f"{s} x {s}") for s in SQUARES], (
        "light in the {0} SiPMs of the hot spot (logarithm of its share of 23 x 23)",
        "the {0} SiPMs of the hot spot have {1} more of its light than in training",
        "the {0} SiPMs of the hot spot have {1} less of its light than in training",
    )),
    *_group("window", "photons", "logarithm", (0.03, _USUAL), [("", "the hot spot")], (
        "light about {0} (logarithm of its share of the inner face)",
        "about {0} there is {1} more of the inner face's light than in training",
        "about {0} there is {1} less of the inner face's light than in training",
    )),
    *_group("width", "photons", "logarithm", (0.03, _USUAL), [("u", "u"), ("v", "v")], (
        "width of the light about the hot spot along {0} (logarithm of cm)",
        "the light about the hot spot is {1} wider along {0} than in training",
        "the light about the hot spot is {1} narrower along {0} than in training",
    )),
    *_group("lean", "photons", "ratio", (0.05, _USUAL), [("u", "u"), ("v", "v")], (
        "lean of the light about the hot spot along {0} (in its width)",
        "the light about the hot spot leans {1} of its width further to +{0} than in training",
        "the light about the hot spot leans {1} of its width further to -{0} than in training",
    )),
)  # fmt: skip
FOLLOWING = ("spread", "uneven", "stretch")
"""Groups of numbers that other numbers' differences change too."""
KEYS = tuple(number.key for number in NUMBERS)
BY_KEY = {number.key: number for number in NUMBERS}

CONDITIONS = ("u", "v", "w", "light")
"""What numbers are compared at: u and v of the hot spot (over 25 and 70 cm), logarithms of its depth (cm) and of all
light."""
