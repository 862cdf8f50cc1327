"""References of the command line and of recipes, written from the code when the site is built: no copy grows old.

A page asks for one by a line such as `<!-- generated: commands -->`, and for a text of the repository that is a page
of the site too by `<!-- file: CHANGELOG.md -->`.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from xecml.choices import LOSSES, MASK_PATTERNS, PRESETS, REPAIRS
from xecml.cli.commands import app as command_line
from xecml.events import BRANCHES, TASKS
from xecml.recipes import JOBS, describe

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"^<!-- (generated|file): ([\w./-]+) -->$", re.MULTILINE)
PAGES = {
    "examples/README.md": "examples.md",
    "examples/cpp/README.md": "examples-cpp.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}
"""Texts of the repository outside of this folder that are pages of the site."""
_FILE_NAME = re.compile(r"\[(?:docs/)?([\w-]+\.md)\]\((\1(?:#[\w-]+)?)\)")
_ERROR = re.compile(r"(?<=\d) (±|\+-) (?=\d)")
_PAIR = re.compile(r"(?<=\| )([+-]?[\d.]+), ([+-]?[\d.]+)(?= \|)")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def _cell(text: object) -> str:
    """Text for a cell of a table: no line breaks, and what Markdown or HTML would read otherwise escaped."""
    return re.sub(r"([|*_<>\[\]$#~`{}])", r"\\\1", " ".join(str(text).split()))


def _code(text: object) -> str:
    """Text as code in a cell of a table; a vertical bar would end the cell."""
    inner = " ".join(str(text).split()).replace("|", "\\|")
    return f"`{inner}`" if inner else ""


def _table(headers: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


# ------------------------------------------------------------------------------------------------ command line


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command under a group, with its full name, in the order of `xec --help`."""
    if hasattr(command, "commands"):
        for inner, child in command.commands.items():
            yield from walk(child, f"{name} {inner}")
    else:
        yield name, command


def commands() -> str:
    """A section for each command: what it does, how it is called, its arguments and options."""
    lines: list[str] = []
    for name, command in walk(typer.main.get_command(command_line), "xec"):
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join([name, *command.collect_usage_pieces(context)]).translate({ord("{"): None, ord("}"): None})
        usage = usage.replace("......", "...")  # of names that have the dots themselves
        lines += [f"## {name}", "", _prose(command.help or ""), "", "```text", usage, "```", ""]
        records = [parameter.get_help_record(context) for parameter in command.params]
        rows = [[_code(names), _cell(meaning)] for names, meaning in filter(None, records)]
        lines += _table(["argument or option", "meaning"], rows)
    return "\n".join(lines)


def _prose(text: str) -> str:
    return re.sub(r"([*_<>\[\]$#`])", r"\\\1", text.strip())


# ------------------------------------------------------------------------------------------------------ recipes


def recipe_keys() -> str:
    """A section for each section of a recipe: keys, defaults of the jobs, units and meanings."""
    by_job = {job: {key: default for key, default, _, _ in describe(job)} for job in JOBS}
    sections: dict[str, list[list[str]]] = {}
    for key, default, unit, meaning in describe():
        section = key.partition(".")[0] if "." in key else "(top level)"
        values = {job: defaults[key] for job, defaults in by_job.items()}
        others = [f"{job}: {_code(_value(v))}" for job, v in values.items() if v != default]
        shown = "; ".join([_code(_value(default)), *others])
        sections.setdefault(section, []).append([_code(key), shown, _cell(unit), _cell(meaning)])
    lines: list[str] = []
    for section, rows in sections.items():
        lines += [f"## {section}", "", *_table(["key", "default", "unit", "meaning"], rows)]
    return "\n".join(lines)


def _value(value: object) -> str:
    """A default as a recipe writes it."""
    return json.dumps(value, default=str)


def choices() -> str:
    """Tables of what can be named: tasks, losses, networks, patterns of hidden sensors, repairs."""
    named = {
        "Losses (`tasks.*.loss_fn`)": LOSSES,
        "Networks (`model.preset`)": PRESETS,
        "Patterns of hidden sensors (`masking.*`)": MASK_PATTERNS,
        "Repairs (`xec inpaint`, `xec evaluate`)": REPAIRS,
    }
    rows = [[_code(name), _code(task.truth), _cell(", ".join(task.columns))] for name, task in TASKS.items()]
    lines = ["## Tasks (`tasks.*`)", "", *_table(["task", "branch of the truth", "columns"], rows)]
    for title, entries in named.items():
        rows = [[_code(name), _cell(getattr(entry, "meaning", entry))] for name, entry in entries.items()]
        lines += [f"## {title}", "", *_table(["name", "meaning"], rows)]
    return "\n".join(lines)


def branches() -> str:
    """A table of the branches of event files: shape, type, unit, meaning."""
    rows = []
    for name, branch in BRANCHES.items():
        shape = " x ".join(map(str, branch.shape)) or "1"
        rows.append([_code(name), shape, _code(branch.dtype), _cell(branch.unit), _cell(branch.meaning)])
    return "\n".join(_table(["branch", "numbers an event", "type", "unit", "meaning"], rows))


GENERATED = {"commands": commands, "recipe-keys": recipe_keys, "choices": choices, "branches": branches}


def relinked(text: str, folder: str) -> str:
    """A text of the repository with the links of a page: those that leave the folder of pages lead to other pages.

    Args:
        text: in Markdown, its links as seen from `folder`.
        folder: of the text in the repository.
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        return "](" + PAGES.get(target, posixpath.relpath(target, "docs"))

    return _LINK.sub(link, text)


def repository_text(path: str) -> str:
    """A text of the repository, its links as they are seen from the folder of pages."""
    return relinked((ROOT / path).read_text(encoding="utf-8"), posixpath.dirname(path))


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    def written(found: re.Match[str]) -> str:
        if found[1] == "file":
            return repository_text(found[2])
        if found[2] not in GENERATED:
            raise ExtensionError(f"{page} asks for '{found[2]}', which is none of {', '.join(GENERATED)}.")
        return GENERATED[found[2]]()

    text = _MARK.sub(written, relinked(source[0], "docs"))
    # the name of a file is what one sees in the repository; the site shows the page's title
    text = _FILE_NAME.sub(r"[](\2)", text)
    source[0] = "\n".join(_unbroken(line) if line.startswith("|") else line for line in text.split("\n"))


def _unbroken(row: str) -> str:
    """A row of a table in which numbers stay beside their errors, and a pair of numbers in one line."""
    return _PAIR.sub("\\1,\u00a0\\2", _ERROR.sub("\u00a0\\1\u00a0", row))


def _always(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Generated pages are read anew by every build, since the code may have changed."""
    pages = (page for page in env.found_docs if page not in added)
    return [page for page in pages if _MARK.search(Path(env.doc2path(page)).read_text(encoding="utf-8"))]


def setup(app: Sphinx) -> dict[str, Any]:
    """Fill generated parts into pages as they are read."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _always)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
