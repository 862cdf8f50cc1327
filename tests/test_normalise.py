"""Transforms and their inverses."""

from __future__ import annotations

import math

import pytest
import torch

from xecml import events
from xecml.errors import InputError
from xecml.models.normalise import ABSOLUTE_DEFAULTS, COUNT_SCHEMES, RELATIVE_DEFAULTS, Normaliser, validity


@pytest.mark.parametrize("scheme", COUNT_SCHEMES)
@pytest.mark.parametrize("defaults", [ABSOLUTE_DEFAULTS, RELATIVE_DEFAULTS])
def test_inverses_are_exact_from_nothing_to_a_million_photons(scheme: str, defaults: dict[str, float]) -> None:
    transform = Normaliser(**defaults, scheme=scheme)
    npho = torch.cat([torch.tensor([1e-3]), torch.logspace(-2, 6, 200)])
    back = transform.photons(transform.counts(npho, npho > 0))
    # one unit in the last place of a logarithm is log(n) units of the count
    torch.testing.assert_close(back, npho, rtol=5e-6, atol=1e-3 * defaults["npho_scale"] / 100)
    time = torch.linspace(-1e-6, 1e-6, 101)
    torch.testing.assert_close(transform.seconds(transform.times(time, time < 1)), time, rtol=0, atol=1e-13)


def test_the_formula_is_the_documented_one() -> None:
    transform = Normaliser(**ABSOLUTE_DEFAULTS)
    valid = torch.tensor([True, True, False])
    counts = transform.counts(torch.tensor([500.0, 1e5, 1e10]), valid)
    torch.testing.assert_close(counts, torch.tensor([math.log1p(0.5) / 4.08, math.log1p(100) / 4.08, 0.0]))
    times = transform.times(torch.tensor([1.14e-7, 0.0, 1e10]), valid)
    torch.testing.assert_close(times, torch.tensor([1.46, 0.46, -5.0]))


def test_invalid_values_never_leak(  # NaN and infinity included
) -> None:
    transform = Normaliser(**ABSOLUTE_DEFAULTS)
    raw = torch.tensor([math.nan, math.inf, 1e10, -3.0])
    none = torch.zeros(4, dtype=torch.bool)
    assert transform.counts(raw, none).tolist() == [0, 0, 0, 0]
    assert transform.times(raw, none).tolist() == [-5, -5, -5, -5]


def test_constants_travel_with_the_state() -> None:
    state = Normaliser(**RELATIVE_DEFAULTS).state_dict()
    other = Normaliser(**ABSOLUTE_DEFAULTS)
    other.load_state_dict(state)
    assert float(other.npho_scale) == pytest.approx(0.58)


def test_wrong_constants_are_refused() -> None:
    with pytest.raises(InputError, match="above zero"):
        Normaliser(**(ABSOLUTE_DEFAULTS | {"npho_scale": 0.0}))
    with pytest.raises(InputError, match="Unknown count scheme"):
        Normaliser(**ABSOLUTE_DEFAULTS, scheme="cubic")


def test_validity_is_the_rule_of_the_vocabulary() -> None:
    npho = torch.tensor([5.0, 0.0, -1.0, 1e10, math.nan, math.inf, 7.0, 7.0, 7.0])
    time = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e10, math.nan, -math.inf])
    valid, timed = validity(npho, time)
    assert valid.tolist() == events.valid_counts(npho.numpy()).tolist()
    assert timed.tolist() == events.valid_times(npho.numpy(), time.numpy()).tolist()
