"""Tables of what `benchmarks/gpu.py` measured, in Markdown; and batch sizes that fit into the memory of cards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

CARDS_GB = {"A100 40 GB": 40, "A100 80 GB": 80, "H100 80 GB": 80, "GH200 96 GB": 96}
"""Memory of cards, as their makers count it."""
USABLE = 0.9
"""Share of it that a training may take: the rest is the driver's, and what its allocator cannot use."""
_MOST = 65_536
"""Largest batch of a recipe."""

Row = Mapping[str, Any]


def memory_law(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Bytes that a training takes whatever its batch, and for each event, by a straight line through peaks.

    Args:
        rows: of one preset and job, with `batch` and `peak_memory_bytes`.

    Returns:
        None where there are not two batch sizes.
    """
    known = {row["batch"]: row["peak_memory_bytes"] for row in rows if row.get("peak_memory_bytes")}
    if len(known) < 2:
        return None
    slope, fixed = np.polyfit(list(known), list(known.values()), 1)
    return max(float(fixed), 0.0), float(slope)


def largest_batch(fixed: float, an_event: float, memory_gb: float) -> int:
    """The largest power of two that fits, 0 if not even one event does.

    Args:
        fixed: bytes whatever the batch.
        an_event: bytes an event, above zero.
        memory_gb: of the card, 1e9 bytes.
    """
    room = (USABLE * memory_gb * 1e9 - fixed) / an_event
    return 0 if room < 1 else min(_MOST, 1 << int(np.log2(room)))


def markdown(found: Mapping[str, Any]) -> str:
    """All tables, those of parts that were not reached left out, and what was not reached."""
    machine = found["machine"]
    lines = [
        f"# {machine['device']}",
        "",
        f"{machine['date']}; PyTorch {machine['torch']}, CUDA {machine['cuda'] or 'none'}, driver "
        f"{machine['driver'] or 'none'}, {machine['architecture']}, {machine['cores']} processors; took "
        f"{found['seconds']:.0f} s of at most {found['budget_s']:.0f}.",
    ]
    if machine["small"]:
        lines += ["", "There is no GPU: this is a trial at a tiny size, and its numbers mean nothing for a GPU."]
    for title, table in _tables(found):
        if len(table) > 1:
            lines += ["", f"## {title}", "", *_table(table)]
    left = found["not_measured"]
    if left:
        lines += ["", "## Not measured, for want of time", "", *(f"- {what}" for what in left)]
    return "\n".join(lines) + "\n"


def _tables(found: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    rates = found["training"]
    return [
        ("Large products", [["precision", "TFLOP/s"], *([p, f"{r / 1e12:.3g}"] for p, r in found["matrix"].items())]),
        ("Training: events a second (share of the rate of large products)", _rates(rates)),
        ("Memory of a training, bf16, and the largest batch that fits", _memory(rates)),
        ("Agreement with the processor: relative differences", _agreement(found["agreement"])),
        ("Stopped and continued", _resume(found["resume"])),
        ("The whole loop, from files", _reading(found["reading"])),
        ("Prediction, from arrays to arrays", _prediction(found["prediction"])),
    ]


def _rates(rows: Sequence[Row]) -> list[list[str]]:
    columns = [(p, c) for c in (False, True) for p in ("float32", "tf32", "bf16")]
    cells: dict[tuple[str, str, int], dict[tuple[str, bool], str]] = defaultdict(dict)
    for row in rows:
        if "failed" in row:
            text = row["failed"]
        else:
            text = f"{row['events_per_s']:,.0f} ({100 * row['share_of_matrix_rate']:.0f} %)"
        cells[row["preset"], row["job"], row["batch"]][row["precision"], row["compiled"]] = text
    head = ["network", "job", "batch", *(f"{p}{', compiled' if c else ''}" for p, c in columns)]
    return [head, *([*map(str, key), *(of.get(column, "") for column in columns)] for key, of in cells.items())]


def _memory(rows: Sequence[Row]) -> list[list[str]]:
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["precision"] == "bf16" and not row["compiled"]:
            groups[row["preset"], row["job"]].append(row)
    table = [["network", "job", "MB whatever the batch", "MB an event", *CARDS_GB]]
    for key, group in groups.items():
        if (law := memory_law(group)) is not None:
            batches = [f"{largest_batch(*law, memory_gb):,}" for memory_gb in CARDS_GB.values()]
            table.append([*key, f"{law[0] / 1e6:.0f}", f"{law[1] / 1e6:.2f}", *batches])
    return table


_COMPARED = [(precision, of) for precision in ("float32", "tf32", "bf16") for of in ("loss", "gradient")]


def _agreement(rows: Sequence[Row]) -> list[list[str]]:
    def cells(row: Row) -> list[str]:
        return ["yes" if row["agrees"] else "NO", *(f"{row[precision][of]:.1e}" for precision, of in _COMPARED)]

    head = ["network", "job", "agrees", *(f"{precision} {of}" for precision, of in _COMPARED)]
    return [head, *([row["preset"], row["job"], *_or_failed(row, cells)] for row in rows)]


def _resume(rows: Sequence[Row]) -> list[list[str]]:
    def cells(row: Row) -> list[str]:
        return [_yes(row["twice_the_same"]), _yes(row["bit_for_bit"]), f"{row['largest_difference']:.1e}"]

    head = ["network", "job", "algorithms", "the same bits twice", "resumed bit for bit", "largest difference"]
    return [head, *([row["preset"], row["job"], row["algorithms"], *_or_failed(row, cells)] for row in rows)]


def _reading(rows: Sequence[Row]) -> list[list[str]]:
    def cells(row: Row) -> list[str]:
        rate, waiting = f"{row['events_per_s']:,.0f}", f"{row['waiting_ms_per_batch']:.2f}"
        return [str(row["batch"]), rate, waiting, f"{row['waiting_percent']:.1f}"]

    head = ["network", "job", "from", "batch", "events/s", "waiting, ms a batch", "waiting, %"]
    return [head, *([row["preset"], row["job"], row["from"], *_or_failed(row, cells)] for row in rows)]


def _or_failed(row: Row, cells: Callable[[Row], list[str]]) -> list[str]:
    """Cells of a measurement, or why there are none."""
    return [row["failed"]] if "failed" in row else cells(row)


def _prediction(rows: Sequence[Row]) -> list[list[str]]:
    head = ["network", "by", "batch", "events/s"]
    return [head] + [
        [row["preset"], row["by"], str(row["batch"]), row.get("failed") or f"{row['events_per_s']:,.0f}"]
        for row in rows
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    width = len(rows[0])
    full = [[*(cell.replace("|", "\\|") for cell in row), *[""] * (width - len(row))] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in full]
    return [lines[0], f"|{'---|' * width}", *lines[1:]]
