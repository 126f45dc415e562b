"""`scaled_dot_product_attention` and `replace_sdpa` train on the CPU engine; gradients are torch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as torchs
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from saccade.attention import replace_sdpa, scaled_dot_product_attention

SHAPES = {
    "four dimensions": ((2, 4, 9, 8), (2, 4, 13, 8), (2, 4, 13, 5)),
    "three dimensions": ((3, 9, 8), (3, 13, 8), (3, 13, 8)),
    "two dimensions": ((9, 8), (13, 8), (13, 8)),
    "five dimensions": ((2, 1, 3, 9, 8), (2, 1, 3, 13, 8), (2, 1, 3, 13, 8)),
    "shared keys": ((2, 4, 9, 8), (1, 4, 13, 8), (1, 4, 13, 8)),
    "shared heads": ((2, 4, 9, 8), (2, 1, 13, 8), (2, 1, 13, 8)),
}
OPTIONS: dict[str, Callable[[], dict[str, object]]] = {
    "plain": dict,
    "causal": lambda: {"is_causal": True},
    "scaled": lambda: {"scale": 0.3},
    "hidden": lambda: {"attn_mask": torch.rand(9, 13) > 0.3},
    "biased": lambda: {"attn_mask": torch.randn(9, 13, dtype=torch.float64)},
    "learned bias": lambda: {"attn_mask": torch.randn(9, 13, dtype=torch.float64, requires_grad=True)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_gradients_are_torchs(
    shapes: tuple[tuple[int, ...], ...], options: Callable[[], dict[str, object]]
) -> None:
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    given = options()
    bias = given.get("attn_mask")
    every = [*leaves, bias] if isinstance(bias, Tensor) and bias.requires_grad else leaves
    mine = scaled_dot_product_attention(*leaves, **given, backend="cpu")  # type: ignore[arg-type]
    theirs = torchs(*leaves, **given)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(mine.square().sum(), every), torch.autograd.grad(theirs.square().sum(), every)
    )


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, -1e30, -1e6])
def test_padded_rows_that_hide_all_keys_by_a_low_bias(lowest: float) -> None:
    # As transformers pads on the left: rows of padding see what is lowest everywhere, and have no gradient.
    leaves = [torch.randn(1, 2, 24, 8, requires_grad=True) for _ in range(3)]
    hidden = torch.ones(24, 24).triu(1).bool() | (torch.arange(24) < 10)
    bias = torch.zeros(24, 24).masked_fill(hidden, lowest)
    upstream = torch.randn(1, 2, 24, 8)
    upstream[:, :, :10] = 0
    found = torch.autograd.grad(scaled_dot_product_attention(*leaves, bias, backend="cpu"), leaves, upstream)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = torch.autograd.grad(torchs(*wide, bias.double()), wide, upstream.double())
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


def test_groups_of_heads() -> None:
    shapes = ((2, 6, 9, 8), (2, 2, 13, 8), (2, 2, 13, 5))
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mine, theirs = (
        run(*leaves, is_causal=True, enable_gqa=True, **options)
        for run, options in ((scaled_dot_product_attention, {"backend": "cpu"}), (torchs, {}))
    )
    torch.testing.assert_close(
        torch.autograd.grad(mine.square().sum(), leaves), torch.autograd.grad(theirs.square().sum(), leaves)
    )


def test_auto_trains_on_the_engine() -> None:
    leaves = [torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3)]
    shown = torch.ones(9, 9).tril().bool()
    named, auto = (
        torch.autograd.grad(
            scaled_dot_product_attention(*leaves, shown, backend=backend).sum(),
            leaves,
        )
        for backend in ("cpu", "auto")
    )
    torch.testing.assert_close(auto, named, rtol=0, atol=0)


def trained(model: nn.Module, loss_of: Callable[[], Tensor], steps: int = 3) -> list[Tensor]:
    """The losses of some steps, and what the parameters came to."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.3), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *(one.detach().clone() for one in model.parameters())]


class TestReplaced:
    def assert_trains_alike(self, model: nn.Module, loss_of: Callable[[], Tensor], calls: int) -> None:
        start = {name: one.clone() for name, one in model.state_dict().items()}
        expected = trained(model, loss_of)
        model.load_state_dict(start)
        with replace_sdpa() as replaced:
            found = trained(model, loss_of)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        assert replaced.backends == {"cpu": calls}
        assert replaced.passed_on == 0

    @pytest.mark.parametrize("masked", [False, True])
    def test_an_encoder(self, masked: bool) -> None:
        layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
        model = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        tokens, mask = torch.randn(2, 9, 16), nn.Transformer.generate_square_subsequent_mask(9)
        run = (lambda: model(tokens, mask=mask)) if masked else (lambda: model(tokens))
        self.assert_trains_alike(model, lambda: run().square().mean(), calls=6)

    def test_a_language_model(self) -> None:
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_implementation="sdpa",
        )
        model, ids = LlamaForCausalLM(config), torch.randint(50, (2, 11))
        self.assert_trains_alike(model, lambda: model(ids, labels=ids).loss, calls=6)

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_a_checkpoint_calls_it_again_in_the_backward_pass(self, use_reentrant: bool) -> None:
        leaves = [torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3)]
        torchs(*leaves, is_causal=True).square().sum().backward()
        expected = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        with replace_sdpa() as replaced:
            run = partial(torchs, is_causal=True)
            checkpoint(run, *leaves, use_reentrant=use_reentrant).square().sum().backward()
        torch.testing.assert_close([leaf.grad for leaf in leaves], expected, rtol=1e-4, atol=1e-5)
        assert replaced.backends == {"cpu": 2}
        assert replaced.passed_on == 0

    def test_a_backward_after_the_context(self) -> None:
        leaves = [torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3)]
        with replace_sdpa():
            out = torchs(*leaves)
        found = torch.autograd.grad(out.square().sum(), leaves)
        expected = torch.autograd.grad(torchs(*leaves).square().sum(), leaves)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_dropout_is_the_same_for_the_same_seed(self) -> None:
        leaves, found = [torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3)], []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            with replace_sdpa() as replaced:
                out = torchs(*leaves, dropout_p=0.4)
            found.append(torch.autograd.grad(out.square().sum(), leaves))
            assert replaced.backends == {"cpu": 1}
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
        assert not torch.equal(found[2][0], found[0][0])
