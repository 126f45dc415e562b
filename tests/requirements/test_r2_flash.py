"""R2, "A FlashAttention module": the zeta library's interface, held against dense float64."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from requirements.dense_modules import RATE, assert_float32_accuracy, attend, float64_copy, step
from saccade.backends.cpu.kernels import KERNELS
from saccade.nn import FlashAttention

PATHS = pytest.mark.parametrize("flash", [True, False], ids=["flash", "plain"])
BATCH, HEADS, DIM = 2, 4, 16
LENGTHS = pytest.mark.parametrize(("q_len", "k_len"), [(10, 10), (6, 11), (11, 6), (1, 9)])


def inputs(q_len: int = 10, k_len: int = 10) -> list[Tensor]:
    generator = torch.Generator().manual_seed(q_len + 31 * k_len)
    shapes = ((BATCH, HEADS, q_len, DIM), (BATCH, HEADS, k_len, DIM), (BATCH, HEADS, k_len, DIM))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def lower_right(q_len: int, k_len: int) -> Tensor:
    """[q_len, k_len] bool, True = visible: the last query sees the last key."""
    q_idx, k_idx = torch.arange(q_len)[:, None], torch.arange(k_len)
    return k_idx <= q_idx + (k_len - q_len)


def exact(tensors: list[Tensor], visible: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    query, key, value = (each.double() for each in tensors)
    shape = (BATCH, HEADS, query.shape[2], key.shape[2])
    return attend(
        query, key, value, visible.expand(shape), bias.double() if isinstance(bias, Tensor) else bias
    )


def assert_same_with_gradients(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    assert_float32_accuracy(found, expected)
    weight = torch.linspace(-1, 1, found.numel()).view_as(found)
    mine = torch.autograd.grad(found, leaves, weight)
    theirs = torch.autograd.grad(expected, leaves, weight.double(), materialize_grads=True, allow_unused=True)
    for one, other in zip(mine, theirs, strict=True):
        # The exact gradients come back rounded to float32, for the leaves are.
        assert_float32_accuracy(one, other.double())


def test_the_signatures() -> None:
    """'`FlashAttention(causal=False, dropout=0., flash=True)`: `get_mask(i, j, device)` ...'"""
    found = {name: one.default for name, one in inspect.signature(FlashAttention).parameters.items()}
    assert list(found.items())[:3] == [("causal", False), ("dropout", 0.0), ("flash", True)]
    assert list(inspect.signature(FlashAttention.get_mask).parameters)[1:] == ["i", "j", "device"]
    for method in (FlashAttention.flash_attn, FlashAttention.forward):
        parameters = inspect.signature(method).parameters
        assert list(parameters)[1:] == ["q", "k", "v", "mask", "attn_bias"]
        assert parameters["mask"].default is parameters["attn_bias"].default is None
    assert isinstance(FlashAttention(), nn.Module)


def test_get_mask_is_true_where_a_key_is_hidden() -> None:
    """'→ bool `(i, j)` ... `get_mask` is True where a key is hidden', aligned lower right"""
    module = FlashAttention(causal=True)
    expected = {
        (3, 3): [[0, 1, 1], [0, 0, 1], [0, 0, 0]],
        (2, 4): [[0, 0, 0, 1], [0, 0, 0, 0]],
        (4, 2): [[1, 1], [1, 1], [0, 1], [0, 0]],
        (1, 3): [[0, 0, 0]],
    }
    for (i, j), rows in expected.items():
        mask = module.get_mask(i, j, torch.device("cpu"))
        assert mask.dtype is torch.bool
        assert mask.int().tolist() == rows
        assert torch.equal(mask, ~lower_right(i, j))


@PATHS
@LENGTHS
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_attention_and_its_gradients(causal: bool, q_len: int, k_len: int, flash: bool) -> None:
    """'both paths align causality alike when q_len ≠ k_len (lower right: ...)'"""
    tensors = inputs(q_len, k_len)
    module = FlashAttention(causal=causal, flash=flash)
    visible = lower_right(q_len, k_len) if causal else torch.ones(q_len, k_len, dtype=torch.bool)
    found = module(*tensors)
    assert_same_with_gradients(found, exact(tensors, visible), tensors)
    # A query before the first key sees nothing, and its attention is 0.
    assert torch.equal(found[:, :, visible.sum(-1) == 0], torch.zeros_like(found[:, :, visible.sum(-1) == 0]))


@PATHS
@pytest.mark.parametrize(
    "shape",
    [(BATCH, HEADS, 6, 11), (BATCH, 1, 1, 11), (1, HEADS, 6, 1), (6, 11)],
    ids=str,
)
def test_masks_and_biases_broadcast(shape: tuple[int, ...], flash: bool) -> None:
    """'mask and bias broadcastable to `(batch, heads, q_len, k_len)` ...; mask True = keep'"""
    tensors = inputs(6, 11)
    mask, bias = torch.rand(shape) < 0.6, torch.randn(shape)
    found = FlashAttention(flash=flash)(*tensors, mask=mask, attn_bias=bias)
    assert_same_with_gradients(found, exact(tensors, mask, bias), tensors)


@PATHS
def test_a_bias_of_three_axes_is_per_head(flash: bool) -> None:
    """'a 3-D bias `(heads, q_len, k_len)` too'; it may be learned"""
    tensors, everything = inputs(6, 11), torch.ones(6, 11, dtype=torch.bool)
    bias = torch.randn(HEADS, 6, 11, requires_grad=True)
    found = FlashAttention(flash=flash)(*tensors, attn_bias=bias)
    assert_same_with_gradients(found, exact(tensors, everything, bias[None]), [*tensors, bias])


@PATHS
@LENGTHS
def test_mask_bias_and_causality_combine(q_len: int, k_len: int, flash: bool) -> None:
    """'mask, bias and causality combine in both paths'"""
    tensors = inputs(q_len, k_len)
    mask, bias = torch.rand(BATCH, 1, q_len, k_len) < 0.7, torch.randn(HEADS, q_len, k_len)
    mask[0, 0, 0] = False
    found = FlashAttention(causal=True, flash=flash)(*tensors, mask=mask, attn_bias=bias)
    visible = mask & lower_right(q_len, k_len)
    assert_same_with_gradients(found, exact(tensors, visible, bias), tensors)
    assert torch.equal(found[0, :, 0], torch.zeros(HEADS, DIM))


@LENGTHS
def test_the_two_paths_agree_gradients_included(q_len: int, k_len: int) -> None:
    """'`flash=True` ... fused engine, `flash=False` plain products; the two agree, gradients included'"""
    tensors = inputs(q_len, k_len)
    outs = [FlashAttention(causal=True, flash=flash)(*tensors) for flash in (True, False)]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(outs[0])
    torch.testing.assert_close(
        *[torch.autograd.grad(out, tensors, weight) for out in outs], rtol=1e-4, atol=1e-5
    )


def test_flash_is_the_fused_engine_and_the_other_path_is_not() -> None:
    """'`flash=True` uses the fused engine, `flash=False` plain products'"""
    tensors = [torch.randn(1, 1, 10, 23) for _ in range(3)]  # a width for which nothing is compiled yet
    before = KERNELS.builds
    FlashAttention(causal=True, flash=False)(*tensors)
    assert KERNELS.builds == before
    FlashAttention(causal=True, flash=True)(*tensors)
    assert KERNELS.builds == before + 1


@PATHS
def test_flash_attn_is_what_forward_gives(flash: bool) -> None:
    """'`flash_attn(q, k, v, mask=None, attn_bias=None)`; `forward(q, k, v, mask=None, attn_bias=None)`'"""
    tensors, mask, bias = inputs(), torch.rand(BATCH, 1, 10, 10) < 0.7, torch.randn(HEADS, 10, 10)
    module = FlashAttention(causal=True, flash=flash)
    for arguments in ((), (mask,), (mask, bias)):
        torch.testing.assert_close(
            module.flash_attn(*tensors, *arguments), module(*tensors, *arguments), rtol=1e-5, atol=1e-5
        )


@PATHS
def test_dropout_acts_on_the_probabilities_in_training_only(flash: bool) -> None:
    """'dropout acts on the probabilities, in training only'"""
    query, key, _ = inputs()
    # With the identity as values, the output is the matrix of probabilities.
    value = torch.eye(10).expand(BATCH, HEADS, 10, 10).contiguous()
    module = FlashAttention(causal=True, dropout=0.5, flash=flash)
    module.eval()
    whole = module(query, key, value)
    torch.testing.assert_close(whole.sum(-1), torch.ones(BATCH, HEADS, 10))
    assert torch.equal(module(query, key, value), whole)
    module.train()
    dropped = module(query, key, value)
    zero = dropped == 0
    torch.testing.assert_close(torch.where(zero, 0.0, dropped), torch.where(zero, 0.0, whole / 0.5))
    share = float((zero & (whole != 0)).sum() / (whole != 0).sum())
    assert 0.35 < share < 0.65
    assert not torch.equal(module(query, key, value), dropped)


def test_dropout_drops_the_same_pairs_in_both_paths() -> None:
    """'the two agree, gradients included': from one state of the generator, also with dropout (as agreed)"""
    tensors = inputs()
    outs = []
    for flash in (True, False):
        torch.manual_seed(9)
        outs.append(FlashAttention(causal=True, dropout=0.3, flash=flash).train()(*tensors))
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(outs[0])
    torch.testing.assert_close(
        *[torch.autograd.grad(out, tensors, weight) for out in outs], rtol=1e-4, atol=1e-5
    )


@PATHS
def test_values_must_be_as_many_as_keys(flash: bool) -> None:
    """'v's length must equal k's (ValueError)'"""
    query, key, value = inputs(6, 11)
    with pytest.raises(ValueError, match="11"):
        FlashAttention(flash=flash)(query, key, value[:, :, :10])


@PATHS
class TestTheThreeWorkedExamples:
    """'Three worked examples: basic; with masking; causal with dropout.'"""

    def tensors(self) -> list[Tensor]:
        return [torch.randn(1, 8, 10, 64) for _ in range(3)]

    def test_basic(self, flash: bool) -> None:
        q, k, v = self.tensors()
        out = FlashAttention(causal=False, dropout=0.1, flash=flash).eval()(q, k, v)
        assert out.shape == (1, 8, 10, 64)
        everything = torch.ones(1, 8, 10, 10, dtype=torch.bool)
        assert_float32_accuracy(out, attend(q.double(), k.double(), v.double(), everything))

    def test_with_masking(self, flash: bool) -> None:
        q, k, v = self.tensors()
        mask = torch.ones(1, 8, 10, 10).bool()
        mask[:, :, :, 7:] = False
        out = FlashAttention(flash=flash)(q, k, v, mask=mask)
        assert_float32_accuracy(out, attend(q.double(), k.double(), v.double(), mask))

    def test_causal_with_dropout(self, flash: bool) -> None:
        q, k, v = self.tensors()
        module = FlashAttention(causal=True, dropout=0.1, flash=flash)
        out = module(q, k, v)
        assert out.shape == (1, 8, 10, 64)
        # Query 0 sees one key, whose weight is kept and divided by the keep rate, or dropped.
        ratio = out[0, :, 0] / v[0, :, 0]
        assert all(
            torch.allclose(head, torch.tensor(0.0)) or torch.allclose(head, torch.tensor(1 / 0.9), rtol=1e-4)
            for head in ratio
        )
        assert_float32_accuracy(
            module.eval()(q, k, v),
            attend(q.double(), k.double(), v.double(), lower_right(10, 10).expand(1, 8, 10, 10)),
        )


class Layer(nn.Module):
    """FlashAttention between two projections, with a learned bias for each pair."""

    def __init__(self, flash: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 3 * HEADS * DIM)
        self.bias = nn.Parameter(torch.randn(HEADS, 10, 10))
        self.out = nn.Linear(HEADS * DIM, 24)
        self.attention = FlashAttention(causal=True, flash=flash)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 10, 3, HEADS, DIM).permute(2, 0, 3, 1, 4)
        out = self.attention(q, k, v, mask=mask, attn_bias=self.bias)
        return self.out(out.transpose(1, 2).flatten(2))


@PATHS
def test_a_training_step_matches_dense_torch_to_float32_accuracy(flash: bool) -> None:
    """'Each module trains a step and matches dense torch to float32 accuracy, gradients included'"""
    torch.manual_seed(4)
    layer = Layer(flash)
    x, target, mask = (
        torch.randn(BATCH, 10, 24),
        torch.randn(BATCH, 10, 24),
        torch.rand(BATCH, 1, 1, 10) < 0.7,
    )
    p = float64_copy(dict(layer.named_parameters()))

    def dense_loss() -> Tensor:
        projected = x.double() @ p["qkv.weight"].T + p["qkv.bias"]
        q, k, v = projected.view(BATCH, 10, 3, HEADS, DIM).permute(2, 0, 3, 1, 4)
        visible = (mask & lower_right(10, 10)).expand(BATCH, HEADS, 10, 10)
        joined = attend(q, k, v, visible, p["bias"]).transpose(1, 2).flatten(2)
        return (joined @ p["out.weight"].T + p["out.bias"] - target).pow(2).mean()

    gradients, stepped = step(p, dense_loss)
    (layer(x, mask) - target).pow(2).mean().backward()
    torch.optim.SGD(layer.parameters(), lr=RATE).step()
    for name, parameter in layer.named_parameters():
        assert_float32_accuracy(parameter.grad, gradients[name])
        assert_float32_accuracy(parameter, stepped[name])
