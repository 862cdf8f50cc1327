"""How many events each cut leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CutFlow:
    """Events that are left after each cut, in the order of the cuts.

    Attributes:
        left: events or, where each photon has an entry of its own, photons, by what was asked of them.
    """

    left: dict[str, int] = field(default_factory=dict)

    def count(self, cut: str, left: int) -> None:
        """Add what a cut leaves of a chunk."""
        self.left[cut] = self.left.get(cut, 0) + left

    @property
    def last(self) -> int:
        """What all cuts together leave."""
        return next(reversed(self.left.values()), 0)

    def costliest(self) -> str:
        """The cut after which nothing was left, for messages."""
        return next((cut for cut, left in self.left.items() if left == 0), "none")

    def rows(self) -> list[list[str]]:
        """Rows (cut, left, share of those before, share of all) for a table."""
        rows, all_, before = [], next(iter(self.left.values()), 0), 0
        for i, (cut, left) in enumerate(self.left.items()):
            rows.append(
                [cut, str(left), "" if i == 0 else _percent(left, before), "" if i == 0 else _percent(left, all_)]
            )
            before = left
        return rows

    def as_list(self) -> list[dict[str, Any]]:
        """The table for JSON."""
        return [{"cut": cut, "left": left} for cut, left in self.left.items()]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
