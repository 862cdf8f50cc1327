"""The page of a study: one self-contained file of HTML with its pictures and tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from xecml.errors import InputError
from xecml.figures import search_pictures
from xecml.figures.style import as_svg
from xecml.files import atomic_path
from xecml.notebook import table_html
from xecml.outputs import claim, making, mark
from xecml.tuning.summary import Summary

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0.2em; } h2 { font-size: 1.15em; margin-top: 2em; }
p.small { color: #666; font-size: 0.9em; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
td { white-space: nowrap; }
table { border-collapse: collapse; font-size: 0.9em; } th, td { padding: 0.25em 0.8em; text-align: right; }
th { border-bottom: 1px solid #999; font-weight: 600; } tr:nth-child(even) td { background: #f6f6f6; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
code { background: #f2f2f2; padding: 0.1em 0.35em; border-radius: 3px; }
"""


@making("tune")
def write_page(found: Summary, out: str | Path, *, force: bool = False) -> None:
    """Write the page of a study.

    Args:
        found: what came out of it.
        out: `.html` to write.
        force: replace a file that this command did not make.

    Raises:
        InputError: the output is no name of a page, or cannot be written.
    """
    if Path(out).suffix.lower() != ".html":
        raise InputError(f"Cannot write a page as {out}; choose a name that ends in .html.")
    claim([out], inputs=[found.folder / "study.json", found.folder / "journal.log"], force=force)
    text = page(found)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(found: Summary) -> str:
    """The page of a study as HTML."""
    trials = [row.shown for row in found.rows]
    scored = [one for one in trials if one.state in ("complete", "pruned") and one.score is not None]
    title = f"Study {found.folder.name or found.folder}"
    parts = [f"<h1>{_text(title)}</h1>"]
    how = f"{found.job}, {found.metric} (lower is better), values by {found.sampler}, pruning by {found.pruner}"
    parts.append(f'<p class="small">{_text(how)}</p>')
    parts += [f"<p>{_text(line)}</p>" for line in found.lines()]
    parts += _best(found)
    if found.importances:
        parts += _picture(
            "What mattered",
            as_svg(search_pictures.importances_figure(found.importances)),
            "Share of each key in what separates the best trials from the others (PED-ANOVA).",
        )
    if scored:
        parts += _picture(
            "Trials and epochs",
            as_svg(search_pictures.history_figure(trials, found.metric)),
            "Left the score of each trial, right that of each epoch.",
        )
        parts += _picture(
            "Values together",
            as_svg(search_pictures.parallel_figure(trials, found.keys, found.metric, found.log)),
            "A line a trial; dark ones are the best, grey ones were ended early, the dashed one is the recipe.",
        )
        parts += _picture(
            "Values one by one",
            as_svg(search_pictures.slices_figure(trials, found.keys, found.metric, found.log)),
            "Bright points are late trials, crosses were ended early, the circle is the recipe.",
        )
    parts += ["<h2>All trials</h2>", f'<div class="wide">{table_html(*found.table())}</div>']
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<!-- {mark()} -->\n'
        f"<title>{_text(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    )
    return head + "\n".join(parts) + "\n</body>\n</html>\n"


def _best(found: Summary) -> Sequence[str]:
    """The best trial beside the recipe: values, and all numbers of its validation."""
    winner = found.winner
    first = next((row for row in found.rows if row.shown.number == 0), None)
    if winner is None or first is None:
        return []
    both = [first, winner] if winner is not first else [winner]
    names = ["recipe (trial 0)", f"best (trial {winner.shown.number})"][-len(both) :]
    rows = [[key, *(_value(row.shown.values.get(key)) for row in both)] for key in found.keys]
    numbers = [[name, *(_value(row.metrics.get(name)) for row in both)] for name in winner.metrics]
    parts = ["<h2>The best trial</h2>", f'<div class="wide">{table_html(["key", *names], rows)}</div>']
    if numbers:
        parts.append(f'<h2>Its validation</h2><div class="wide">{table_html(["number", *names], numbers)}</div>')
    return parts


def _picture(title: str, address: str, meaning: str) -> list[str]:
    alt = html.escape(f"{title}: {meaning}")
    return [f"<h2>{_text(title)}</h2>", f'<p class="small">{_text(meaning)}</p>', f'<img alt="{alt}" src="{address}">']


def _value(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def _text(text: str) -> str:
    return html.escape(text, quote=False)
