"""R1, 'jagged (nested) batch | 16 sequences of 1-1024 tokens, ...', packed and as nested tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import oracle
from requirements.agreement import ENGINES
from saccade import build_seq_idx, causal, create_block_mask, create_njt_wrapper, flex_attention, jagged

SEQUENCES, HEADS, DIM = 16, 16, 64

# What nested tensors of torch say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")


def offsets_of(lengths: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


# 16 sequences of 1 to 1024 tokens, most of them short: torch's part of the test takes the time.
TEXTS = torch.tensor([1, 1024, 3, 512, 64, 650, 130, 17, 256, 31, 90, 5, 300, 128, 2, 200])
assert len(TEXTS) == SEQUENCES


def drawn_offsets(longest: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return offsets_of(torch.randint(1, longest + 1, (SEQUENCES,), generator=generator))


def packed(offsets: Tensor, heads: int = HEADS, dim: int = DIM) -> list[Tensor]:
    """Leaves [1, H, tokens, D], and a weight for each number of the output."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(1, heads, int(offsets[-1]), dim, generator=generator).requires_grad_() for _ in range(4)
    ]


def nested(leaf: Tensor, offsets: Tensor) -> Tensor:
    """[B, H, j, D] of the jagged layout, from [1, H, tokens, D]; gradients flow through."""
    return torch.nested.nested_tensor_from_jagged(leaf[0].transpose(0, 1).contiguous(), offsets).transpose(
        1, 2
    )


def values(result: Tensor) -> Tensor:
    """[1, H, tokens, D] of a nested result."""
    return result.transpose(1, 2).values().transpose(0, 1)[None]


def sequence_by_sequence(tensors: list[Tensor], offsets: Tensor, is_causal: bool) -> Tensor:
    """SDPA of each sequence alone, packed again: what SDPA of nested tensors means."""
    bounds = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    outs = [
        scaled_dot_product_attention(*(one[:, :, a:b] for one in tensors), is_causal=is_causal)
        for a, b in bounds
    ]
    return torch.cat(outs, dim=2)


def test_build_seq_idx() -> None:
    """'through `offsets` and a sequence index (`build_seq_idx`, ...)'"""
    offsets = torch.tensor([0, 3, 4, 4, 9])
    assert build_seq_idx(offsets).tolist() == [0, 0, 0, 1, 3, 3, 3, 3, 3]
    made = torch.nested.nested_tensor_from_jagged(torch.zeros(9, 2), offsets)
    assert build_seq_idx(made).tolist() == [0, 0, 0, 1, 3, 3, 3, 3, 3]


def test_create_njt_wrapper_gives_each_sequence_its_own_positions() -> None:
    """'`create_njt_wrapper(mask, offsets, seq_idx)`'"""
    offsets = torch.tensor([0, 2, 5])
    asked: list[tuple[Tensor, Tensor]] = []

    def causal_of_one(b, h, q_idx, kv_idx):
        asked.append((q_idx, kv_idx))
        return q_idx >= kv_idx

    mask = create_njt_wrapper(causal_of_one, offsets, build_seq_idx(offsets))
    shown = oracle.visible_pairs(mask, 1, 1, 5, 5)[0, 0]
    assert shown.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert all(each.flatten().tolist() == [0, 1, 0, 1, 2] for each in asked[0])


def test_the_texts_16_sequences_packed() -> None:
    """'per-sequence causal over packed values ...; equal to SDPA on the nested tensors, forward and ...'

    On a CPU torch refuses nested tensors with is_causal, so its SDPA is asked sequence by sequence.
    """
    offsets = offsets_of(TEXTS)
    *tensors, weight = packed(offsets)
    mask = create_njt_wrapper(causal, offsets, build_seq_idx(offsets))
    tokens = int(offsets[-1])
    blocks = create_block_mask(mask, None, None, tokens, tokens, "cpu")
    out = flex_attention(*tensors, block_mask=blocks)
    expected = sequence_by_sequence(tensors, offsets, is_causal=True)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    mine, theirs = (torch.autograd.grad(one, tensors, weight) for one in (out, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
def test_flex_attention_takes_torch_nested_tensors(engine: str, is_causal: bool) -> None:
    """'`flex_attention` also takes torch nested (jagged) tensors directly', forward and gradients"""
    offsets = drawn_offsets(16)
    *tensors, weight = packed(offsets)
    query, key, value = (nested(leaf, offsets) for leaf in tensors)
    out = flex_attention(query, key, value, mask_mod=causal if is_causal else None, backend=engine)
    assert out.is_nested
    assert out.layout is torch.jagged
    assert out.shape[0] == SEQUENCES
    assert (out.shape[1], out.shape[3]) == (HEADS, DIM)
    assert torch.equal(out.transpose(1, 2).offsets(), offsets)
    expected = sequence_by_sequence(tensors, offsets, is_causal)
    if not is_causal:
        by_torch = values(scaled_dot_product_attention(query, key, value))
        torch.testing.assert_close(by_torch, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values(out), expected, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(values(out), tensors, weight)
    theirs = torch.autograd.grad(expected, tensors, weight)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_nested_leaves_are_nested(engine: str) -> None:
    """The leaves themselves may be nested, [B, j, H, D], as a model that was given nested tokens has them."""
    offsets = torch.tensor([0, 5, 6, 20])
    made = [leaf.detach()[0].transpose(0, 1) for leaf in packed(offsets, 2, 16)]
    leaves = [torch.nested.nested_tensor_from_jagged(one, offsets).requires_grad_() for one in made[:3]]
    plain = [one.transpose(0, 1)[None].clone().requires_grad_() for one in made[:3]]
    out = flex_attention(*(leaf.transpose(1, 2) for leaf in leaves), mask_mod=causal, backend=engine)
    values(out).pow(2).sum().backward()
    sequence_by_sequence(plain, offsets, is_causal=True).pow(2).sum().backward()
    for leaf, one in zip(leaves, plain, strict=True):
        assert leaf.grad.is_nested
        found = leaf.grad.values().transpose(0, 1)[None]
        torch.testing.assert_close(found, one.grad, rtol=1e-4, atol=1e-5)


def test_mods_of_nested_tensors_get_the_sequence_as_b_and_positions_within_it() -> None:
    """The agreed meaning: `b` is the sequence's number, positions count within the sequence."""
    offsets = torch.tensor([0, 4, 5, 12])
    *tensors, _ = packed(offsets, 2, 16)
    slope = torch.tensor([0.0, 1.0, -0.5])

    def score(score, b, h, q_idx, kv_idx):
        return score * (1 + slope[b] * kv_idx) + q_idx * kv_idx / 8

    def mask(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (kv_idx != b)

    out = values(flex_attention(*(nested(leaf, offsets) for leaf in tensors), score, mask_mod=mask))
    for number, (start, stop) in enumerate([(0, 4), (4, 5), (5, 12)]):
        expected = oracle.attention(
            *(leaf[:, :, start:stop] for leaf in tensors),
            mask=lambda b, h, q, kv, at=number: mask(at, h, q, kv),
            score=lambda s, b, h, q, kv, at=number: score(s, at, h, q, kv),
        ).out
        torch.testing.assert_close(out[:, :, start:stop].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_block_mask_of_packed_positions_goes_with_nested_tensors(engine: str) -> None:
    """The agreed meaning of `block_mask=`: over packed positions, each sequence apart"""
    offsets = torch.tensor([0, 40, 41, 150])
    *tensors, weight = packed(offsets, 2, 16)
    query, key, value = (nested(leaf, offsets) for leaf in tensors)
    mask = create_njt_wrapper(causal, offsets, build_seq_idx(offsets))
    expected = sequence_by_sequence(tensors, offsets, is_causal=True)
    for blocks in (
        create_block_mask(mask, None, None, 150, 150, "cpu"),
        jagged.block_mask_of(causal, offsets),
        jagged.create_nested_block_mask(causal, query),
    ):
        out = values(flex_attention(query, key, value, block_mask=blocks, backend=engine))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        mine, theirs = (
            torch.autograd.grad(one, tensors, weight, retain_graph=True) for one in (out, expected)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)
    # One that lets two sequences see each other is an error.
    across = create_block_mask(causal, None, None, 150, 150, "cpu")
    with pytest.raises(ValueError, match="sequence"):
        flex_attention(query, key, value, block_mask=across, backend=engine)
