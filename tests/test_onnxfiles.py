"""Exported files that are damaged, foreign, or hungry: one sentence with the reason, no memory, nothing beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from xecml import geometry
from xecml.cli.info import describe_file
from xecml.errors import InputError
from xecml.events import INVALID
from xecml.inference import onnx_files
from xecml.inference.repair_models import OnnxRepair, is_repair
from xecml.inference.trained_model import load_model

SCALES = {"npho_scale": 1000.0, "npho_scale2": 4.08, "time_scale": 1e-7, "time_shift": -0.46, "sentinel": -5.0}
SAID: dict[str, str] = {
    "tasks": '["energy"]', "units": '{"energy": "GeV"}', "truth_means": '{"energy": 0.05}',
    "branches": '["npho", "time"]', "names": "{}",
    "normalization": json.dumps(SCALES | {"npho_scheme": "log1p"}), "invalid_value": str(INVALID),
    "geometry_hash": geometry.geometry_hash(), "version": "0.1.0", "run_name": "run", "revision": "",
}  # fmt: skip
X = np.ones((3, geometry.N_SENSORS), np.float32)


def constant(name: str, value: Any, dtype: Any) -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def value(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


INPUTS = (value("npho", "batch", 4760), value("time", "batch", 4760))
ENERGY = (value("energy", "batch"),)
SUM = helper.make_node("ReduceSum", ["npho", "axis"], ["energy"], keepdims=0)
AXIS = constant("axis", [1], np.int64)


def proto(
    nodes: Any = (SUM,), tensors: Any = (AXIS,), *, inputs: Any = INPUTS, outputs: Any = ENERGY, said: Any = SAID
) -> Any:
    """A model whose energy is the sum of counts, or what is given in its place."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {f"xecml.{key}": text for key, text in said.items()})
    return model


def written(folder: Path, model: Any) -> Path:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def refused(path: Path, said: str) -> None:
    """Loading and describing both say so, in one line."""
    for use in (load_model, lambda p: describe_file(str(p))):
        with pytest.raises(InputError, match=said) as caught:
            use(path)
        assert "\n" not in str(caught.value)
        assert "onnxruntime" not in str(caught.value)


def test_a_file_as_it_should_be(tmp_path: Path) -> None:
    model = load_model(written(tmp_path, proto()))
    assert (model.tasks, model.branches, model.truth_means) == (("energy",), ("npho", "time"), {"energy": 0.05})
    assert model.predict(X, X)["energy"].tolist() == [4760.0] * 3
    assert not is_repair(tmp_path / "m.onnx")


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("tasks", None, "'tasks' is missing"),
        ("tasks", "energy", "'tasks': it is no JSON"),
        ("tasks", DEEP, "'tasks': it is no JSON, recursion limit exceeded"),
        ("tasks", '["charm"]', "'tasks.0': input should be 'angle', 'energy'"),
        ("tasks", "[]", "'tasks': it must name at least one task, and each once"),
        ("tasks", '["energy", "energy"]', "'tasks': it must name at least one task, and each once"),
        ("tasks", '["energy", "timing"]', "gives energy; by what it says timing is wrong or missing"),
        ("tasks", '["timing"]', "gives energy; by what it says energy, timing is wrong or missing"),
        ("truth_means", None, "'truth_means' is missing"),
        ("truth_means", '{"energy": NaN}', "'truth_means': it is no JSON"),
        ("truth_means", '{"energy": "low"}', "'truth_means.energy': input should be a valid number"),
        ("truth_means", '{"charm": 1}', "'truth_means': 'charm' is no column of predictions"),
        ("branches", "7", "'branches': input should be a valid list"),
        ("branches", '["npho"]', "'branches': value should have at least 2 items"),
        ("branches", '["npho", "charm"]', "'branches.1': string should match pattern"),
        ("names", '{"npho": 3}', "'names.npho': input should be a valid string"),
        ("normalization", "{}", "'normalization.npho_scale' is missing"),
        ("normalization", json.dumps(SCALES | {"npho_scale": -1}), "'normalization.npho_scale': input should be gr"),
        ("normalization", json.dumps(SCALES | {"npho_scale": 1e999}), "'normalization': it is no JSON"),
        ("invalid_value", "0", "'invalid_value': it must be 1e\\+10, as in files"),
        ("units", "[]", "'units': input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_wrong_metadata_are_named(tmp_path: Path, key: str, text: str | None, said: str) -> None:
    metadata = {k: v for k, v in SAID.items() if k != key} | ({} if text is None else {key: text})
    refused(written(tmp_path, proto(said=metadata)), f"m.onnx (is damaged: )?{said}.*; export the model again")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": (*INPUTS, value("dead", "batch", 4760))}, "takes npho, time, dead in place of npho, time"),
        ({"inputs": (value("npho", 2, 4760), value("time", 2, 4760)), "outputs": (value("energy", 2),)},
         "takes npho for exactly 2 events, and not for any number"),
        ({"inputs": (value("npho", "b", 100), value("time", "b", 100))}, r"takes npho as .* of shape \['b', 100\]"),
        ({"inputs": (INPUTS[0], value("time", "batch", 4760, kind=TensorProto.DOUBLE))}, "takes time as tensor.double"),
        ({"outputs": (*ENERGY, value("npho", "batch", 4760))}, "gives energy, npho; by what it says npho is wrong"),
        ({"nodes": (helper.make_node("ReduceSum", ["npho", "axis"], ["energy"]),),
          "outputs": (value("energy", "batch", 1),)}, r"gives energy as .* of shape \['batch', 1\] in place of"),
    ],
)  # fmt: skip
def test_other_inputs_and_outputs_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    refused(written(tmp_path, proto(**change)), f"m.onnx {said}.*; export the model again")


def test_an_answer_of_another_shape_than_it_says_is_noticed(tmp_path: Path) -> None:
    twice = helper.make_node("Concat", ["e", "e"], ["energy"], axis=0)
    inner = helper.make_node("ReduceSum", ["npho", "axis"], ["e"], keepdims=0)
    model = load_model(written(tmp_path, proto((inner, twice))))
    with pytest.raises(InputError, match=r"m.onnx answers energy in shape \(6,\) for 3 events; export the model again"):
        model.predict(X, X)


def _spoil(change: Callable[[Any], None]) -> Any:
    model = proto()
    change(model)
    return model


def _outside(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m, "ir_version", 99), "Unsupported model IR version: 99, max supported IR version"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "Opset 99 is under development"),
        (lambda m: setattr(m.graph.node[0], "op_type", "Nope"), "No Op registered for Nope"),
        (lambda m: m.graph.initializer.pop(), "Node input 'axis' is not a graph input"),
        (lambda m: m.graph.node.append(m.graph.node[0]), r"Duplicate definition of name \(energy\)"),
        (_outside, r"keeps weights in other files \(axis\), which no export of this package does"),
    ],
)
def test_the_reason_of_the_runtime_stands_in_the_sentence(tmp_path: Path, change: Any, said: str) -> None:
    refused(written(tmp_path, _spoil(change)), f"m.onnx .*{said}.*; export the model again")


def test_weights_that_are_no_finite_numbers_are_named(tmp_path: Path) -> None:
    scaled = (SUM, helper.make_node("Mul", ["energy", "gain"], ["twice"]))
    outputs = (value("twice", "batch"),)
    for number in (np.nan, np.inf):
        gain = constant("gain", [2.0, number, 1.0], np.float32)
        path = written(tmp_path, proto(scaled, (AXIS, gain), outputs=outputs))
        refused(path, r"m.onnx has weights that are no finite numbers \(gain\), which no export of this package does")
    # bounds may be infinite, and sums of finite numbers too
    for fine in (constant("gain", np.inf, np.float32), constant("gain", [3e38] * 3, np.float32)):
        onnx_files.check_graph(written(tmp_path, proto(scaled, (AXIS, fine), outputs=outputs)))


def _body() -> Any:
    scalar = (value("i", kind=TensorProto.INT64), value("on", kind=TensorProto.BOOL))
    nodes = [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["x"], ["y"])]
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    still = value("still", kind=TensorProto.BOOL)
    return helper.make_graph(nodes, "body", [*scalar, free[0]], [still, free[1]])


def test_a_loop_that_never_ends_is_not_begun(tmp_path: Path) -> None:
    begin = helper.make_node("ReduceSum", ["npho", "axis"], ["e"], keepdims=0)
    loop = helper.make_node("Loop", ["times", "on", "e"], ["energy"], body=_body())
    tensors = (AXIS, constant("times", 2**60, np.int64), constant("on", True, np.bool_))
    path = written(tmp_path, proto((begin, loop), tensors))
    refused(path, r"m.onnx runs graphs within its graph \(Loop\), which no export of this package does; export the")


def test_operators_of_others_and_of_the_file_itself_are_refused(tmp_path: Path) -> None:
    def foreign(model: Any) -> None:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    def own(model: Any) -> None:
        node = helper.make_node("Identity", ["a"], ["b"])
        model.functions.append(helper.make_function("", "Twice", ["a"], ["b"], [node], [helper.make_opsetid("", 20)]))

    for change, said in ((foreign, r"that are not those of ONNX \(com.microsoft\)"), (own, "operators of its own")):
        refused(written(tmp_path, _spoil(change)), f"m.onnx .*{said}, which no export of this package does; export")


TERABYTES = [2**20, 2**20]
HUNGRY: dict[str, tuple[Any, Any]] = {
    "ConstantOfShape": (["size"], [constant("size", TERABYTES, np.int64)]),
    "Expand": (["one", "size"], [constant("one", [1.0], np.float32), constant("size", TERABYTES, np.int64)]),
    "Tile": (["e", "size"], [constant("size", [2**40], np.int64)]),
    "Range": (["begin", "end", "step"], [constant(n, v, np.float32) for n, v in zip(("begin", "end", "step"),
                                                                                    (0, 1e13, 1), strict=True)]),
    "Pad": (["e", "size"], [constant("size", [0, 2**40], np.int64)]),
}  # fmt: skip


@pytest.mark.parametrize("operator", HUNGRY)
def test_an_operator_that_takes_all_memory_is_one_sentence(tmp_path: Path, operator: str, capfd: Any) -> None:
    inputs, tensors = HUNGRY[operator]
    nodes = (
        helper.make_node("ReduceSum", ["npho", "axis"], ["e"], keepdims=0),
        helper.make_node(operator, inputs, ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
        helper.make_node("Add", ["e", "most"], ["energy"]),
    )
    path = written(tmp_path, proto(nodes, (AXIS, *tensors)))
    with pytest.raises(
        InputError, match=f"m.onnx cannot be run by ONNX Runtime: .*{operator}.*; export the model"
    ) as e:
        load_model(path).predict(X, X)
    assert "\n" not in str(e.value)
    assert capfd.readouterr() == ("", "")


def test_memory_for_numbers_between_layers_is_bounded(tmp_path: Path) -> None:
    """In a process of its own, where the bound is two gigabytes: eight are refused, and not taken."""
    nodes = (
        helper.make_node("ReduceSum", ["npho", "axis"], ["e"], keepdims=0),
        helper.make_node("ConstantOfShape", ["size"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
        helper.make_node("Add", ["e", "most"], ["energy"]),
    )
    path = written(tmp_path, proto(nodes, (AXIS, constant("size", [2**31], np.int64))))
    code = (
        "import re, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from xecml.errors import InputError\n"
        "from xecml.inference import onnx_files\n"
        "onnx_files._MOST_BYTES = 2 * 2**30\n"
        "session, _ = onnx_files.open_onnx(sys.argv[1])\n"
        "x = np.ones((2, 4760), np.float32)\n"
        "try:\n"
        "    session.run(['energy'], {'npho': x, 'time': x})\n"
        "except InputError as error:\n"
        # what resource.getrusage says is at least what the process that started this one had
        "    print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1], error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    kilobytes, _, message = done.stdout.partition(" ")
    assert "vailable memory" in message
    assert int(kilobytes) < 1_500_000


def test_files_that_fill_sensors_are_told_apart(tmp_path: Path) -> None:
    inputs = (*INPUTS, value("dead", "batch", 4760, kind=TensorProto.BOOL))
    nodes = [helper.make_node("Where", ["dead", "zero", n], [f"{n}_filled"]) for n in ("npho", "time")]
    outputs = [value(f"{n}_filled", "batch", 4760) for n in ("npho", "time")]
    said = {k: v for k, v in SAID.items() if k not in ("tasks", "truth_means")} | {"repairs": '["npho", "time"]'}
    zero = constant("zero", 0.0, np.float32)
    path = written(tmp_path, proto(nodes, (zero,), inputs=inputs, outputs=outputs, said=said))
    assert is_repair(path)
    counts, _ = OnnxRepair(path).fill(X, X, np.arange(4760) < 2)
    assert counts.sum(1).tolist() == [4758.0] * 3
    with pytest.raises(InputError, match="fills dead sensors and predicts nothing"):
        load_model(path)
    written(tmp_path, proto(nodes[:1], (zero,), inputs=inputs, outputs=outputs[:1], said=said))
    with pytest.raises(InputError, match="gives npho_filled; by what it says time_filled is wrong or missing"):
        OnnxRepair(path)
    with pytest.raises(InputError, match="predicts physical quantities and fills no sensors"):
        OnnxRepair(written(tmp_path, proto()))


def test_what_is_no_graph_is_left_to_the_runtime(tmp_path: Path) -> None:
    whole = proto().SerializeToString()
    for content, said in (
        (b"", "(No graph was found in the protobuf|ModelProto does not have a graph)"),
        (b"no model", "Protobuf parsing failed"),
        (whole[: len(whole) // 2], "Protobuf parsing failed"),
        (b"\xff" * 100, "Protobuf parsing failed"),
    ):
        (tmp_path / "m.onnx").write_bytes(content)
        refused(tmp_path / "m.onnx", f"m.onnx cannot be loaded as an ONNX model: {said}; export the model again")
