"""Progress of long work, as lines of a log."""

from __future__ import annotations

import pytest

from xecml import progress as module
from xecml.progress import progress


def test_a_log_says_how_far_how_fast_and_the_last_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "strftime", lambda form: "2026-11-28 10:30:43")
    with progress(1000, "epoch 1/1", done=400) as bar:
        for second, note in ((4, "loss 2"), (8, ""), (12, ""), (16, "loss 1")):
            now[0] = second
            bar.advance(150, note)
    lines = capsys.readouterr().err.splitlines()
    # what was done before does not count for the speed; a note stays until there is another
    assert lines == [
        "2026-11-28 10:30:43 epoch 1/1: 850 of 1000 events, 37.5/s, 0:04 left, loss 2",
        "2026-11-28 10:30:43 epoch 1/1: 1000 of 1000 events, 37.5/s, loss 1",
    ]


def test_other_processes_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "epoch 1/1", silent=True) as bar:
        bar.advance(10, "loss 1")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "0:04"), (59.6, "1:00"), (3599, "59:59"), (93784, "26:03:04")])
def test_what_is_left_is_read_like_a_clock(seconds: float, text: str) -> None:
    assert module._clock(seconds) == text
