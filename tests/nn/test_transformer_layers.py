"""MultiheadAttention inside torch's transformer layers, which must call it and not go past it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from low_precision import assert_as_good
from saccade.nn import MultiheadAttention, set_attn_implementation

LENGTHS = (6, 4, 2)
PADDING = torch.arange(6) >= torch.tensor(LENGTHS)[:, None]
CAUSAL = nn.Transformer.generate_square_subsequent_mask(6)


def with_ours(model: nn.Module, backend: str = "eager") -> nn.Module:
    """A copy in which every torch.nn.MultiheadAttention is one of ours, with its parameters."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, MultiheadAttention.from_torch(child, attn_implementation=backend))
    return model


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[MultiheadAttention]:
    """The modules of ours that are called, in order."""
    calls: list[MultiheadAttention] = []
    forward = MultiheadAttention.forward

    def observed(module: MultiheadAttention, *args: Any, **kwargs: Any) -> Any:
        calls.append(module)
        return forward(module, *args, **kwargs)

    # On the class: a hook on the module would itself keep torch's layer from going past it.
    monkeypatch.setattr(MultiheadAttention, "forward", observed)
    return calls


def encoder(**options: Any) -> nn.TransformerEncoder:
    options = {"batch_first": True} | options
    nested = options["batch_first"] and "norm_first" not in options  # else torch warns that it will not nest
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, **options)
    return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=nested)


CALLS: dict[str, dict[str, Any]] = {
    "alone": {},
    "causal": {"mask": CAUSAL, "is_causal": True},
    "masked": {"mask": CAUSAL},
    "padded and masked": {"mask": CAUSAL < 0, "src_key_padding_mask": PADDING},
}


class TestEncoder:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"batch_first": False}], ids=str)
    def test_it_gives_what_torch_gives_and_our_module_is_called(
        self, options: dict[str, Any], call: str, training: bool, called: list[MultiheadAttention]
    ) -> None:
        theirs = encoder(**options).train(training)
        ours = with_ours(theirs)
        tokens = torch.randn(3, 6, 16) if options.get("batch_first", True) else torch.randn(6, 3, 16)
        with torch.set_grad_enabled(training):
            out = ours(tokens, **CALLS[call])
            assert called == [layer.self_attn for layer in ours.layers]  # type: ignore[union-attr]
            expected = theirs(tokens, **CALLS[call])
        torch.testing.assert_close(out, expected)

    # torch makes nested tensors of the older layout when it evaluates padded tokens, and warns of that.
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
    def test_padded_tokens_that_torch_nests_by_itself(self, called: list[MultiheadAttention]) -> None:
        theirs = encoder().eval()
        ours, tokens = with_ours(theirs, "auto"), torch.randn(3, 6, 16)
        with torch.no_grad():
            expected = theirs(tokens, src_key_padding_mask=PADDING)
            out = ours(tokens, src_key_padding_mask=PADDING)
        assert len(called) == 2
        torch.testing.assert_close(out, expected)

    def test_one_layer_of_its_own(self, called: list[MultiheadAttention]) -> None:
        theirs = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
        ours, tokens = with_ours(theirs), torch.randn(3, 6, 16)
        with torch.inference_mode():
            torch.testing.assert_close(ours(tokens), theirs(tokens))
        assert called == [ours.self_attn]

    def test_gradients_are_torchs(self) -> None:
        theirs = encoder()
        ours, tokens = with_ours(theirs), torch.randn(3, 6, 16)

        def gradients(model: nn.Module, dtype: torch.dtype) -> list[Tensor]:
            out = model.to(dtype)(tokens.to(dtype), mask=CAUSAL.to(dtype), is_causal=True)
            return list(torch.autograd.grad(out.square().sum(), list(model.parameters())))

        found, independent = gradients(ours, torch.float32), gradients(theirs, torch.float32)
        exact = gradients(theirs, torch.float64)
        # As one: the gradient of a sum of squares past a layer norm is next to nothing for many.
        assert_as_good(
            *([torch.cat([one.flatten() for one in each])] for each in (found, independent, exact))
        )


@pytest.mark.parametrize("training", [True, False])
def test_a_decoder_calls_both_of_its_attentions(training: bool, called: list[MultiheadAttention]) -> None:
    layer = nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    theirs = nn.TransformerDecoder(layer, num_layers=2).train(training)
    ours = with_ours(theirs)
    target, memory = torch.randn(3, 6, 16), torch.randn(3, 5, 16)
    tables: dict[str, Any] = {
        "tgt_mask": CAUSAL, "tgt_is_causal": True, "memory_key_padding_mask": PADDING[:, :5]
    }  # fmt: skip
    with torch.set_grad_enabled(training):
        out = ours(target, memory, **tables)
        expected = theirs(target, memory, **tables)
    assert len(called) == 4
    torch.testing.assert_close(out, expected)


def test_a_whole_transformer_switches_its_backend() -> None:
    theirs = nn.Transformer(16, 4, 1, 1, 32, dropout=0.0, batch_first=True).eval()
    ours = with_ours(theirs)
    source, target = torch.randn(2, 5, 16), torch.randn(2, 4, 16)
    expected = theirs(source, target)
    outputs: list[Tensor] = []
    for backend in ("cpu", "eager"):
        set_attn_implementation(ours, {"": backend})
        outputs.append(ours(source, target))
        torch.testing.assert_close(outputs[-1], expected)
