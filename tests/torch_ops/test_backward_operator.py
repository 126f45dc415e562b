"""`saccade::attention_backward`, and how it differentiates the other: what torch demands of operators."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import saccade
from saccade.attention.request import Arguments, read_request
from saccade.block_mask import create_block_mask
from saccade.errors import UnsupportedError
from saccade.masks import causal, document, sliding_window
from saccade.scores import softcap
from saccade.torch_ops.encoding import FlatCall, encode

ENGINES = ["cpu", "eager"]
TABLE = torch.randn(4, 16)
KEPT = torch.rand(12, 16) > 0.3


def biased(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + TABLE[h, kv_idx]


SAMPLES: dict[str, dict[str, object]] = {
    "plain": {},
    "window": {"mask_mod": sliding_window(5)},
    "score": {"score_mod": softcap(15.0), "mask_mod": causal},
    "bias": {"score_mod": biased, "mask_mod": lambda b, h, q_idx, kv_idx: KEPT[q_idx, kv_idx]},
    "sinks": {"sinks": torch.randn(4)},
    "blocks": {
        "block_mask": create_block_mask(
            document(lengths=[7, 9]), None, None, 12, 16, device="cpu", BLOCK_SIZE=4
        )
    },
    "everything": {
        "score_mod": biased,
        "sinks": torch.randn(4),
        "block_mask": create_block_mask(causal, 2, 4, 12, 16, device="cpu", BLOCK_SIZE=(4, 8)),
        "mask_mod": sliding_window(3),
        "dropout_p": 0.25,
    },
}


def flat(engine: str, sample: str, *, learns: bool, transposed: bool = False) -> FlatCall:
    """A call whose floating tensors, but those of masks, learn or do not."""
    query = torch.randn((2, 12, 4, 8) if transposed else (2, 4, 12, 8))
    query = query.transpose(1, 2) if transposed else query
    key, value = torch.randn(2, 2, 16, 8), torch.randn(2, 2, 16, 5)
    made = read_request(
        Arguments(query, key, value, enable_gqa=True, return_lse=True, backend=engine, **SAMPLES[sample])  # type: ignore[arg-type]
    )
    call = encode(made.problem, made.drawn(), made.packed, engine)
    tensors = [
        one.detach().clone().requires_grad_(learns) if one is not None and one.is_floating_point() else one
        for one in call.tensors
    ]
    # Strides are the query's own, of which `clone` keeps the order.
    return call.with_tensors(tensors)


def backward_arguments(call: FlatCall, needed: list[bool] | None = None) -> tuple[object, ...]:
    """The arguments of the backward, after a forward."""
    out, lse, _ = torch.ops.saccade.attention(*call)
    learned = [one is not None and one.is_floating_point() for one in call.tensors]
    grads = (torch.randn_like(out), torch.randn_like(lse))
    return *call, out, lse, *grads, learned if needed is None else needed


@pytest.mark.parametrize("transposed", [False, True], ids=["dense", "transposed"])
@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("engine", ENGINES)
def test_opcheck_of_a_call_that_learns(engine: str, sample: str, transposed: bool) -> None:
    call = flat(engine, sample, learns=True, transposed=transposed)
    torch.library.opcheck(torch.ops.saccade.attention.default, call)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("engine", ENGINES)
def test_opcheck_of_the_backward(engine: str, sample: str) -> None:
    arguments = backward_arguments(flat(engine, sample, learns=False))
    torch.library.opcheck(torch.ops.saccade.attention_backward.default, arguments)


@pytest.mark.parametrize("sample", [name for name in SAMPLES if "dropout_p" not in SAMPLES[name]])
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_are_those_of_the_engine(engine: str, sample: str) -> None:
    call = flat(engine, sample, learns=True)
    leaves = [one for one in call.tensors if one is not None and one.requires_grad]
    out, lse, _ = torch.ops.saccade.attention(*call)
    grads = torch.randn_like(out), torch.randn_like(lse)
    found = torch.autograd.grad((out, lse), leaves, grads)
    wanted = [one is not None and one.requires_grad for one in call.tensors]
    with torch.no_grad():
        asked = torch.ops.saccade.attention_backward(*call, out, lse, *grads, wanted)
    torch.testing.assert_close(list(found), asked, rtol=0, atol=0)
    if SAMPLES[sample].get("score_mod") is biased:
        return  # the table is the module's there, and its copy's here
    options = SAMPLES[sample] | ({} if call.sinks is None else {"sinks": call.sinks})
    plain = saccade.flex_attention(*call[:3], enable_gqa=True, return_lse=True, backend=engine, **options)
    torch.testing.assert_close(torch.autograd.grad(plain, leaves, grads), found, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_any_gradients_may_be_asked(engine: str) -> None:
    call = flat(engine, "sinks", learns=False)
    *arguments, _ = backward_arguments(call)
    every = torch.ops.saccade.attention_backward(*arguments, [True, True, True, True, False])
    for flags in list(product((True, False), repeat=4))[:-1]:
        some = torch.ops.saccade.attention_backward(*arguments, [*flags, False])
        expected = [one for one, flag in zip(every, flags, strict=True) if flag]
        torch.testing.assert_close(some, expected, rtol=0, atol=0)


@pytest.mark.parametrize("place", [0, 1], ids=["out", "lse"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_absent_is_0(engine: str, place: int) -> None:
    *arguments, grad_out, grad_lse, needed = backward_arguments(flat(engine, "sinks", learns=False))
    grads: list[object] = [grad_out, grad_lse]
    grads[place] = None
    found = torch.ops.saccade.attention_backward(*arguments, *grads, needed)
    grads[place] = torch.zeros_like((grad_out, grad_lse)[place])  # type: ignore[call-overload]
    torch.testing.assert_close(found, torch.ops.saccade.attention_backward(*arguments, *grads, needed))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (2, 0, 1, 3), (2, 1, 0, 3)], ids=str)
def test_strides_are_known_without_data(engine: str, order: tuple[int, ...]) -> None:
    call = flat(engine, "plain", learns=False)
    back = sorted(range(4), key=order.__getitem__)
    call = call._replace(query=call.query.permute(order).contiguous().permute(back))
    arguments = backward_arguments(call)
    real = torch.ops.saccade.attention_backward(*arguments)
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(one) if isinstance(one, Tensor) else one for one in arguments]
        fake = torch.ops.saccade.attention_backward(*given)
    assert [(t.shape, t.stride(), t.dtype) for t in real] == [(t.shape, t.stride(), t.dtype) for t in fake]


@pytest.mark.parametrize("empty", ["batch", "queries", "keys"])
@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_of_zero(engine: str, empty: str) -> None:
    query, key = torch.randn(2, 4, 12, 8), torch.randn(2, 2, 16, 8)
    query, key = {
        "batch": (query[:0], key[:0]),
        "queries": (query[:, :, :0], key),
        "keys": (query, key[:, :, :0]),
    }[empty]
    made = read_request(Arguments(query, key, key, enable_gqa=True, return_lse=True, backend=engine))
    arguments = backward_arguments(encode(made.problem, made.operands, made.packed, engine))
    torch.library.opcheck(torch.ops.saccade.attention_backward.default, arguments)
    found = torch.ops.saccade.attention_backward(*arguments)
    assert [each.shape for each in found] == [query.shape, key.shape, key.shape]
    assert not any(each.any() for each in found)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_derivative_is_refused(engine: str) -> None:
    call = flat(engine, "plain", learns=True)
    out, _, _ = torch.ops.saccade.attention(*call)
    (first,) = torch.autograd.grad(out.square().sum(), call.query, create_graph=True)
    with pytest.raises(UnsupportedError, match="no gradient of its own"):
        first.sum().backward()


@pytest.mark.parametrize("place", ["query", "gradient"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_derivative_of_the_operator_itself_is_refused(engine: str, place: str) -> None:
    call = flat(engine, "sinks", learns=False)
    *arguments, grad_out, grad_lse, needed = backward_arguments(call)
    expected = torch.ops.saccade.attention_backward(*arguments, grad_out, grad_lse, needed)
    (arguments[0] if place == "query" else grad_out).requires_grad_()
    found = torch.ops.saccade.attention_backward(*arguments, grad_out, grad_lse, needed)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(UnsupportedError, match="no gradient of its own"):
        found[1].sum().backward()
    with torch.no_grad():
        unrecorded = torch.ops.saccade.attention_backward(*arguments, grad_out, grad_lse, needed)
    assert not any(one.requires_grad for one in unrecorded)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forward_mode_derivative_of_the_backward_is_refused(engine: str) -> None:
    *arguments, grad_out, grad_lse, needed = backward_arguments(flat(engine, "plain", learns=False))
    with forward_ad.dual_level():
        tangent = forward_ad.make_dual(grad_out, torch.ones_like(grad_out))
        with pytest.raises(UnsupportedError, match="no forward-mode derivative"):
            torch.ops.saccade.attention_backward(*arguments, tangent, grad_lse, needed)


@pytest.mark.parametrize("engine", ENGINES)
def test_names_in_a_graph(engine: str) -> None:
    call = flat(engine, "plain", learns=True)
    out, _, _ = torch.ops.saccade.attention(*call)
    assert type(out.grad_fn).__name__ == "FusedAttentionBackward"
    (first,) = torch.autograd.grad(out.square().sum(), call.query, create_graph=True)
    assert type(first.grad_fn).__name__ == "FusedAttentionGradientBackward"
