"""Exported graphs in 16 and in 8 bits, and what they lose.

The quick look, the anchors and all transforms of counts and times stay in float32, whatever is asked: 16 bits cannot
hold counts up to 1e6, or picoseconds. Only products with trained weights are changed.

`float16`: weights are kept and multiplied in 16 bits, where the processor can (GPUs, some Arm); elsewhere ONNX Runtime
converts as it goes, and only the file is smaller. `int8`: matrices are kept in 8 bits, a scale a column, and
multiplied as whole numbers; what they are multiplied with is brought to 8 bits event batch by event batch ("dynamic"),
so that no calibration sample is needed. Convolutions stay in float32, for which ONNX Runtime has the faster kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xecml.errors import InputError
from xecml.inference.export_subjects import Arrays
from xecml.inference.onnx_writing import Graph, quiet

PRECISIONS = ("float32", "float16", "int8")
_MOST_KEPT = 4_000_000
"""Differences of one answer that are kept for quantiles; later ones only count for the largest."""


@dataclass(frozen=True)
class Loss:
    """How far answers of a graph are from those in float32, in widths of the target."""

    within: float
    """68 % of events differ by less"""
    largest: float


def reduced(graph: Graph, precision: str, out: Path) -> Any:
    """The graph in 16 or 8 bits, as an ONNX model.

    Args:
        graph: in float32; it is left as it is.
        precision: `float16` or `int8`.
        out: a file that may be written meanwhile.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    with quiet():
        changed = (_float16 if precision == "float16" else _int8)(proto, graph.layers, out)
    used = {node.domain for node in changed.graph.node}
    kept = [one for one in changed.opset_import if one.domain in used or one.domain == ""]
    del changed.opset_import[:]
    changed.opset_import.extend(kept)
    changed.graph.ClearField("value_info")
    changed.ir_version = proto.ir_version
    return changed


def _float16(proto: Any, layers: tuple[str, ...], out: Path) -> Any:
    """The same with a conversion before and after each product; the library's own would convert raw counts too."""
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    made: set[str] = set()
    for node in list(graph.node):
        if node.name not in layers:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            node.input[i] = half = f"{name}_16"
            if half in made:
                continue
            made.add(half)
            if name in tensors:
                weights = numpy_helper.to_array(tensors[name]).astype(np.float16)
                if not np.isfinite(weights).all():
                    raise InputError(f"The weights {name} are too large for float16; export the model in float32.")
                graph.initializer.append(numpy_helper.from_array(weights, half))
            else:
                nodes.append(helper.make_node("Cast", [name], [half], f"{name}_to_16", to=TensorProto.FLOAT16))
        answer = node.output[0]
        node.output[0] = f"{answer}_in_16"
        nodes += [
            node,
            helper.make_node("Cast", [node.output[0]], [answer], f"{answer}_from_16", to=TensorProto.FLOAT),
        ]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    for field, values in ((graph.node, nodes), (graph.initializer, kept)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    return proto


def _int8(proto: Any, layers: tuple[str, ...], out: Path) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # the library makes a product and a sum of a Gemm, by a name of its own
    names = [name + ending for name in layers for ending in ("", "_MatMul")]
    # unsigned weights: beside unsigned numbers signed ones overflow on processors without VNNI
    quantize_dynamic(
        proto,
        str(out),
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        nodes_to_quantize=names,
    )
    changed = onnx.load(str(out))
    if not any(node.op_type == "MatMulInteger" for node in changed.graph.node):
        raise InputError("No matrix of this model can be converted to 8 bits; export it in float32 or float16.")
    return changed


class Losses:
    """Losses by answer, gathered chunk by chunk; memory does not grow with the sample."""

    def __init__(self, apart: Callable[[Arrays, Arrays, Arrays], Arrays]) -> None:
        self._apart = apart
        self._parts: dict[str, list[NDArray[np.float32]]] = {}
        self._largest: dict[str, float] = {}
        self._kept: dict[str, int] = {}
        self.events = 0

    def add(self, feed: Arrays, exact: Arrays, rough: Arrays) -> None:
        """Take answers to a chunk of events in."""
        self.events += len(next(iter(feed.values())))
        for name, values in self._apart(feed, exact, rough).items():
            # of an answer of several numbers the one that is furthest off, of sensors each
            away = values.reshape(len(values), -1).max(1) if values.size else np.zeros(0)
            self._largest[name] = max(self._largest.get(name, 0.0), float(away.max(initial=0.0)))
            if self._kept.get(name, 0) < _MOST_KEPT:
                self._parts.setdefault(name, []).append(away.astype(np.float32))
                self._kept[name] = self._kept.get(name, 0) + len(away)

    def by_answer(self, precision: str) -> dict[str, Loss]:
        """Losses by answer.

        Raises:
            InputError: an answer is a number in one precision and none in the other.
        """
        found = {
            name: Loss(float(np.quantile(np.concatenate(parts), 0.68)), self._largest[name])
            for name, parts in self._parts.items()
            if sum(map(len, parts))
        }
        if broken := [name for name, loss in found.items() if not np.isfinite(loss.largest)]:
            raise InputError(
                f"In {precision} the model has no answer for {', '.join(broken)} where float32 has one; nothing was "
                "written: export it in float32."
            )
        return found


def loss_as_dict(losses: dict[str, Loss]) -> dict[str, dict[str, float]]:
    """Losses as JSON has them."""
    return {name: {key: float(f"{value:.3g}") for key, value in asdict(loss).items()} for name, loss in losses.items()}
