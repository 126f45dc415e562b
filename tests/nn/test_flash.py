"""FlashAttention: both its ways agree, and each is attention as it is defined (requirements R2)."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from low_precision import assert_as_good
from saccade import causal, dense, trace
from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.nn import FlashAttention
from saccade.nn.flash import _additive

BATCH, HEADS = 2, 3


def inputs(q_len: int = 4, kv_len: int = 6) -> list[Tensor]:
    """Leaves [B, H, Q, 8], [B, H, K, 8] and [B, H, K, 5]."""
    shapes = ((q_len, 8), (kv_len, 8), (kv_len, 5))
    return [torch.randn(BATCH, HEADS, *shape, requires_grad=True) for shape in shapes]


def results(module: FlashAttention, given: list[Tensor], **tables: Tensor | None) -> list[Tensor]:
    """The output, and the gradients of what learns, drawn with one seed."""
    torch.manual_seed(11)
    out = module(*given, **tables)
    bias = tables.get("attn_bias")
    leaves = [*given, bias] if bias is not None and bias.requires_grad else given
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


TABLES: dict[str, dict[str, Any]] = {
    "none": {},
    "mask by key": {"mask": torch.rand(BATCH, 1, 1, 6) < 0.7},
    "mask by key of all": {"mask": torch.tensor([True, True, False, True, True, False])},
    "bias by head": {"attn_bias": torch.randn(HEADS, 4, 6)},
    "both": {"mask": torch.rand(BATCH, 1, 4, 6) < 0.7, "attn_bias": torch.randn(HEADS, 1, 6)},
    "a mask that hides all": {"mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool)},
    "a number": {"attn_bias": torch.tensor(3.0)},
}


PLAIN = [*((name, True) for name in TABLES), ("none", False), ("both", False)]
# Tables are read before an engine is chosen; what a kernel then meets is one of these.
FUSED = [("none", False), ("bias by head", True), ("both", True), ("a mask that hides all", True)]


@pytest.mark.parametrize(
    ("name", "causal", "flash"), [*((*one, False) for one in PLAIN), *((*one, True) for one in FUSED)]
)
def test_mask_bias_and_causality_combine(name: str, causal: bool, flash: bool) -> None:
    tables = {key: one.clone().requires_grad_(key == "attn_bias") for key, one in TABLES[name].items()}
    given = inputs()
    module = FlashAttention(causal=causal, flash=flash)
    found = results(module, given, **tables)

    def exact(dtype: torch.dtype) -> list[Tensor]:
        leaves = [one.detach().to(dtype).requires_grad_() for one in given]
        mask = tables.get("mask", torch.tensor(True)).expand(BATCH, HEADS, 4, 6)
        learned = tables.get("attn_bias", torch.zeros(()))
        leaves += [learned.detach().to(dtype).requires_grad_()] if "attn_bias" in tables else []
        if causal:
            mask = mask & torch.ones(4, 6, dtype=torch.bool).tril(2)
        scores = leaves[0] @ leaves[1].mT / 8**0.5 + (leaves[3] if len(leaves) > 3 else 0.0)
        out = (torch.softmax(scores.masked_fill(~mask, -1e30), -1) * mask) @ leaves[2]
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        return [out.detach(), *torch.autograd.grad((out * weights.to(dtype)).sum(), leaves)]

    independent, true = exact(torch.float32), exact(torch.float64)
    # The gradient of one number for all pairs is 0 but for rounding.
    compared = slice(4) if name == "a number" else slice(None)
    assert_as_good(found[compared], independent[compared], true[compared])


@pytest.mark.parametrize(("lengths", "dropout"), [((4, 6), 0.4), ((6, 4), 0.0), ((5, 5), 0.4), ((1, 9), 0.4)])
def test_both_ways_agree_gradients_and_dropped_pairs_included(
    lengths: tuple[int, int], dropout: float
) -> None:
    given = inputs(*lengths)
    bias = torch.randn(HEADS, *lengths, requires_grad=True)
    mask = torch.rand(BATCH, 1, *lengths) < 0.8
    fused, plain = (
        results(FlashAttention(causal=True, dropout=dropout, flash=flash), given, mask=mask, attn_bias=bias)
        for flash in (True, False)
    )
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_acts_while_training_only() -> None:
    given = [torch.randn(1, 1, 64, 8) for _ in range(2)]
    module = FlashAttention(dropout=0.5)
    identity = torch.eye(64)[None, None]
    torch.manual_seed(0)
    weights = module(*given, identity)
    assert 0.4 < float((weights == 0).float().mean()) < 0.6
    expected = oracle.attention(*given, identity).weights.float()
    kept = weights != 0
    torch.testing.assert_close(weights[kept], 2 * expected[kept])
    torch.testing.assert_close(module.eval()(*given, identity), expected)


class TestTheThreeWorkedExamples:
    @pytest.fixture
    def given(self) -> list[Tensor]:
        return [torch.randn(2, 8, 32, 16) for _ in range(3)]

    def test_basic(self, given: list[Tensor]) -> None:
        out = FlashAttention(causal=False, dropout=0.0, flash=True)(*given)
        torch.testing.assert_close(out, oracle.attention(*given).out.float())

    def test_with_masking(self, given: list[Tensor]) -> None:
        keep = torch.ones(2, 1, 1, 32, dtype=torch.bool)
        keep[1, ..., 20:] = False
        out = FlashAttention()(*given, mask=keep)
        short = oracle.attention(given[0][1:], given[1][1:, :, :20], given[2][1:, :, :20]).out.float()
        torch.testing.assert_close(out[1:], short)

    def test_causal_with_dropout(self, given: list[Tensor]) -> None:
        module = FlashAttention(causal=True, dropout=0.1)
        torch.manual_seed(1)
        first = module(*given)
        torch.manual_seed(1)
        assert torch.equal(module(*given), first)
        assert not torch.equal(module(*given), first)
        kept = oracle.attention(*given, mask=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx).out.float()
        torch.testing.assert_close(module.eval()(*given), kept)


class TestGetMask:
    @pytest.mark.parametrize(
        ("shape", "hidden"),
        [
            ((3, 3), [[0, 1, 1], [0, 0, 1], [0, 0, 0]]),
            ((2, 4), [[0, 0, 0, 1], [0, 0, 0, 0]]),
            ((4, 2), [[1, 1], [1, 1], [0, 1], [0, 0]]),
        ],
    )
    def test_it_is_true_where_a_key_is_hidden(self, shape: tuple[int, int], hidden: list[list[int]]) -> None:
        mask = FlashAttention().get_mask(*shape, torch.device("cpu"))
        assert mask.dtype is torch.bool
        assert torch.equal(mask, torch.tensor(hidden, dtype=torch.bool))

    @pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
    def test_it_is_what_causality_hides(self, shape: tuple[int, int]) -> None:
        given = inputs(*shape)
        module = FlashAttention(causal=True)
        hidden = module.get_mask(*shape, "cpu")
        torch.testing.assert_close(module(*given), FlashAttention()(*given, mask=~hidden))


def _turned_fused(module: FlashAttention) -> str:
    module.flash = True
    return module.attn_implementation


class TestWhichWay:
    def test_flash_is_another_name_for_a_backend_that_is_fused(self) -> None:
        assert FlashAttention().attn_implementation == "auto"
        assert FlashAttention(flash=False).attn_implementation == "eager"
        assert not FlashAttention(attn_implementation="eager").flash
        assert FlashAttention(attn_implementation="cpu").flash

    def test_it_may_be_assigned(self) -> None:
        module = FlashAttention(attn_implementation="cpu")
        module.flash = True
        assert module.attn_implementation == "cpu"
        module.flash = False
        assert module.attn_implementation == "eager"
        assert _turned_fused(pickle.loads(pickle.dumps(module))) == "cpu"
        module.flash = True
        assert module.attn_implementation == "cpu"  # what False put aside

    def test_plain_from_the_start_turns_to_auto(self) -> None:
        for module in (FlashAttention(flash=False), FlashAttention(attn_implementation="eager")):
            assert _turned_fused(module) == "auto"

    def test_both_given_must_agree(self) -> None:
        assert not FlashAttention(flash=False, attn_implementation="eager").flash
        with pytest.raises(
            ArgumentError, match=r"flash=False means plain products.*got attn_implementation='cpu'"
        ):
            FlashAttention(flash=False, attn_implementation="cpu")

    def test_flash_attn_is_fused_always(self, caplog: pytest.LogCaptureFixture) -> None:
        given = inputs()
        with caplog.at_level("DEBUG", logger="saccade"):
            module = FlashAttention(flash=False)
            one, other = module.flash_attn(*given), module(*given)
            module = FlashAttention(attn_implementation="sdpa")
            module.flash_attn(*given)
            module.flash = False
            module.flash_attn(*given)
        plans = [text.split()[0] for text in caplog.messages if " runs " in text]
        assert plans == ["cpu", "eager", "sdpa", "sdpa"]
        torch.testing.assert_close(one, other)

    def test_its_repr_says_which(self) -> None:
        shown = repr(FlashAttention(causal=True, dropout=0.1))
        assert shown == "FlashAttention(causal=True, dropout=0.1, attn_implementation='auto')"


def test_blocks_that_a_bias_of_all_heads_hides_are_looked_for() -> None:
    given = [torch.randn(1, 2, 256, 8) for _ in range(3)]
    hidden = torch.full((256, 256), -torch.inf).triu(1)
    found = FlashAttention()(*given, attn_bias=hidden.expand(1, 2, 256, 256))
    torch.testing.assert_close(found, FlashAttention(causal=True)(*given))
    mask, score = _additive(hidden.expand(1, 2, 256, 256), (1, 2, 256, 256))
    assert mask == dense(hidden[None, None])
    assert [one.numel() for one in trace(score).captures] == [256 * 256]


def test_key_heads_may_serve_groups_of_query_heads() -> None:
    query, key, value = torch.randn(1, 4, 5, 8), *torch.randn(2, 1, 2, 5, 8)
    out = FlashAttention()(query, key, value)
    torch.testing.assert_close(out, oracle.attention(query, key, value).out.float())


class TestRefusals:
    def test_a_value_for_each_key(self) -> None:
        query, key, value = inputs()
        with pytest.raises(
            ValueError, match=r"v must have one row for each key, got 5 for 6: v\.shape="
        ) as caught:
            FlashAttention()(query, key, value[:, :, :5])
        assert isinstance(caught.value, ShapeError)

    def test_four_dimensions(self) -> None:
        query, key, value = inputs()
        with pytest.raises(
            ShapeError, match=r"k must be \[batch, heads, length, features\], got shape=\[3, 6"
        ):
            FlashAttention()(query, key[0], value)
        with pytest.raises(ArgumentTypeError, match="q must be a torch tensor, got list"):
            FlashAttention()([1.0], key, value)

    @pytest.mark.parametrize("name", ["mask", "attn_bias"])
    @pytest.mark.parametrize("shape", [(4, 5), (3, 2, 4, 6), (1, 1, 1, 4, 6)])
    def test_tables_that_do_not_broadcast(self, name: str, shape: tuple[int, ...]) -> None:
        table = torch.zeros(shape, dtype=torch.bool if name == "mask" else torch.float32)
        text = rf"{name} must broadcast to \[batch, heads, queries, keys\] = \[2, 3, 4, 6\], got {name}.shape"
        with pytest.raises(ShapeError, match=text):
            FlashAttention()(*inputs(), **{name: table})

    def test_tables_of_the_other_kind(self) -> None:
        with pytest.raises(
            DTypeError, match=r"mask must be bool, True = keep, got dtype=torch.float32; .*attn_b"
        ):
            FlashAttention()(*inputs(), mask=torch.ones(4, 6))
        with pytest.raises(
            DTypeError, match=r"attn_bias must be floating, got dtype=torch.bool; .*pass .* as mask"
        ):
            FlashAttention()(*inputs(), attn_bias=torch.ones(4, 6, dtype=torch.bool))
        with pytest.raises(ArgumentTypeError, match="mask must be a torch tensor, got list"):
            FlashAttention()(*inputs(), mask=[True])

    @pytest.mark.parametrize("name", ["causal", "flash"])
    def test_a_choice_that_is_no_bool(self, name: str) -> None:
        text = rf"FlashAttention\(\): {name} must be True or False, got str 'no'"
        with pytest.raises(ArgumentTypeError, match=text):
            FlashAttention(**{name: "no"})
        with pytest.raises(ArgumentTypeError, match="flash must be True or False, got int 0"):
            FlashAttention().flash = 0

    @pytest.mark.parametrize(("lengths", "name"), [((-1, 3), "i"), ((3, -2), "j")])
    def test_a_mask_of_a_negative_length(self, lengths: tuple[int, int], name: str) -> None:
        text = rf"get_mask\(\): {name} must be at least 0, got {min(lengths)}"
        with pytest.raises(ArgumentError, match=text):
            FlashAttention().get_mask(*lengths)
        with pytest.raises(ArgumentTypeError, match=r"get_mask\(\): i must be an integer, got float 2.5"):
            FlashAttention().get_mask(2.5, 3)
        assert FlashAttention().get_mask(0, 3).shape == (0, 3)

    def test_a_function_in_place_of_a_table(self) -> None:
        with pytest.raises(
            ArgumentTypeError, match="mask must be a torch tensor, got _Causal; a function of"
        ):
            FlashAttention()(*inputs(), mask=causal)

    def test_a_dropout_that_is_no_probability(self) -> None:
        with pytest.raises(
            ArgumentError, match=r"FlashAttention\(\): dropout must be in \[0, 1\].*dropout=1.5"
        ):
            FlashAttention(dropout=1.5)
        with pytest.raises(
            ArgumentTypeError, match=r"FlashAttention\(\): dropout must be a number, got str '0'"
        ):
            FlashAttention(dropout="0")  # type: ignore[arg-type]
