"""The terms of a mask: split where people would split it, and together exactly the mask."""

from __future__ import annotations

import pickle
from functools import reduce

import numpy as np
import pytest
import torch

from catalogue import CATALOGUE, Case, Sizes
from saccade import masks as m
from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.slicing import folded
from saccade.explorer.program_data import ProgramData
from saccade.explorer.sameness import is_same_rule
from saccade.explorer.terms import Joint, Term, joined, mask_terms, mod_terms, terms_data
from saccade.ir.interpret import evaluate
from saccade.ir.program import Program
from saccade.ir.text import parse_structure
from saccade.masks.base import Mask
from saccade.tracing import trace

SIZES = Sizes(q_len=7, kv_len=9, batch=2, heads=2, dtype=torch.float32)
SHAPE = (2, 2, 7, 9)
JOINED = {
    Joint.ALL: np.logical_and,
    Joint.ANY: np.logical_or,
    Joint.ODD: np.logical_xor,
    Joint.SAME: np.equal,
}


def truth(term: Term, shape: tuple[int, ...]) -> np.ndarray:
    """bool [B, H, Q, K]: the term at every pair, by the interpreter; False where it is poison."""
    if term.joint is Joint.LEAF:
        assert term.program is not None
        assert term.node is not None
        names = ("b", "h", "q_idx", "kv_idx")
        indices = dict(zip(names, np.ogrid[tuple(map(slice, shape))], strict=True))
        found = evaluate(term.node, indices, term.program.captures, term.program.numbers)
        value = found.value if found.poison is None else found.value & (found.poison == 0)
        return np.broadcast_to(value, shape)
    parts = [truth(part, shape) for part in term.terms]
    if term.joint is Joint.WHERE:
        return np.where(*parts)
    return ~parts[0] if term.joint is Joint.NOT else reduce(JOINED[term.joint], parts)


def outline(term: Term) -> object:
    """A leaf's label; of another term, how it is joined and its parts."""
    return term.label if not term.terms else (term.joint.value, *map(outline, term.terms))


def names(term: Term) -> list[str]:
    """The labels that are names, from the root down."""
    return [term.label] * term.named + [name for part in term.terms for name in names(part)]


def mask_of(mod: object, q_len: int = 8, kv_len: int = 8, **sizes: int) -> BlockMask:
    batch, heads = sizes.get("batch"), sizes.get("heads")
    return create_block_mask(mod, batch, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.build(SIZES).mask is not None], ids=str)
def test_the_terms_together_are_the_mask(case: Case) -> None:
    mod = case.build(SIZES).mask
    assert mod is not None
    mask = create_block_mask(mod, *SHAPE, device="cpu", BLOCK_SIZE=4)
    np.testing.assert_array_equal(truth(mask_terms(mask), SHAPE), mask.to_bool().numpy())
    # The program alone says the same.
    alone = mod_terms(mask.program)
    np.testing.assert_array_equal(truth(alone, SHAPE), mask.to_bool().numpy())


class TestMasksMadeByOperators:
    def test_parts_bear_their_names(self) -> None:
        ids = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])

        def even_keys(b, h, q_idx, kv_idx):
            return kv_idx % 2 == 0

        mod = (m.causal & m.document(ids)) | ~m.shift(m.causal, q=2) | even_keys
        terms = mask_terms(mask_of(mod))
        assert outline(terms) == (
            "any",
            ("all", "causal", "document(ids=int64[8])"),
            ("not", "shift(causal, q=2)"),
            "even_keys",
        )
        assert names(terms) == ["causal", "document(ids=int64[8])", "shift(causal, q=2)", "even_keys"]
        assert terms.label == repr(mod)
        assert terms.terms[0].label == "causal & document(ids=int64[8])"

    def test_each_term_is_its_operand(self) -> None:
        operands = (m.causal, m.local(2, 1), m.prefix_lm(3))
        terms = mask_terms(mask_of(m.xor_masks(*operands)))
        q_idx, kv_idx = torch.arange(8)[:, None], torch.arange(8)
        assert terms.joint is Joint.ODD
        for term, mod in zip(terms.terms, operands, strict=True):
            expected = torch.as_tensor(mod(0, 0, q_idx, kv_idx)).expand(8, 8)  # type: ignore[arg-type]
            np.testing.assert_array_equal(truth(term, (1, 1, 8, 8))[0, 0], expected)

    def test_a_part_is_split_at_its_own_logic(self) -> None:
        terms = mask_terms(mask_of(m.causal & m.sliding_window(3)))
        assert outline(terms) == ("all", "causal", ("all", "kv_idx <= q_idx", "q_idx - kv_idx < 3"))
        assert terms.terms[1].label == "sliding_window(3)"

    def test_a_function_without_a_name_is_its_text(self) -> None:
        terms = mask_terms(mask_of(lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (h == 0), heads=2))
        assert outline(terms) == ("all", "kv_idx <= q_idx", "h == 0")
        assert names(terms) == []

    def test_a_lambda_beside_a_mask_is_no_name(self) -> None:
        terms = mask_terms(mask_of(m.and_masks(lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 3, m.causal)))
        assert outline(terms) == ("all", "q_idx - kv_idx < 3", "causal")
        assert names(terms) == ["causal"]

    def test_a_function_keeps_its_name_above_its_logic(self) -> None:
        def rare(b, h, q_idx, kv_idx):
            return (q_idx % 4 == 1) & (kv_idx % 4 == 1)

        terms = mask_terms(mask_of(rare))
        assert outline(terms) == ("all", "q_idx % 4 == 1", "kv_idx % 4 == 1")
        assert names(terms) == ["rare"]

    @pytest.mark.parametrize("q", [5, torch.tensor([5, 2])], ids=["a number", "one a batch"])
    def test_a_shift_is_split_where_its_mask_is(self, q: int | torch.Tensor) -> None:
        mask = mask_of(m.shift(m.shift(m.causal & ~m.sliding_window(3), kv=1), q=q), batch=2)
        written = "5" if isinstance(q, int) else "int64[2]"
        terms = mask_terms(mask)
        causal, window = (
            f"shift(shift({name}, kv=1), q={written})" for name in ("causal", "sliding_window(3)")
        )
        assert terms.joint is Joint.ALL
        assert [part.joint for part in terms.terms] == [Joint.LEAF, Joint.NOT]
        assert names(terms) == [causal, window]
        np.testing.assert_array_equal(truth(terms, mask.shape), mask.to_bool().numpy())

    def test_masks_tell_their_parts(self) -> None:
        both = m.causal & m.local(1, 1)
        assert (both.symbol, both.parts) == ("&", (m.causal, m.local(1, 1)))
        assert ((m.causal | both).symbol, (m.causal ^ both).symbol) == ("|", "^")
        assert ((~both).symbol, (~both).parts) == ("~", (both,))
        assert isinstance(m.causal, Mask)
        assert (m.causal.symbol, m.causal.parts) == ("", ())


class TestMasksOfPrograms:
    def test_a_program_is_split_at_its_logic(self) -> None:
        program = trace(lambda b, h, q_idx, kv_idx: ((q_idx >= kv_idx) & (q_idx < 5)) ^ ~(kv_idx == 2))
        terms = mask_terms(mask_of(program))
        assert outline(terms) == ("odd", ("all", "kv_idx <= q_idx", "q_idx < 5"), ("not", "kv_idx == 2"))

    def test_a_choice_has_a_condition_and_two_branches(self) -> None:
        mask = mask_of(
            lambda b, h, q_idx, kv_idx: torch.where(
                q_idx < 5, kv_idx <= q_idx, torch.where(kv_idx < 2, h == 0, (q_idx - kv_idx).abs() < 3)
            ),
            heads=2,
        )
        terms = mask_terms(mask)
        inner = ("where", "kv_idx < 2", "h == 0", "abs(q_idx - kv_idx) < 3")
        assert outline(terms) == ("where", "q_idx < 5", "kv_idx <= q_idx", inner)
        np.testing.assert_array_equal(truth(terms, mask.shape), mask.to_bool().numpy())

    def test_equal_truths_are_logic_and_equal_entries_are_not(self) -> None:
        def sides(b, h, q_idx, kv_idx):
            return ((q_idx < 5) == (kv_idx < 5)) & ((q_idx < 3) != ((kv_idx < 3) | (h == 0)))

        mask = mask_of(sides, heads=2)
        terms = mask_terms(mask)
        same, odd = terms.terms
        assert outline(same) == ("same", "q_idx < 5", "kv_idx < 5")
        assert (odd.joint, len(odd.terms)) == (Joint.ODD, 2)
        np.testing.assert_array_equal(truth(terms, mask.shape), mask.to_bool().numpy())
        kind = torch.arange(8) % 2 == 0
        entries = mask_terms(mask_of(lambda b, h, q_idx, kv_idx: kind[q_idx] == kind[kv_idx]))
        assert entries.joint is Joint.LEAF

    def test_equalities_in_a_row_stay_two_and_two(self) -> None:
        program = Program(parse_structure("mask() -> bool\n((q_idx < 5) == (kv_idx < 5)) == (h == 0)"))
        assert outline(mod_terms(program)) == ("same", ("same", "q_idx < 5", "kv_idx < 5"), "h == 0")

    def test_a_double_negation_stays_two(self) -> None:
        # Written down, since the tracer would cancel it.
        terms = mod_terms(Program(parse_structure("mask() -> bool\n~~(kv_idx == 2)")))
        assert outline(terms) == ("not", ("not", "kv_idx == 2"))

    def test_what_would_be_too_many_terms_stays_one(self) -> None:
        ids = list(range(300))

        def listed(b, h, q_idx, kv_idx):
            found = q_idx == kv_idx
            for number in ids:
                found = found | (kv_idx == number)
            return found & (q_idx > 0)

        terms = mask_terms(mask_of(listed))
        assert terms.joint is Joint.ALL
        assert [(term.joint, term.label) for term in terms.terms] == [
            (Joint.LEAF, "or(…)"),
            (Joint.LEAF, "0 < q_idx"),
        ]

    def test_a_pickled_mask_keeps_its_names_where_its_mod_has_one(self) -> None:
        named = pickle.loads(pickle.dumps(mask_of(m.causal & m.local(1, 1))))
        assert mask_terms(named).terms[1].label == "local(left=1, right=1)"
        nameless = pickle.loads(pickle.dumps(mask_of(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)))
        assert outline(mask_terms(nameless)) == "kv_idx <= q_idx"

    def test_a_mod_that_has_changed_since_is_not_asked(self) -> None:
        window = 3

        def near(b, h, q_idx, kv_idx):
            return q_idx - kv_idx < window

        mask = mask_of(near)
        assert mask_terms(mask).label == "near"
        window = 5
        assert mask_terms(mask).label == "q_idx - kv_idx < 3"
        np.testing.assert_array_equal(truth(mask_terms(mask), mask.shape), mask.to_bool().numpy())


class TestDerivedMasks:
    @pytest.fixture
    def whole(self) -> BlockMask:
        ids = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1, 3, 3]])
        return mask_of(m.causal & m.document(ids), batch=2)

    def test_a_crop_keeps_its_names(self, whole: BlockMask) -> None:
        part = whole.crop(q=(3, 8), kv=(1, 7))
        terms = mask_terms(part)
        assert [term.label for term in terms.terms] == ["causal", "document(ids=int64[2, 8])"]
        np.testing.assert_array_equal(truth(terms, part.shape), part.to_bool().numpy())
        again = part.crop(q=(1, 4))
        np.testing.assert_array_equal(truth(mask_terms(again), again.shape), again.to_bool().numpy())
        assert [term.label for term in mask_terms(again).terms] == ["causal", "document(ids=int64[2, 8])"]

    def test_a_selection_keeps_its_names(self, whole: BlockMask) -> None:
        part = whole[1][:, :, [3, 1]]
        terms = mask_terms(part)
        assert [term.label for term in terms.terms] == ["causal", "document(ids=int64[2, 8])"]
        np.testing.assert_array_equal(truth(terms, part.shape), part.to_bool().numpy())

    def test_given_blocks_are_terms(self) -> None:
        counts, columns = torch.tensor([[[1, 1]]]), torch.tensor([[[[0, 1], [1, 0]]]])
        full = torch.tensor([[[0, 1]]]), torch.tensor([[[[0, 1], [0, 1]]]])
        given = folded(
            BlockMask.from_kv_blocks(counts, columns, *full, BLOCK_SIZE=4, mask_mod=m.causal & m.local(1, 0))
        )
        terms = mask_terms(given)
        assert outline(terms)[:2] == ("any", "given as a full block")  # type: ignore[index]
        inside = terms.terms[1]
        assert [term.label for term in inside.terms] == [
            "given as a partial block",
            "causal & local(left=1, right=0)",
        ]
        assert names(terms)[:3] == [terms.label, "given as a full block", inside.label]
        np.testing.assert_array_equal(truth(terms, given.shape), given.to_bool().numpy())


class TestTheirData:
    def test_leaves_name_nodes_of_programs(self) -> None:
        mask = mask_of(m.causal & ~m.sliding_window(3))
        programs = ProgramData(mask.shape)
        data = terms_data(mask_terms(mask), programs)
        assert (data["kind"], data["label"], data["named"]) == ("all", "causal & ~sliding_window(3)", False)
        causal, other = data["terms"]
        assert (causal["kind"], causal["named"]) == ("leaf", True)
        assert causal["terms"] == []
        nodes = programs.entries[causal["program"]]["nodes"]
        assert nodes[causal["node"]]["text"] == "kv_idx <= q_idx"
        assert "program" not in other

    def test_several_masks_are_joined(self) -> None:
        both = joined("a & b", [mod_terms(m.causal), mod_terms(m.local(1, 1))])
        assert (both.joint, both.label, both.named, len(both.terms)) == (Joint.ALL, "a & b", False, 2)


class TestSameRule:
    def test_slots_do_not_matter_and_content_does(self) -> None:
        ids = torch.tensor([0.0, float("nan")])

        def first(b, h, q_idx, kv_idx):
            return (ids[q_idx] < 1) & (kv_idx < 7)

        mine = trace(first)
        assert is_same_rule(mine, trace(first))
        same, ids = ids, ids.clone()
        assert is_same_rule(mine, trace(first))
        ids = torch.zeros(2)
        assert not is_same_rule(mine, trace(first))
        assert same is not ids

    def test_a_mask_is_no_score(self) -> None:
        mask = trace(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)
        assert not is_same_rule(mask, trace(lambda score, b, h, q_idx, kv_idx: score))
