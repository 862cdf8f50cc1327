"""Numbers and names that settings take, and what is said of others: a whole sentence with key, place and unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xecml.config import Config
from xecml.errors import InputError
from xecml.limits import file_name
from xecml.recipes import describe, load_config, run_name
from xecml.simulation.settings import OpticsSettings, ResponseSettings, SimulationSettings, make_settings

NUMERIC = [key for key, default, *_ in describe() if isinstance(default, int | float) and not isinstance(default, bool)]
NUMERIC += [f"normalization.{name}" for name in ("npho_scale", "npho_scale2", "time_scale", "time_shift")]
NUMERIC += ["model.head_dropout", "masking.ratio_start"]
NO_NUMBERS = (
    ".nan",
    ".inf",
    "-.inf",
    "nan",
    "1e300",
    "-1e300",
    "yes",
    "{a: 1}",
    "[1, 2]",
    "2024-05-01",
    "text",
    "1.2.3",
)
"""What belongs to no numeric key at all."""


def test_all_numeric_keys_are_looked_at() -> None:
    assert len(NUMERIC) > 70


@pytest.mark.parametrize("key", NUMERIC)
def test_a_numeric_key_takes_only_sane_numbers(key: str) -> None:
    for value in NO_NUMBERS:
        with pytest.raises(InputError) as caught:
            load_config(None, [f"{key}={value}"])
        assert f"'{key}' (--set {key}=" in str(caught.value), value
        assert "\n" not in str(caught.value)


def simulation_keys() -> list[tuple[str, str | None]]:
    sections = ((None, SimulationSettings), ("response", ResponseSettings), ("optical", OpticsSettings))
    return [
        (name, section)
        for section, model in sections
        for name, field in model.model_fields.items()
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    ]


@pytest.mark.parametrize(("key", "section"), [*simulation_keys(), ("energy_mev", None)])
def test_a_numeric_setting_takes_only_sane_numbers(key: str, section: str | None) -> None:
    for value in (
        float("nan"),
        float("inf"),
        -float("inf"),
        1e300,
        -1e300,
        True,
        {"a": 1},
        [1, 2, 3],
        "2024-05-01",
        b"1",
    ):
        values: dict[str, Any] = {key: value} if section is None else {section: {key: value}}
        with pytest.raises(InputError) as caught:
            make_settings(values, "file.yaml", {f"{section}.{key}" if section else key: 7})
        assert f" of {f'{section}.' if section else ''}{key} in file.yaml, line 7: " in str(caught.value), value
        assert "\n" not in str(caught.value)


def test_bounds_are_given_with_their_unit() -> None:
    for setting, message in (
        ("augmentation.time_jitter=1", r"input should be less than or equal to 0.001 s\."),
        ("data.batch_size=100000", r"'data.batch_size' .*: input should be less than or equal to 65536 events\."),
        ("training.seed=1000000000000000000000000000000", r"less than or equal to 9223372036854775807\."),
    ):
        with pytest.raises(InputError, match=message):
            load_config(None, [setting])
    with pytest.raises(InputError, match=r"depth_cm in here: input should be less than or equal to 100 cm\."):
        make_settings({"depth_cm": [0, 1000]}, "here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.lr=1e-7"], "training.lr_min = 1e-06 is above training.lr = 1e-07"),
        (["tasks.angle.weight=0"], "nothing is learnt"),
        (["training.npho_weight=0", "training.time_weight=0"], "are both 0"),
        (["augmentation.pileup_light=[0.5, 0.1]"], "pileup_light must rise"),
        (["data.train_path=a\0b"], "not valid YAML"),
        ([f"checkpoint.save_dir=a/{'x' * 256}"], "'checkpoint.save_dir' .* it has a part longer than 255 bytes"),
        (['data.train_path="a\\0b"'], "'data.train_path' .* it holds a NUL"),
        (['checkpoint.save_dir="a\\0b"'], "'checkpoint.save_dir' .* it holds a NUL"),
        (['data.train_path="\\udcff"'], "'data.train_path' .* it is not UTF-8"),
        (["mlflow.experiment="], "'mlflow.experiment'"),
        (["mlflow.experiment=''"], "'mlflow.experiment' .* it is empty"),
        (["export.onnx=.."], "'export.onnx' .* cannot hold"),
        (["training.strategy=ddp"], "Unknown key 'training.strategy'"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config(None, settings)
    assert "\n" not in str(caught.value)


def test_a_commented_out_section_has_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("training:\n#  lr: 1\ndata:\n")
    assert load_config(tmp_path / "recipe.yaml", job="mae") == load_config(None, job="mae")
    with pytest.raises(InputError, match="no job 'train'"):
        load_config(None, job="train")


@pytest.mark.parametrize("name", ["first", "run 4", "v2.1", "2024-05-01", "größe", "a..b", "[1]", "x" * 100])
def test_good_names_of_runs(name: str) -> None:
    assert file_name(name) == name
    assert load_config(None, flags={"mlflow.run_name": name}).mlflow.run_name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "it is empty"), ("  ", "it is empty"), (".", "cannot hold"), ("..", "cannot hold"), ("a/b", "cannot hold"),
        ("../a", "cannot hold"), ("a\\b", "cannot hold"), ("a\nb", "a line break"), ("a\0b", "cannot be printed"),
        ("x" * 101, "longer than 100 bytes"), ("ä" * 60, "longer than 100 bytes"),
        (" a", "begins or ends with a blank"),
        ("\udcff", "cannot be printed"),
    ],
)  # fmt: skip
def test_bad_names_of_runs(name: str, message: str) -> None:
    with pytest.raises(InputError, match=r"'mlflow.run_name' \(the command line\): .*" + message) as caught:
        load_config(None, flags={"mlflow.run_name": name})
    assert str(caught.value).isprintable()


def test_a_run_without_a_name_is_called_after_its_recipe() -> None:
    assert run_name(Config(), "a/tiny.yaml", "mae") == "tiny"
    assert run_name(Config(), None, "mae") == "mae"
    with pytest.raises(InputError, match="A run cannot be named .* after its recipe: it is longer"):
        run_name(Config(), "x" * 150 + ".yaml", "mae")
