"""What a release says of itself: one version everywhere, how it is cited, where one asks."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import xecml
from tests.test_training import TINY
from xecml.inference import prediction_record
from xecml.models.build import build_model
from xecml.recipes import load_config
from xecml.simulation import manifest
from xecml.simulation.settings import load_settings
from xecml.training import checkpoint_writing

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"

# keys of the Citation File Format 1.2.0, by what holds them
OF_FILE = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
    "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "title", "type", "url", "version",
}  # fmt: skip
OF_PERSON = {"affiliation", "alias", "email", "family-names", "given-names", "name", "orcid", "website"}
OF_REFERENCE = {
    "authors", "doi", "end", "journal", "license", "month", "notes", "pages", "publisher", "start", "title", "type",
    "url", "volume", "year",
}  # fmt: skip


def _citation() -> dict[str, Any]:
    read = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


def test_the_version_is_the_same_everywhere() -> None:
    notes = re.findall(r"^## (\d+\.\d+\.\d+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    citation = _citation()
    assert xecml.__version__ == PROJECT["version"] == citation["version"] == notes[0][0]
    assert notes[0][1] == citation["date-released"]
    versions = [tuple(map(int, version.split("."))) for version, _ in notes]
    assert versions == sorted(versions, reverse=True)
    assert f"version = {{{xecml.__version__}}}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_citation_file_is_of_its_format() -> None:
    citation = _citation()
    assert citation.keys() <= OF_FILE
    assert citation["cff-version"] == "1.2.0"
    for key in ("message", "title", "abstract", "version", "license", "date-released"):
        assert isinstance(citation[key], str), key
        assert citation[key].strip(), key
    assert citation["type"] in ("software", "dataset")
    assert citation["license"] == PROJECT["license"]
    assert datetime.date.fromisoformat(citation["date-released"]).year >= 2026
    assert all(isinstance(word, str) for word in citation["keywords"])
    references = citation["references"]
    for reference in references:
        assert reference.keys() <= OF_REFERENCE
        assert reference.keys() >= {"authors", "title", "type"}
    for author in [a for one in (citation, *references) for a in one["authors"]]:
        assert author.keys() <= OF_PERSON
        assert "name" in author or {"family-names", "given-names"} <= author.keys()
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in PROJECT["authors"]]


@pytest.mark.parametrize("name", ["bug_report", "physics_question", "feature_request"])
def test_a_template_of_an_issue_asks_for_what_is_needed(name: str) -> None:
    form = yaml.safe_load((TEMPLATES / f"{name}.yml").read_text(encoding="utf-8"))
    assert form.keys() >= {"name", "description", "body"}
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    ids = [part["id"] for part in asked]
    assert len(ids) == len(set(ids))
    assert all(part["attributes"]["label"] for part in asked)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_files_that_templates_and_notes_name_exist() -> None:
    texts = [*TEMPLATES.glob("*.yml"), ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    named = 0
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for file in re.findall(
            r"(?<![\w/.])((?:docs|src|tests|examples)/[\w/.-]+\.(?:md|py|yaml)|[A-Z]{6,}\.md)\b", text
        ):
            assert (ROOT / file).exists(), f"{path.name}: {file}"
            named += 1
    assert named > 20
    for path in texts:
        for command in re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")):
            assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), command


def test_the_front_page_has_what_a_front_page_has() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    top = text.partition("\n## ")[0]
    assert len(re.findall(r"^!\[.+\]\(docs/\w+\.png\)$", top, re.M)) == 1
    for title in ("Two commands", "What it reaches", "Tests", "How to cite", "Questions, contributing, licence"):
        assert f"\n## {title}\n" in text, title
    for file in ("CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "CHANGELOG.md"):
        assert f"({file})" in text, file
    assert "make demo PRETRAINED=1" in text
    # no badge or address that may not exist
    assert re.findall(r"https?://[^\s)`]+", text) == []


def test_files_of_version_0_1_0_are_read(tmp_path: Path) -> None:
    """A checkpoint of the version before, and a piece of a prediction that it began; a simulation begins anew."""
    config = load_config(TINY)
    network = build_model(config)
    content = checkpoint_writing.manifest() | {
        "kind": "regress", "config": config.model_dump(mode="json"), "tasks": list(network.tasks),  # type: ignore[arg-type]
        "model_state": network.state_dict(), "loss_state": {}, "ema_state": network.state_dict(), "ema_updates": 1,
        "optimizer_state": {}, "random_states": [[torch.get_rng_state()]], "epoch": 2, "batch_in_epoch": 0,
        "data_fingerprint": "0", "sums": {"sums": {}, "counts": {}}, "best": 1.5, "since_best": 0,
        "metrics": {"epoch": 1, "val/loss": 1.5}, "reweighting": None, "run_name": "run", "run_id": None,
    }  # fmt: skip
    assert content["xecml"] == xecml.__version__
    torch.save(content | {"xecml": "0.1.0"}, tmp_path / "before.pth")
    assert xecml.load_model(tmp_path / "before.pth").tasks == tuple(network.tasks)

    wanted = {"version": xecml.__version__, "model": {"sha256": "1"}, "inputs": [], "options": {}, "device": "cpu"}
    before = json.dumps(wanted | {"version": "0.1.0"})
    assert prediction_record._differences(before, wanted) == []
    assert prediction_record._differences(json.dumps(wanted | {"options": {"keep": ["a"]}}), wanted) == [
        "other options"
    ]

    out = tmp_path / "part.root"
    record = manifest.make_manifest(load_settings(None), 1, 64, 32, 64)
    manifest.write_manifest(out, record, finished=False)
    assert manifest.broken_run(out, record)
    manifest.write_manifest(out, record | {"version": "0.1.0"}, finished=False)
    assert not manifest.broken_run(out, record)
