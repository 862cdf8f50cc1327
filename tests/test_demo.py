"""The demonstration: what it chooses for machines of different speed, and that it goes the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xecml import demo, demo_pretrained, load_model
from xecml.demo import CHOICES, MINUTES, PICTURES, Sizes, Speed, choose


def test_it_keeps_its_time_down_to_half_the_speed_at_which_it_takes_five_minutes() -> None:
    five = Speed(simulated=1100, trained=1400)
    assert five.minutes_for(CHOICES[0]) == pytest.approx(5, abs=0.5)
    left = MINUTES - 1  # a minute has gone for measuring and compiling
    assert choose(five, left) == CHOICES[0]
    for x in (0.8, 0.65, 0.5):
        slower = Speed(five.simulated * x, five.trained * x)
        chosen = choose(slower, left)
        assert slower.minutes_for(chosen) <= left, x
        assert chosen.train * chosen.epochs >= 120_000, x


def test_choices_are_in_order_and_a_machine_that_is_too_slow_gets_the_smallest() -> None:
    work = [sizes.train * sizes.epochs for sizes in CHOICES]
    assert work == sorted(work, reverse=True)
    assert choose(Speed(10, 10), 1) == CHOICES[-1]


@pytest.mark.slow
def test_it_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a size that shows nothing but that all steps are there; its checks say that nothing was learnt."""
    out = tmp_path / "demo"
    few = Sizes(train=600, val=128, test=128, epochs=1)
    monkeypatch.setattr(demo, "CHOICES", (few,))
    monkeypatch.setattr(demo, "_TRIAL_VALIDATED", 32)
    met = demo.run(out, Path("tiny"), jobs=1, map_quality="quick")
    summary = json.loads((out / "summary.json").read_text())
    assert met == all(check["met"] for check in summary["checks"])
    assert summary["events"] == {"train": 600, "validation": 128, "test": 128, "test at 52.8 MeV": 128}
    assert {"measure", "simulate", "train", "evaluate", "export", "predict", "display"} == set(summary["seconds"])
    for name in (*PICTURES, "checkpoint_best.pth", "model.onnx", "predictions.root"):
        assert (out / name).stat().st_size > 0, name
    assert load_model(out / "model.onnx").tasks == load_model(out / "checkpoint_best.pth").tasks
    said = capsys.readouterr().out
    assert "events/s: chosen are 600 events in 1 epochs; all of it takes about" in said
    assert "Pictures to open:" in said
    assert "xec predict --pretrained signal" in said
    assert all(str(out / name) in said for name in PICTURES)


@pytest.mark.slow
def test_the_shipped_weights_are_shown_beside_the_conventional_reconstruction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a small size: all steps are there, and the network knows more than where the target and the detector are."""
    out = tmp_path / "demo"
    summary = demo_pretrained.run(out, jobs=1, events=250)
    demo_pretrained.show(summary, out)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["events"] == 250
    assert set(summary["seconds"]) == {"simulate", "baseline", "evaluate", "display"}
    for name in (*demo_pretrained.PICTURES, "data/mono.root", "conventional.root", "evaluation/predictions.root"):
        assert (out / name).stat().st_size > 0, name
    rows = {row["quantity"]: row for row in summary["rows"]}
    assert list(rows) == ["theta", "phi", "energy / truth", "time", "u", "v", "w"]
    # ten times better than the spread of the sample in position; errors of 250 events are 4 %
    for quantity, most in {"u": 5, "v": 5, "w": 5, "energy / truth": 5, "time": 80}.items():
        assert 0 < rows[quantity]["s68"] < most, quantity
        assert 0 < rows[quantity]["conventional_s68"] < 2 * most, quantity
        assert rows[quantity]["conventional_s68"] != rows[quantity]["s68"], quantity
        assert rows[quantity]["published"], quantity
    assert rows["theta"]["published"] is None
    said = capsys.readouterr().out
    assert "conventional s68" in said
    assert "250 photons of 52.8 MeV, reconstructed by pretrained:signal and conventionally" in said
    assert all(str(out / name) in said for name in demo_pretrained.PICTURES)


def test_wrong_words_of_a_demonstration_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for app in (demo.app, demo_pretrained.app):
        monkeypatch.setattr("sys.argv", ["demo", "--jbos", "2"])
        with pytest.raises(SystemExit) as ended:
            demo.demonstrate(app)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said == "demo: 'demo' has no option --jbos (did you mean '--jobs'?); 'demo --help' lists its options.\n"
