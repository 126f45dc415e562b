"""MultiheadAttention under masks and scores that are functions, with groups of heads and with added keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask as theirs

import oracle
from saccade import alibi, causal, create_block_mask, sliding_window, trace
from saccade.block_mask import BlockMask
from saccade.errors import ShapeError, UnsupportedError
from saccade.nn import MultiheadAttention
from saccade.nn.added_keys import mods_of_given
from saccade.nn.layout import Layout
from saccade.nn.mask_tables import ScoreShape, mods_of_tables
from saccade.signatures import MaskMod, ScoreMod

Q_LEN, KV_LEN = 5, 7

FORMS = {
    "plain": MultiheadAttention(16, 4, batch_first=True),
    "grouped": MultiheadAttention(16, 4, batch_first=True, num_kv_heads=2),
    "grouped, other widths": MultiheadAttention(
        16, 4, batch_first=True, num_kv_heads=1, kdim=6, vdim=10, bias=False
    ),
}


def expected(
    module: MultiheadAttention, given: list[Tensor], mask: MaskMod | None, score: ScoreMod | None
) -> Tensor:
    """What the module should give, in float64, for a module that adds no keys."""
    rows = [module.num_heads * module.head_dim] + [module.num_kv_heads * module.head_dim] * 2
    if module.in_proj_weight is not None:
        weights: list[Tensor] = list(module.in_proj_weight.split(rows))
    else:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]  # type: ignore[list-item]
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.double().split(rows)
    heads = [
        functional.linear(tokens.double(), weight.double(), bias)
        .view(*tokens.shape[:2], -1, module.head_dim)
        .transpose(1, 2)
        for tokens, weight, bias in zip(given, weights, biases, strict=True)
    ]
    attended = oracle.attention(*heads, mask=mask, score=score).out.transpose(1, 2).flatten(-2)
    bias = module.out_proj.bias
    return functional.linear(
        attended, module.out_proj.weight.double(), None if bias is None else bias.double()
    )


def tokens(module: MultiheadAttention) -> list[Tensor]:
    return [torch.randn(2, n, width) for n, width in (
        (Q_LEN, 16), (KV_LEN, module.kdim), (KV_LEN, module.vdim)
    )]  # fmt: skip


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mask", "score"), [(sliding_window(3), None), (None, alibi(4)), (causal, alibi(4))])
def test_functions_mean_what_they_say(
    form: str, mask: MaskMod | None, score: ScoreMod | None, backend: str
) -> None:
    module = FORMS[form]
    module.attn_implementation = backend
    given = tokens(module)
    out, _ = module(*given, mask_mod=mask, score_mod=score)
    torch.testing.assert_close(out, expected(module, given, mask, score).float())


def test_a_block_mask_and_a_mask_mod_must_both_hold() -> None:
    module, given = FORMS["plain"], tokens(FORMS["plain"])
    blocks = create_block_mask(causal, None, None, Q_LEN, KV_LEN, device="cpu")
    out, _ = module(*given, block_mask=blocks, mask_mod=sliding_window(2))
    torch.testing.assert_close(out, module(*given, mask_mod=sliding_window(2))[0])
    out, _ = module(*given, block_mask=blocks)
    torch.testing.assert_close(out, module(*given, mask_mod=causal)[0])


def test_an_additive_table_is_added_to_what_the_score_mod_made() -> None:
    module, given = FORMS["plain"], tokens(FORMS["plain"])
    table = torch.randn(Q_LEN, KV_LEN)

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return torch.tanh(score)

    def capped_then_added(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.tanh(score) + table[q_idx, kv_idx]

    out, _ = module(*given, score_mod=capped, attn_mask=table)
    wanted = expected(module, given, None, capped_then_added)
    torch.testing.assert_close(out, wanted.float())


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_what_a_score_mod_makes_of_pairs_that_an_additive_table_hides_reaches_nothing(backend: str) -> None:
    module, given = FORMS["plain"], [one.requires_grad_() for one in tokens(FORMS["plain"])]
    module.attn_implementation = backend
    rows = torch.zeros(2, KV_LEN)
    rows[:, 4:] = torch.finfo(torch.float32).min

    def root(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.sqrt((4.5 - kv_idx) * (1.0 + score * score))  # NaN beyond key 4

    out, _ = module(*given, score_mod=root, key_padding_mask=rows)
    gradients = torch.autograd.grad(out.sum(), given)
    short = [given[0], given[1][:, :4], given[2][:, :4]]
    expected, _ = module(*short, score_mod=root)
    torch.testing.assert_close(out, expected)
    for found, wanted in zip(gradients, torch.autograd.grad(expected.sum(), given), strict=True):
        torch.testing.assert_close(found, wanted)


def test_expanded_tables_are_read_as_they_are_stored() -> None:
    shape = ScoreShape(2, 4, Q_LEN, KV_LEN, Layout.BATCH_FIRST)
    table = torch.zeros(Q_LEN, KV_LEN)
    for kind in (table, table > 0):
        masks, scores = mods_of_tables(None, kind.expand(8, Q_LEN, KV_LEN), False, shape, rescored=True)
        captures = [one for mod in (*masks, *scores) for one in trace(mod).captures]
        assert captures
        assert {one.data_ptr() for one in captures} == {kind.data_ptr()}
        assert {one.numel() for one in captures} == {table.numel()}


def test_a_learned_additive_table_gets_its_gradient() -> None:
    module, given = FORMS["plain"], tokens(FORMS["plain"])
    table = torch.randn(2 * 4, Q_LEN, KV_LEN, requires_grad=True)
    module(*given, attn_mask=table)[0].sum().backward()
    found = table.grad

    def added(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table.double().view(2, 4, Q_LEN, KV_LEN)[b, h, q_idx, kv_idx]

    wanted = torch.autograd.grad(expected(module, given, None, added).sum(), table)[0]
    assert found is not None
    torch.testing.assert_close(found, wanted)


class TestAddedKeys:
    """Every query sees them, at their plain score, and no function hears of them."""

    @pytest.fixture
    def module(self) -> MultiheadAttention:
        return MultiheadAttention(16, 4, batch_first=True, add_bias_kv=True, add_zero_attn=True)

    def as_given(
        self, module: MultiheadAttention, given: list[Tensor]
    ) -> tuple[MultiheadAttention, list[Tensor]]:
        """The same with the added keys among those given, in a module that adds none and projects nothing."""
        plain = MultiheadAttention(16, 4, batch_first=True)
        plain.out_proj = module.out_proj
        weight, bias = module.in_proj_weight, module.in_proj_bias
        assert weight is not None
        assert bias is not None
        with torch.no_grad():
            plain.in_proj_weight.copy_(torch.eye(16).repeat(3, 1))  # type: ignore[union-attr]
        projected = [
            functional.linear(one, rows, offset)
            for one, rows, offset in zip(given, weight.split(16), bias.split(16), strict=True)
        ]
        for place, learned in ((1, module.bias_k), (2, module.bias_v)):
            assert learned is not None
            added = torch.cat([learned, torch.zeros(1, 1, 16)], dim=1).expand(2, -1, -1)
            projected[place] = torch.cat([projected[place], added], dim=1)
        return plain, projected

    @pytest.mark.parametrize("backend", ["eager", "cpu"])
    @pytest.mark.parametrize("by", ["mask_mod", "block_mask", "both"])
    def test_they_stay_visible_under_a_mask(self, module: MultiheadAttention, by: str, backend: str) -> None:
        module.attn_implementation = backend
        given = tokens(module)
        blocks = create_block_mask(causal, None, None, Q_LEN, KV_LEN, device="cpu")
        masks: dict[str, Callable[[], dict[str, object]]] = {
            "mask_mod": lambda: {"mask_mod": causal},
            "block_mask": lambda: {"block_mask": blocks},
            "both": lambda: {"block_mask": blocks, "mask_mod": sliding_window(KV_LEN)},
        }
        plain, projected = self.as_given(module, given)

        def visible(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return (q_idx >= kv_idx) | (kv_idx >= KV_LEN)

        out, weights = module(*given, **masks[by](), need_weights=backend == "eager")
        torch.testing.assert_close(out, plain(*projected, mask_mod=visible)[0])
        if weights is not None:
            assert weights.shape == (2, Q_LEN, KV_LEN + 2)
            assert bool((weights[..., KV_LEN:] > 0).all())

    @pytest.mark.parametrize("backend", ["eager", "cpu"])
    def test_their_scores_stay_as_they_are(self, module: MultiheadAttention, backend: str) -> None:
        module.attn_implementation = backend
        given = tokens(module)
        plain, projected = self.as_given(module, given)
        per_key = torch.randn(KV_LEN)

        def changed(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return 2.0 * score + per_key[kv_idx]

        def changed_before(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return torch.where(kv_idx < KV_LEN, 2.0 * score + per_key[kv_idx.clamp(max=KV_LEN - 1)], score)

        out, _ = module(*given, score_mod=changed)
        torch.testing.assert_close(out, plain(*projected, score_mod=changed_before)[0])

    def test_a_function_is_never_asked_about_them(self) -> None:
        asked: list[Tensor] = []

        def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            asked.append(kv_idx)
            return kv_idx < 0

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            asked.append(kv_idx)
            return score + 1.0

        visible, scored = mods_of_given(mask, score, KV_LEN)
        assert visible is not None
        assert scored is not None
        kv_idx, zero = torch.arange(KV_LEN + 2), torch.tensor(0)
        assert torch.equal(visible(zero, zero, zero, kv_idx), kv_idx >= KV_LEN)
        assert torch.equal(
            scored(torch.zeros(KV_LEN + 2), zero, zero, zero, kv_idx), (kv_idx < KV_LEN).float()
        )
        assert [int(one.max()) for one in asked] == [KV_LEN - 1] * 2

    def test_a_table_as_long_as_the_given_keys_is_long_enough(self, module: MultiheadAttention) -> None:
        keep = torch.tensor([True] * (KV_LEN - 1) + [False])
        _, weights = module(*tokens(module), mask_mod=lambda b, h, q, kv: keep[kv], need_weights=True)
        assert weights is not None
        assert (weights > 0).all(dim=1).tolist() == [[True] * (KV_LEN - 1) + [False, True, True]] * 2

    def test_they_are_all_there_is_where_no_key_is_given(self, module: MultiheadAttention) -> None:
        query, nothing = torch.randn(2, Q_LEN, 16), torch.randn(2, 0, 16)
        out, weights = module(query, nothing, nothing, mask_mod=causal, score_mod=alibi(4), need_weights=True)
        assert weights is not None
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, Q_LEN))
        assert out.shape == (2, Q_LEN, 16)

    def test_a_block_mask_of_given_blocks_is_refused(self, module: MultiheadAttention) -> None:
        blocks = create_block_mask(causal, None, None, Q_LEN, KV_LEN, device="cpu")
        given = BlockMask.from_kv_blocks(
            blocks.kv_num_blocks, blocks.kv_indices, seq_lengths=blocks.seq_lengths
        )
        with pytest.raises(UnsupportedError, match="got one of given blocks, for 7 keys: pass a function"):
            module(*tokens(module), block_mask=given)

    def test_a_block_mask_of_torch_is_refused(self, module: MultiheadAttention) -> None:
        blocks = theirs(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, None, Q_LEN, KV_LEN, device="cpu")
        text = "got torch's own, .* for 7 keys: make it with saccade.create_block_mask"
        with pytest.raises(UnsupportedError, match=text):
            module(*tokens(module), block_mask=blocks)

    def test_a_block_mask_for_other_lengths_is_refused(self, module: MultiheadAttention) -> None:
        blocks = create_block_mask(causal, None, None, Q_LEN, KV_LEN + 2, device="cpu")
        with pytest.raises(ShapeError, match="the block_mask is for q_len=5 and kv_len=9"):
            module(*tokens(module), block_mask=blocks)
