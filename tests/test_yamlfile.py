"""One reader of YAML: what plain values mean, where keys stand, and what is refused before it costs anything."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

from xecml.errors import InputError
from xecml.yamlfile import parse_value, read_yaml


def read(folder: Path, text: str | bytes) -> tuple[dict[str, object], dict[str, int]]:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path, "recipe", "sections such as 'data:'")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("-3", -3), ("1_000", 1000), ("0x1f", 31), ("1.5", 1.5), ("1.e+3", 1000.0), (".inf", math.inf),
        ("1:30", "1:30"), ("15:59.5", "15:59.5"), ("2024-05-01", "2024-05-01"), ("2024-13-45", "2024-13-45"),
        ("12e4567", "12e4567"), ("yes", True), ("null", None), ("", None), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_plain_values_mean_what_users_mean(tmp_path: Path, text: str, value: object) -> None:
    assert parse_value(text, "--set x") == value
    assert read(tmp_path, f"x: {text}\n")[0] == {"x": value}


def test_every_key_has_its_line(tmp_path: Path) -> None:
    content, lines = read(tmp_path, "\ufeffusual: &u {lr: 1, epochs: 2}\n\ntraining:\n  <<: *u\n  lr: 3\n")
    assert content == {"usual": {"lr": 1, "epochs": 2}, "training": {"lr": 3, "epochs": 2}}
    assert lines == {
        "usual": 1, "usual.lr": 1, "usual.epochs": 1, "training": 3, "training.lr": 5, "training.epochs": 1,
    }  # fmt: skip
    assert read(tmp_path, "# nothing\n") == ({}, {})


_BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{own}: &{own} [{', '.join([f'*{before}'] * 9)}]\n" for before, own in zip("abcdefgh", "bcdefghi", strict=True)
)
_CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_BOMB, r"line \d: it holds more than 10000 values, aliases counted each time"),
        (_CHAIN, "line 16: it is nested deeper than 16 levels by aliases"),
        ("[" * 100_000, "line 1: it is nested deeper than 16 levels"),
        ("a: [" + "[]," * 60_000, "line 1: it holds more than 10000 values"),
        ("# " + "x" * 300_000, "larger than 300 kB"),
        ("a: &a [*a]\n", "an alias stands for what it is in itself"),
        ("a: *b\n", "line 1 is not valid YAML: found undefined alias"),
        ("training:\n  lr: 1\n  epochs: 1\n  lr: 2\n", "line 4: the key 'lr' stands in line 2 too"),
        ("training:\n  3: 1\n", "line 2: the key 3 is no name"),
        ("? [a]\n: 1\n", "the key a list or section is no name"),
        ("a: 1\nb: !!binary MTI=\n", "line 2: a value of the type !!binary has no meaning here"),
        ("a: !!python/object/apply:os.getcwd []\n", "a value of the type !!python/object"),
        ("a: " + "1" * 6000, "line 1: 1{40} cannot be read"),
        ("a: !!bool abc\n", "line 1: abc cannot be read"),
        ('a: "\\U00110000"\n', "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "line 2 is not valid YAML: but found another document"),
        ("a: 1\nb: 'x\0'\n", "line 2 is not valid YAML: it holds a character that is not allowed in text"),
        (b"a: 1\nb: \xe9\n", "line 2 is not text in UTF-8; save the recipe as UTF-8"),
        ("a: 1\n".encode("utf-16"), "line 1 is not text in UTF-8"),
        ("- a\n", "must hold sections such as 'data:'"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused_at_once(tmp_path: Path, text: str | bytes, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert time.monotonic() - started < 5
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml")
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
    assert "\n" not in str(caught.value)


def test_only_ordinary_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, message in (("pipe.yaml", "is a pipe, not a recipe"), ("none.yaml", "No such recipe"), ("", "a folder")):
        with pytest.raises(InputError, match=message):
            read_yaml(tmp_path / name, "recipe", "sections")


def test_a_wrong_value_of_a_setting_names_the_setting() -> None:
    for text, message in (("[1", "--set a.b: the value is not valid YAML"), ("[" * 40, "the value: it is nested")):
        with pytest.raises(InputError, match=message):
            parse_value(text, "--set a.b")
