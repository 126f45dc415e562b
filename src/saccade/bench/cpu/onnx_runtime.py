"""ONNX Runtime's fused attention as a contender: the strongest peer without a mask language.

Owns its one-node model, built in memory. Neither `onnx` nor `onnxruntime` is ever a dependency: where one is
missing, the contender says so.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from saccade.bench.contenders import Contender, Inputs

__all__ = ["ONNX_RUNTIME", "onnx_runtime"]

ONNX_RUNTIME = "ONNX Runtime"

_OPSET, _FORMAT = 17, 8  # old enough for every version of the runtime that has the operator


def onnx_runtime(inputs: Inputs) -> Contender:
    """Return the MultiHeadAttention operator of ONNX Runtime on its own copies of the inputs.

    The operator wants `[B, S, H·D]`, so the inputs are laid out for it beforehand, and what is timed is its
    own work. It runs on as many threads as torch does, which sleep between calls and so leave the others'
    alone.

    Args:
        inputs: Query, key and value `[B, H, S, D]`, all pairs visible.
    """
    try:
        attend = _session(inputs)
    except ImportError as fault:
        return Contender(ONNX_RUNTIME, 1.0, refusal=f"{fault.name} is not installed")
    except Exception as fault:  # whatever a runtime without this operator or type raises; it ends no run
        return Contender(ONNX_RUNTIME, 1.0, refusal=str(fault).strip().partition("\n")[0])
    return Contender(ONNX_RUNTIME, 1.0, attend)


def _session(inputs: Inputs) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # its faults are raised; it need not print them too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    batch, heads, length, head_dim = inputs[0].shape
    model = _model(heads, inputs[0].dtype)
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = (one.transpose(1, 2).reshape(batch, length, heads * head_dim) for one in inputs)
    feeds = {name: row.numpy() for name, row in zip(("query", "key", "value"), rows, strict=True)}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        (out,) = session.run(None, feeds)
        return torch.from_numpy(out).view(batch, length, heads, head_dim).transpose(1, 2)

    return attend


def _model(heads: int, dtype: torch.dtype) -> bytes:
    """A graph of the one operator, serialised."""
    onnx = import_module("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    element = {torch.float32: types.FLOAT, torch.bfloat16: types.BFLOAT16}[dtype]
    shape = ["batch", "length", "hidden"]
    given, out = (
        [helper.make_tensor_value_info(name, element, shape) for name in names]
        for names in (("query", "key", "value"), ("out",))
    )
    node = helper.make_node(
        "MultiHeadAttention", [one.name for one in given], ["out"], domain="com.microsoft", num_heads=heads
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "attention", given, out)
    serialised: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=_FORMAT).SerializeToString()
    return serialised
