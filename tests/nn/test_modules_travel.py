"""Modules are copied, pickled, converted, saved, compiled and printed like any other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade import causal, create_block_mask
from saccade.nn import FlashAttention, MultiheadAttention, MultiheadFlexAttention

BLOCKS = create_block_mask(causal, None, None, 6, 6, device="cpu")
HIDDEN = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)).triu(1) > 0.5


def flash(module: nn.Module, tokens: Tensor) -> Tensor:
    apart = tokens.unflatten(-1, (2, 8)).transpose(1, 2)
    out: Tensor = module(apart, apart, apart, ~HIDDEN, torch.ones(2, 6, 6))
    return out


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    "flex": (
        lambda: MultiheadFlexAttention(16, 16, 4, attn_implementation="eager"),
        lambda module, tokens: module(tokens, BLOCKS)[0],
    ),
    "flash": (lambda: FlashAttention(causal=True, flash=False), flash),
    "multihead": (
        lambda: MultiheadAttention(
            16, 4, num_kv_heads=2, batch_first=True, add_bias_kv=True, attn_implementation="eager"
        ),
        lambda module, tokens: module(tokens, tokens, tokens, attn_mask=HIDDEN, mask_mod=causal)[0],
    ),
}


def assert_near(found: Tensor, expected: Tensor, eps: float) -> None:
    """Hold a result to another of more digits: a few of the last it has, of the largest number."""
    error, largest = (found.double() - expected).detach().abs().max(), expected.detach().abs().max()
    assert float(error) <= 8 * eps * float(largest)


@pytest.mark.parametrize("name", MODULES)
class TestEach:
    def test_a_copy_is_its_own_and_gives_the_same(self, name: str) -> None:
        make, call = MODULES[name]
        module, tokens = make(), torch.randn(2, 6, 16)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert other.attn_implementation == "eager"
            assert torch.equal(call(other, tokens), call(module, tokens))
            other.attn_implementation = "cpu"
            assert module.attn_implementation == "eager"
            assert not {one.data_ptr() for one in other.parameters()} & {
                one.data_ptr() for one in module.parameters()
            }

    def test_state_dicts_hold_parameters_alone(self, name: str) -> None:
        module = MODULES[name][0]()
        assert set(module.state_dict()) == {key for key, _ in module.named_parameters()}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_it_is_converted(self, name: str, dtype: torch.dtype) -> None:
        make, call = MODULES[name]
        module, tokens = make(), torch.randn(2, 6, 16)
        expected = call(module, tokens)
        found = call(module.to(dtype), tokens.to(dtype))
        assert found.dtype is dtype
        assert_near(found, expected, max(torch.finfo(each).eps for each in (dtype, torch.float32)))

    def test_it_is_compiled_whole(self, name: str) -> None:
        torch.compiler.reset()
        make, call = MODULES[name]
        module, tokens = make(), torch.randn(2, 6, 16, requires_grad=True)
        module.attn_implementation = "auto"
        compiled = torch.compile(lambda given: call(module, given), fullgraph=True, backend="aot_eager")
        found, expected = compiled(tokens), call(module, tokens)
        torch.testing.assert_close(found, expected)
        (mine,), (wanted,) = (torch.autograd.grad(one.sum(), tokens) for one in (found, expected))
        torch.testing.assert_close(mine, wanted)


# torch's compiler looks for it on tensors that cross from graph to graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_weights_end_a_compiled_graph() -> None:
    torch.compiler.reset()
    module, tokens = MultiheadAttention(16, 4, batch_first=True), torch.randn(2, 6, 16)

    def call(given: Tensor) -> Any:
        return module(given, given, given, need_weights=True)

    with pytest.raises(
        torch._dynamo.exc.Unsupported, match=r"need_weights=True asks for .* without fullgraph"
    ):
        torch.compile(call, backend="eager", fullgraph=True)(tokens)
    torch.compiler.reset()
    found, weights = torch.compile(call, backend="eager")(tokens)
    torch.testing.assert_close((found, weights), call(tokens))


def test_autocast_reaches_attention_and_added_keys() -> None:
    module, tokens = MultiheadAttention(16, 4, batch_first=True, add_bias_kv=True), torch.randn(2, 6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = module(tokens, tokens, tokens)
    assert out.dtype is torch.bfloat16
    assert_near(out, module(tokens, tokens, tokens)[0], torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (MultiheadFlexAttention(8, 8, 2), "n_heads=2, attn_implementation='auto'"),
        (MultiheadAttention(16, 4), "16, num_heads=4, attn_implementation='auto'"),
        (
            MultiheadAttention(
                16, 4, 0.5, False, True, True, 6, 10, True, num_kv_heads=2, attn_implementation="cpu"
            ),
            (
                "16, num_heads=4, num_kv_heads=2, kdim=6, vdim=10, dropout=0.5, batch_first=True, "
                "add_zero_attn=True, bias=False, add_bias_kv=True, attn_implementation='cpu'"
            ),
        ),
    ],
)
def test_its_repr_tells_what_is_not_usual(module: nn.Module, shown: str) -> None:
    assert module.extra_repr() == shown
    assert repr(module).splitlines()[1].strip() == shown
