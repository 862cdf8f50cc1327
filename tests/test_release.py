"""What a release says of itself: one version everywhere, how it is cited, where one asks."""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import xecml

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
