"""Networks to ONNX graphs that old runtimes load: opset 18 and IR 8 unless asked otherwise."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xecml.errors import InputError
from xecml.garbage_collection import no_collection

OPSET = 18
"""The lowest that PyTorch's exporter writes; ONNX Runtime 1.15 and later load it."""
NEWEST_OPSET = 22
"""Later ones are not tested."""
OLDEST_OPSET = 7
"""Those before cannot hold today's operators at all."""
_PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Graph:
    """An ONNX model, and the names of its nodes that multiply by trained weights."""

    proto: Any
    layers: tuple[str, ...]

    @property
    def opset(self) -> int:
        """The set of operators it uses."""
        return int(next(o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")))


def graph_of(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> Graph:
    """An ONNX graph of a module whose arguments all have the batch as their first axis.

    Args:
        module: in evaluation.
        arguments: an example batch of 2; one of 1 would freeze the batch size.
        inputs: names of the arguments.
        outputs: names of the answers.
        opset: wanted; below 18 the graph has 18 all the same.

    Raises:
        InputError: libraries are missing, or the opset cannot be had.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InputError(f"Opset {opset} cannot be written; choose one from {OPSET} to {NEWEST_OPSET}.")
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so late
    except ImportError as error:
        raise InputError("Export needs ONNX; install it with: pip install 'xecml[onnx]'.") from error
    batch = torch.export.Dim("batch", min=1)
    wanted = max(opset, OPSET)
    with quiet(), no_collection():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(tuple({0: batch} for _ in arguments)),
            opset_version=wanted,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        _simplify(program.model)
    proto = program.model_proto
    graph = Graph(proto, _layers(proto, module))
    if graph.opset != wanted:
        raise InputError(f"This version of PyTorch cannot write opset {opset}; choose {OPSET}.")
    _plain(proto)
    return graph


def _simplify(model: Any) -> None:
    """Fold constants, drop what nothing uses and what is there twice, and shorten what is left, in place.

    The exporter's own simplification gives the same graph in six times the processor time: it tries its rules on every
    node before it looks which nodes are used, or there twice.
    """
    import onnx_ir.passes.common as passes
    from onnx_ir.passes import Sequential
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter import rewrite

    tidy = Sequential(
        passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(), passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(), passes.OutputFixPass(), passes.NameFixPass(),
    )  # fmt: skip
    passes.InlinePass()(model)
    fold_constants(model)
    tidy(model)
    rewrite(model)
    fold_constants(model)
    tidy(model)


def _layers(proto: Any, module: nn.Module) -> tuple[str, ...]:
    """Names of the products of modules that have weights to train; other products are of the quick look."""
    trained = {name.rpartition(".")[0] for name, _ in module.named_parameters() if name.endswith("weight")}
    found = []
    for node in proto.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = json.loads(notes.get("pkg.torch.onnx.name_scopes", "[]").replace("'", '"'))
        if node.op_type in _PRODUCTS and len(scopes) > 1 and scopes[-2] in trained:
            found.append(node.name)
    return tuple(found)


def _plain(proto: Any) -> None:
    """Take out what the exporter notes of its own work, which IR 8 has no place for, and set the oldest IR that does.

    The notes name lines of source files, and shapes between nodes are inferred by whoever loads the graph.
    """
    import onnx

    graph = proto.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph, proto):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    proto.ir_version = onnx.helper.find_min_ir_version_for(list(proto.opset_import))


def save(proto: Any, metadata: Mapping[str, str], out: Path) -> None:
    """Write a graph and its metadata to one file."""
    import onnx

    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.checker.check_model(proto)
    onnx.save(proto, str(out))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep notes of exporter and converters about themselves away from users."""
    # the converters write to the root logger
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
