"""Wrong words on the command line: one sentence on standard error that says what to write, and exit status 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from xecml.cli import main, usage_errors
from xecml.errors import InputError


def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str, str]:
    """Status, standard output and standard error of `xec` with some words after it."""
    monkeypatch.setattr(sys, "argv", ["xec", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.out, printed.err


WRONG = {
    # a value that is none of the choices
    "evaluate m.pth f.root --out d --reference foo": "--reference of 'xec evaluate' cannot be 'foo'; "
    "choose truth or reco.",
    "calibrate m.pth f.root --out x.pth --reference trth": "--reference of 'xec calibrate' cannot be 'trth' "
    "(did you mean 'truth'?); choose truth or reco.",
    "train foo": "JOB of 'xec train' cannot be 'foo'; choose regress, mae or inpaint.",
    # numbers
    "simulate a.root -n 0": "--events of 'xec simulate' cannot be '0'; give a number of 1 or more.",
    "simulate a.root -n 3 --dead 2": "--dead of 'xec simulate' cannot be '2'; give a number of 1 or less.",
    "simulate a.root -n many": "--events of 'xec simulate' cannot be 'many'; give a whole number.",
    "evaluate m.pth f.root --out d --line x": "--line of 'xec evaluate' cannot be 'x'; give a number.",
    # options
    "--hlep": "'xec' has no option --hlep (did you mean '--help'?); 'xec --help' lists its options.",
    "predict m.pth f.root --uot x.root": "'xec predict' has no option --uot (did you mean '--out'?); "
    "'xec predict --help' lists its options.",
    "predict m.pth f.root -x": "'xec predict' has no option -x; 'xec predict --help' lists its options.",
    "submit train regress --epoch 3": "'xec train' has no option --epoch (did you mean '--epochs'?); "
    "'xec train --help' lists its options.",
    "simulate a.root -n": "-n of 'xec simulate' needs a value; write it after the option.",
    "recipes copy regress --force=yes": "--force of 'xec recipes copy' takes no value; write --force alone.",
    # what is missing or too much
    "evaluate": "'xec evaluate' needs CHECKPOINT, which is missing; write 'xec evaluate CHECKPOINT FILE... --out OUT'.",
    "simulate a.root": "'xec simulate' needs --events, which is missing; write 'xec simulate OUT.root -n EVENTS'.",
    "diff a.root b.root c.root": "'xec diff' does not know what to do with 'c.root'; "
    "write 'xec diff A.root B.root'.",
    "train": "'xec train' needs to know what to train; name regress, mae or inpaint.",
    # commands
    "evaluat m.pth": "'xec' has no command 'evaluat' (did you mean 'evaluate'?); 'xec --help' lists its commands.",
    "recipes copi": "'xec recipes' has no command 'copi' (did you mean 'copy'?); "
    "'xec recipes --help' lists its commands.",
}  # fmt: skip


@pytest.mark.parametrize("line", list(WRONG))
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_wrong_words_are_one_sentence(
    line: str,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line.split()
    # before what is wrong, where the command knows the option; the first word may be the wrong one
    known = words[0] not in ("--hlep", "evaluat", "recipes", "submit")
    status, out, said = say(monkeypatch, capsys, [words[0], *(more if known else []), *words[1:]])
    assert (status, out) == (2, "")
    assert said == f"xec: {WRONG[line]}\n"
    assert list(tmp_path.iterdir()) == []


def test_words_that_no_terminal_shows_stay_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, said = say(monkeypatch, capsys, ["info", "a.root", "b\n\x1b[31m" + 300 * "x"])
    assert status == 2
    assert said.count("\n") == 1
    assert "\\x1b[31mxxx" in said
    assert "\x1b" not in said
    assert len(said) < 200


@pytest.mark.parametrize("words", [[], ["submit"], ["tune"]])
def test_a_group_without_a_command_prints_its_help(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, said = say(monkeypatch, capsys, words)
    assert status == 2
    assert "Commands:" in out + said


def test_right_words_go_on_to_their_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, said = say(monkeypatch, capsys, ["recipes", "--json"])
    assert (status, said) == (0, "")
    assert '"regress"' in out
    assert say(monkeypatch, capsys, ["train", "--help"])[0] == 0


def test_an_error_that_the_parser_words_anew_is_still_a_sentence() -> None:
    """What a later version of the parser may say is passed on with where help is."""
    error = usage_errors.UsageError("Something else.")
    assert usage_errors.sentence(error, "xec info") == "Something else; see 'xec info --help'."


def test_statuses_of_commands_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def one(status: int) -> None:
        raise typer.Exit(status)

    monkeypatch.setattr(sys, "argv", ["one", "75"])
    with pytest.raises(SystemExit) as ended:
        usage_errors.run(app, "one")
    assert ended.value.code == 75
    monkeypatch.setattr(sys, "argv", ["one"])
    with pytest.raises(InputError, match="'one' needs STATUS, which is missing; write 'one STATUS'"):
        usage_errors.run(app, "one")
