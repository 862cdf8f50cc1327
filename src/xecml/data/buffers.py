"""Memory for batches, used again as soon as nothing refers to it."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xecml.data.rows import Layout
from xecml.geometry import N_SENSORS

EVENT_BYTES = 10 * N_SENSORS
"""Counts and times of 4 bytes, two masks of 1."""


class Buffer:
    """Arrays by column; `lease` gives them as tensors, and `free` says whether all of these are gone."""

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self.columns = columns
        self._leased: list[weakref.ref[NDArray[Any]]] = []

    def lease(self) -> dict[str, Tensor]:
        """Tensors that share the arrays' memory."""
        tensors = {}
        for name, values in self.columns.items():
            view = values[:]  # lives as long as the storage of any tensor made of it
            self._leased.append(weakref.ref(view))
            tensors[name] = torch.from_numpy(view)
        return tensors

    @property
    def free(self) -> bool:
        """Whether it was leased, and no leased tensor nor any view of one is left."""
        return bool(self._leased) and all(view() is None for view in self._leased)


class Buffers:
    """Buffers of up to `events` events; fresh memory costs as much as a copy, so that free ones are used again."""

    def __init__(self, layout: Layout, events: int, pin_memory: bool) -> None:
        self._layout, self._events = layout, events
        self._pin = pin_memory and torch.cuda.is_available()
        self._made: list[dict[str, NDArray[Any]]] = []
        self._given: list[Buffer | None] = []

    def take(self, events: int) -> Buffer:
        """A buffer for a number of events, with undefined content."""
        for i, last in enumerate(self._given):
            if last is not None and last.free:
                if self._pin:
                    torch.cuda.synchronize()  # copies from it may still be under way
                return self._give(i, events)
        self._made.append(self._new())
        self._given.append(None)
        return self._give(len(self._made) - 1, events)

    def _give(self, i: int, events: int) -> Buffer:
        buffer = Buffer({name: values[:events] for name, values in self._made[i].items()})
        self._given[i] = buffer
        return buffer

    def _new(self) -> dict[str, NDArray[Any]]:
        return {name: self._empty(shape, dtype) for name, (shape, dtype) in self._layout.buffer_columns().items()}

    def _empty(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        if not self._pin:
            return np.empty((self._events, *shape), dtype)
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return np.asarray(torch.empty((self._events, *shape), dtype=kind, pin_memory=True).numpy())
