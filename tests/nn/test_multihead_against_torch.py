"""MultiheadAttention is torch.nn.MultiheadAttention: parameters, results and gradients, over its options."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from low_precision import assert_as_good
from saccade.nn import MultiheadAttention

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "without bias": {"bias": False},
    "other widths": {"kdim": 6, "vdim": 10},
    "a learned key": {"add_bias_kv": True},
    "a zero key": {"add_zero_attn": True},
    "all of it": {
        "kdim": 6, "vdim": 10, "add_bias_kv": True, "add_zero_attn": True, "batch_first": True, "bias": False
    },
}  # fmt: skip


def both(**options: Any) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and torch's, from the same seed."""
    torch.manual_seed(7)
    ours = MultiheadAttention(16, 4, **options)
    torch.manual_seed(7)
    return ours, nn.MultiheadAttention(16, 4, **options)


def tokens(module: nn.MultiheadAttention, batch: int, q_len: int, kv_len: int) -> list[Tensor]:
    """Query, key and value as the module wants them; without a batch where it is 0."""
    made = []
    for length, width in ((q_len, 16), (kv_len, module.kdim), (kv_len, module.vdim)):
        one = torch.randn(max(batch, 1), length, width)
        made.append(one[0] if not batch else one if module.batch_first else one.transpose(0, 1))
    return made


class TestParameters:
    @pytest.mark.parametrize("name", OPTIONS)
    def test_the_same_seed_gives_the_same_parameters_by_the_same_names(self, name: str) -> None:
        ours, theirs = (module.state_dict() for module in both(**OPTIONS[name]))
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    @pytest.mark.parametrize("name", OPTIONS)
    def test_state_dicts_load_both_ways(self, name: str) -> None:
        ours, theirs = both(**OPTIONS[name])
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        fresh = both(**OPTIONS[name])[1]
        fresh.load_state_dict(ours.state_dict(), strict=True)
        assert all(torch.equal(one, other) for one, other in zip(
            fresh.parameters(), theirs.parameters(), strict=True
        ))  # fmt: skip

    @pytest.mark.parametrize("name", OPTIONS)
    def test_from_torch_takes_everything_over(self, name: str) -> None:
        theirs = nn.MultiheadAttention(16, 4, dropout=0.25, dtype=torch.float64, **OPTIONS[name]).eval()
        theirs.out_proj.weight.requires_grad_(False)
        random_state = torch.get_rng_state()
        ours = MultiheadAttention.from_torch(theirs, attn_implementation="eager")
        assert torch.equal(torch.get_rng_state(), random_state)
        assert ours.attn_implementation == "eager"
        assert (ours.dropout, ours.training, ours.batch_first) == (0.25, False, theirs.batch_first)
        for mine, (key, yours) in zip(ours.parameters(), theirs.named_parameters(), strict=True):
            assert torch.equal(mine, yours), key
            assert mine.data_ptr() != yours.data_ptr()
            assert (mine.dtype, mine.requires_grad) == (torch.float64, yours.requires_grad)
        given = [one.double() for one in tokens(theirs, 2, 3, 5)]
        torch.testing.assert_close(ours(*given)[0], theirs(*given)[0])


Call = tuple[str, int, int, int, str, str, bool]

BESIDE = pytest.mark.filterwarnings(
    "ignore:Support for mismatched key_padding_mask and attn_mask:UserWarning"
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Options, batch (0: none), two lengths, kinds of both masks, whether weights are wanted."""
    table = st.sampled_from(["none", "bool", "float"])
    return (
        draw(st.sampled_from(sorted(OPTIONS))),
        draw(st.integers(0, 3)),
        draw(st.integers(1, 6)),
        draw(st.integers(1, 6)),
        draw(table),
        draw(st.sampled_from(["none", "bool 2", "float 2", "bool 3", "float 3"])),
        draw(st.booleans()),
    )


@hypothesis.settings(max_examples=30)
@hypothesis.given(calls(), st.integers(0, 2**16))
@BESIDE
def test_outputs_weights_and_gradients_are_torchs(call: Call, seed: int) -> None:
    _assert_torchs(call, seed, "eager")


@pytest.mark.parametrize(
    "call",
    [
        ("plain", 2, 5, 6, "float", "bool 3", False),
        ("a zero key", 0, 4, 4, "bool", "float 2", False),
        ("all of it", 3, 3, 6, "float", "float 3", False),
    ],
)
@BESIDE
def test_outputs_and_gradients_of_kernels_are_torchs(call: Call) -> None:
    _assert_torchs(call, 5, "cpu")


def _assert_torchs(call: Call, seed: int, backend: str) -> None:
    name, batch, q_len, kv_len, padding_kind, mask_kind, need_weights = call
    ours, theirs = both(**OPTIONS[name])
    ours.attn_implementation = backend
    torch.manual_seed(seed)
    given = tokens(theirs, batch, q_len, kv_len)
    rows, entries = ([batch] if batch else []), max(batch, 1) * 4
    shape = [q_len, kv_len] if mask_kind.endswith("2") else [entries, q_len, kv_len]
    tables = {
        "key_padding_mask": _table(padding_kind, [*rows, kv_len]),
        "attn_mask": _table(mask_kind.split()[0], shape),
        "need_weights": need_weights,
        "average_attn_weights": seed % 2 == 0,
    }
    found = _results(ours, given, tables)
    independent = _results(theirs, given, tables)
    exact = _results(theirs.double(), given, tables)
    assert [one.shape for one in found] == [one.shape for one in independent]
    assert_as_good(found, independent, exact)


def _table(kind: str, shape: list[int]) -> Tensor | None:
    """A mask that leaves the first key to everybody, for torch makes NaN of rows that see none."""
    if kind == "none":
        return None
    hidden = torch.rand(shape) < 0.4
    hidden[..., 0] = False
    return hidden if kind == "bool" else torch.randn(shape).masked_fill(hidden, -math.inf)


def _results(module: nn.Module, given: list[Tensor], tables: dict[str, Any]) -> list[Tensor]:
    """Output, weights if any, and the gradients of inputs and parameters."""
    dtype = next(module.parameters()).dtype
    leaves = [one.to(dtype).detach().requires_grad_() for one in given]
    tables = {
        name: table.to(dtype) if isinstance(table, Tensor) and table.is_floating_point() else table
        for name, table in tables.items()
    }
    out, weights = module(*leaves, **tables)
    generator = torch.Generator().manual_seed(1)
    loss = (out * torch.randn(out.shape, generator=generator)).sum()
    outputs = [out]
    if weights is not None:
        outputs.append(weights)
        loss = loss + (weights * torch.randn(weights.shape, generator=generator)).sum()
    gradients = torch.autograd.grad(loss, [*leaves, *module.parameters()])
    # As one: some are 0 but for rounding, of which only the others tell the size.
    return [*(one.detach() for one in outputs), torch.cat([one.flatten() for one in gradients])]


class TestWhatDiffers:
    def test_weights_come_only_when_asked_for(self) -> None:
        ours, theirs = both()
        given = tokens(theirs, 2, 3, 5)
        assert ours(*given)[1] is None
        assert ours(*given, need_weights=True)[1].shape == theirs(*given)[1].shape == (2, 3, 5)

    @pytest.mark.parametrize("kind", ["bool", "float"])
    @pytest.mark.parametrize("backend", ["cpu", "eager"])
    def test_a_query_that_sees_nothing_gets_the_bias_of_the_projection(self, kind: str, backend: str) -> None:
        ours = MultiheadAttention(16, 4, batch_first=True, attn_implementation=backend)
        nn.init.normal_(ours.out_proj.bias)
        given = torch.randn(2, 5, 16, requires_grad=True)
        hidden = torch.zeros(2, 5, dtype=torch.bool)
        hidden[1] = True
        table = hidden if kind == "bool" else torch.zeros(2, 5).masked_fill(hidden, -math.inf)
        out, _ = ours(given, given, given, key_padding_mask=table)
        assert torch.equal(out[1], ours.out_proj.bias.expand(5, -1))
        out.sum().backward()
        assert given.grad is not None
        assert torch.equal(given.grad[1], torch.zeros(5, 16))
        assert not given.grad[0].isnan().any()

    def test_the_lowest_number_in_a_floating_mask_hides_as_minus_infinity_does(self) -> None:
        ours, _ = both(batch_first=True)
        given = torch.randn(2, 5, 16)
        table = torch.randn(5, 5)
        table[:, 3], table[2] = -math.inf, -math.inf
        lowest = table.clamp(min=torch.finfo(torch.float32).min)
        assert torch.equal(
            ours(given, given, given, attn_mask=lowest)[0], ours(given, given, given, attn_mask=table)[0]
        )

    def test_is_causal_needs_no_table_and_trusts_one(self) -> None:
        ours, theirs = both(batch_first=True)
        given = tokens(theirs, 2, 6, 6)
        table = nn.Transformer.generate_square_subsequent_mask(6)
        expected, _ = theirs(*given, attn_mask=table, is_causal=True, need_weights=False)
        torch.testing.assert_close(ours(*given, is_causal=True)[0], expected)
        torch.testing.assert_close(ours(*given, attn_mask=table, is_causal=True)[0], expected)
        nonsense = torch.zeros(6, 6)
        assert torch.equal(
            ours(*given, attn_mask=nonsense, is_causal=True)[0], ours(*given, is_causal=True)[0]
        )

    @pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
    def test_added_keys_are_seen_under_is_causal_as_torch_shows_them_with_weights(
        self, options: dict[str, Any]
    ) -> None:
        ours, theirs = both(batch_first=True, **options)
        given = tokens(theirs, 2, 6, 6)
        table = nn.Transformer.generate_square_subsequent_mask(6)
        found = ours(*given, is_causal=True)[0]
        torch.testing.assert_close(found, theirs(*given, attn_mask=table, is_causal=True)[0])
        hidden = theirs(*given, attn_mask=table, is_causal=True, need_weights=False)[0]
        assert not torch.allclose(found, hidden, atol=1e-3)

    def test_keys_of_one_batch_entry_serve_all(self) -> None:
        ours, _ = both(batch_first=True)
        query, key = torch.randn(3, 4, 16), torch.randn(1, 5, 16)
        out, _ = ours(query, key, key)
        many = key.expand(3, -1, -1)
        torch.testing.assert_close(out, ours(query, many, many)[0])


class TestDropout:
    def test_it_acts_while_training_and_returned_weights_show_it(self) -> None:
        ours = MultiheadAttention(16, 4, dropout=0.5, batch_first=True)
        given = torch.randn(2, 40, 16)
        _, weights = ours(given, given, given, need_weights=True, average_attn_weights=False)
        assert weights is not None
        assert 0.4 < float((weights == 0).float().mean()) < 0.6
        ours.eval()
        out, weights = ours(given, given, given, need_weights=True)
        assert weights is not None
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 40))
        assert torch.equal(out, ours(given, given, given, need_weights=True)[0])

    def test_backends_drop_the_same_pairs_of_one_seed(self) -> None:
        ours = MultiheadAttention(16, 4, dropout=0.5, batch_first=True, num_kv_heads=2)
        given = torch.randn(2, 9, 16)
        outputs = []
        for backend in ("cpu", "eager"):
            ours.attn_implementation = backend
            torch.manual_seed(3)
            outputs.append(ours(given, given, given)[0])
        torch.testing.assert_close(*outputs)
