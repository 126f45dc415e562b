"""`saccade::attention`: what torch demands of an operator, and that it computes what its engine computes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import saccade
from saccade.attention.request import Arguments, read_request
from saccade.block_mask import create_block_mask
from saccade.errors import ArgumentError, BackendError
from saccade.masks import causal, document, sliding_window
from saccade.scores import alibi, softcap
from saccade.torch_ops.encoding import FlatCall, encode

ENGINES = ["eager", "cpu"]
TABLE = torch.randn(4, 16)


def biased(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + TABLE[h, kv_idx]


def flat(
    engine: str, *, dtype: torch.dtype = torch.float32, transposed: bool = False, **options: object
) -> FlatCall:
    shape = (2, 12, 4, 8) if transposed else (2, 4, 12, 8)
    query = torch.randn(shape, dtype=dtype)
    if transposed:
        query = query.transpose(1, 2)
    key, value = torch.randn(2, 2, 16, 8, dtype=dtype), torch.randn(2, 2, 16, 5, dtype=dtype)
    made = read_request(Arguments(query, key, value, enable_gqa=True, backend=engine, **options))  # type: ignore[arg-type]
    return encode(made.problem, made.drawn(), made.packed, engine)


SAMPLES = {
    "plain": {},
    "lse": {"return_aux": saccade.AuxRequest(lse=True, max_scores=True)},
    "score": {"score_mod": biased, "mask_mod": sliding_window(5)},
    "numbers": {"score_mod": softcap(15.0), "return_lse": True},
    "sinks": {"sinks": torch.randn(4), "score_mod": alibi(n_heads=4)},
    "blocks": {
        "block_mask": create_block_mask(
            document(lengths=[7, 9]), None, None, 12, 16, device="cpu", BLOCK_SIZE=4
        )
    },
    "both": {
        "block_mask": create_block_mask(causal, 2, 4, 12, 16, device="cpu", BLOCK_SIZE=(4, 8)),
        "mask_mod": sliding_window(3),
        "dropout_p": 0.25,
    },
}


@pytest.mark.parametrize("transposed", [False, True], ids=["dense", "transposed"])
@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("engine", ENGINES)
def test_opcheck(engine: str, sample: str, transposed: bool) -> None:
    torch.library.opcheck(
        torch.ops.saccade.attention.default, flat(engine, transposed=transposed, **SAMPLES[sample])
    )


@pytest.mark.parametrize("sinks", [None, torch.randn(2)], ids=["plain", "sinks"])
@pytest.mark.parametrize("engine", ENGINES)
def test_opcheck_over_no_keys(engine: str, sinks: Tensor | None) -> None:
    query, key = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 0, 4)
    wanted = saccade.AuxRequest(lse=True, max_scores=True)
    made = read_request(Arguments(query, key, key, sinks=sinks, return_aux=wanted))
    arguments = encode(made.problem, made.operands, made.packed, engine)
    torch.library.opcheck(torch.ops.saccade.attention.default, arguments)
    out, lse, max_scores = torch.ops.saccade.attention(*arguments)
    assert lse.data_ptr() != max_scores.data_ptr()
    assert not out.any()
    assert (max_scores == -torch.inf).all()
    expected = torch.tensor(-torch.inf) if sinks is None else sinks.view(1, 2, 1)
    torch.testing.assert_close(lse, expected.expand(1, 2, 3))


@pytest.mark.parametrize("sample", [name for name in SAMPLES if "dropout_p" not in SAMPLES[name]])
@pytest.mark.parametrize("engine", ENGINES)
def test_it_gives_what_the_engine_gives(engine: str, sample: str) -> None:
    arguments = flat(engine, **SAMPLES[sample])
    query, key, value = arguments[:3]
    results = saccade.flex_attention(query, key, value, enable_gqa=True, backend=engine, **SAMPLES[sample])
    out, lse, max_scores = torch.ops.saccade.attention(*arguments)
    expected = results if isinstance(results, tuple) else (results, None)
    torch.testing.assert_close(out, expected[0], rtol=0, atol=0)
    wanted = expected[1]
    if wanted is None:
        assert lse.shape == max_scores.shape == (0,)
    elif isinstance(wanted, Tensor):
        torch.testing.assert_close(lse, wanted, rtol=0, atol=0)
        assert max_scores.shape == (0,)
    else:
        torch.testing.assert_close((lse, max_scores), (wanted.lse, wanted.max_scores), rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (2, 1, 0, 3)], ids=str)
def test_strides_follow_from_the_querys_alone(engine: str, order: tuple[int, ...]) -> None:
    arguments = list(flat(engine))
    back = sorted(range(4), key=order.__getitem__)
    arguments[0] = arguments[0].permute(order).contiguous().permute(back)
    real = torch.ops.saccade.attention(*arguments)
    arguments[:3] = [tensor.to("meta") for tensor in arguments[:3]]
    fake = torch.ops.saccade.attention(*arguments)
    assert [(t.shape, t.stride(), t.dtype) for t in real] == [(t.shape, t.stride(), t.dtype) for t in fake]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_is_recorded(engine: str) -> None:
    arguments = list(flat(engine))
    arguments[2] = arguments[2].requires_grad_()
    out, lse, max_scores = torch.ops.saccade.attention(*arguments)
    assert (out.requires_grad, max_scores.requires_grad) == (True, False)
    assert lse.shape == max_scores.shape == (0,)
    with torch.no_grad():
        assert not torch.ops.saccade.attention(*arguments)[0].requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_tensors_without_data_have_shapes(engine: str) -> None:
    with FakeTensorMode():
        query, key = torch.empty(2, 4, 12, 8), torch.empty(2, 2, 16, 8)
        out, lse = saccade.flex_attention(
            query, key, key, mask_mod=causal, enable_gqa=True, return_lse=True, backend=engine
        )
    assert (out.shape, lse.shape) == ((2, 4, 12, 8), (2, 4, 12))


def test_meta_tensors_have_shapes() -> None:
    query, key = (torch.empty(2, heads, 12, 8, device="meta") for heads in (4, 2))
    assert saccade.flex_attention(query, key, key, enable_gqa=True, backend="eager").shape == (2, 4, 12, 8)


@pytest.mark.parametrize("engine", ENGINES)
def test_make_fx_sees_one_operation(engine: str) -> None:
    query = torch.randn(1, 2, 12, 8)

    def run(query: Tensor) -> Tensor:
        return saccade.flex_attention(query, query, query, mask_mod=sliding_window(5), backend=engine)

    graph = make_fx(run)(query)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert torch.ops.saccade.attention.default in targets
    torch.testing.assert_close(graph(2 * query), run(2 * query), rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_export(engine: str) -> None:
    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("slopes", torch.randn(2))

        def forward(self, query: Tensor) -> Tensor:
            def tilted(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
                return score + self.slopes[h] * (q_idx - kv_idx)

            return saccade.flex_attention(query, query, query, tilted, mask_mod=causal, backend=engine)

    module, query = Attention(), torch.randn(1, 2, 12, 8)
    exported = torch.export.export(module, (query,))
    assert "saccade.attention" in str(exported.graph)
    torch.testing.assert_close(exported.module()(query), module(query), rtol=0, atol=0)


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch knows no such tag")
@pytest.mark.parametrize("name", ["attention", "attention_backward"])
def test_torch_captures_no_call_of_its_own_accord(name: str) -> None:
    assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.saccade, name).default.tags


def test_an_engine_that_is_none_or_refuses_says_so() -> None:
    arguments = list(flat("eager", score_mod=biased))
    with pytest.raises(ArgumentError, match="backend must be one of"):
        torch.ops.saccade.attention(*arguments[:-1], "abacus")
    with pytest.raises(BackendError, match="changes no scores"):
        torch.ops.saccade.attention(*arguments[:-1], "sdpa")


def test_nothing_loads_dynamo() -> None:
    script = (
        "import sys, torch, saccade\n"
        "query = torch.randn(1, 1, 4, 8)\n"
        "saccade.flex_attention(query, query, query, mask_mod=saccade.causal, backend='eager')\n"
        "saccade.flex_attention(*[query.to('meta')] * 3, backend='eager')\n"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
