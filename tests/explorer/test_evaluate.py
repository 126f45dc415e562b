"""The page's evaluator in a browser: what users' own functions and the interpreter say, pair by pair."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy
from playwright.sync_api import Page

from catalogue import CATALOGUE, Case, Sizes
from explorer.evaluator import ask, bare_page, digits, program_of
from ir import strategies
from ir.strategies import Case as ProgramCase
from ir.strategies import mask_structures, score_structures
from oracle import visible_pairs
from saccade import masks as m
from saccade.block_mask import BlockMask, create_block_mask
from saccade.explorer import overview_data
from saccade.explorer.data import page_data
from saccade.explorer.exactness import evaluated
from saccade.ir.dtype import DType
from saccade.ir.interpret import evaluate, poison_error
from saccade.ir.ops import OPS, TypeRule
from saccade.ir.program import Program
from saccade.ir.structure import Structure
from saccade.ir.text import parse_structure
from saccade.tracing import trace

SIZES = Sizes(q_len=9, kv_len=14, batch=2, heads=2, dtype=torch.float32)
SHAPE = (2, 2, 9, 14)

# IEEE rounds these, so that every machine agrees to the last bit; numpy's others may err by a few.
ROUNDED = {"add", "sub", "mul", "div", "neg", "abs", "minimum", "maximum", "sqrt", "floor", "ceil"}
ROUNDED |= {"trunc", "round", "remainder", "rsqrt"}


def positions(shape: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    return dict(zip(("b", "h", "q_idx", "kv_idx"), np.ogrid[tuple(map(slice, shape))], strict=True))


Built = list[tuple[Case, BlockMask, dict[str, object]]]


@pytest.fixture(scope="module")
def built() -> Built:
    built = []
    for case in CATALOGUE:
        mods = case.build(SIZES)
        mod = m.noop_mask if mods.mask is None else mods.mask
        mask = create_block_mask(mod, *SHAPE, device="cpu", BLOCK_SIZE=4)
        built.append((case, mask, page_data(mask, score_mod=mods.score)))
    return built


class TestTheCatalogue:
    def test_every_pair_is_visible_where_the_users_function_says_so(
        self, evaluator: Page, built: Built
    ) -> None:
        answer = """[
          everyPair(model, (b, h, q, k) => model.visible(b, h, q, k)),
          everyRectangle(model),
          everyPair(model, (b, h, q, k) => model.explain(b, h, q, k).holds),
        ]"""
        for (case, mask, _), (single, filled, told) in zip(
            built, ask(evaluator, [data for _, _, data in built], answer), strict=True
        ):
            mods = case.build(SIZES)
            mod = mask.mask_mod if mods.plain_mask is None else mods.plain_mask
            expected = visible_pairs(mod, *SHAPE, pairwise=case.pairwise).expand(SHAPE).flatten().tolist()
            assert single == expected, case
            assert filled == digits(torch.tensor(expected)), case
            assert told == expected, case
            assert mask.to_bool().flatten().tolist() == expected, case

    def test_scores_are_those_of_the_interpreter(self, evaluator: Page, built: Built) -> None:
        scored = [(case, mask, data) for case, mask, data in built if data["score"] is not None]
        score = "Math.fround(Math.sin(1 + 3 * b + 1.7 * h + 0.37 * q + 0.9 * k))"
        answer = f"everyPair(model, (b, h, q, k) => [{score}, model.score(b, h, q, k, {score})])"
        for (case, mask, _), pairs in zip(
            scored, ask(evaluator, [data for *_, data in scored], answer), strict=True
        ):
            visible = mask.to_bool().flatten().numpy()
            given_scores = np.array([one for one, _ in pairs], np.float32).reshape(SHAPE)
            program = trace(case.build(SIZES).score)
            reference = evaluate(
                program.root, positions(SHAPE) | {"score": given_scores}, program.captures, program.numbers
            )
            expected = np.broadcast_to(reference.value, SHAPE).flatten()[visible]
            found = np.array([after for _, after in pairs], dtype=object)[visible].astype(np.float64)
            # A few units in the last place of float32: numpy's functions err by up to four.
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=str(case))


def drawn(strategy: SearchStrategy[ProgramCase], count: int) -> list[ProgramCase]:
    """So many programs, without those whose float operations machines disagree on."""
    found: list[ProgramCase] = []

    @settings(max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def collect(case: ProgramCase) -> None:
        found.append(case)

    collect()
    return [case for case in found if is_rounded(case.structure)]


class TestDrawnPrograms:
    """All in one question to the browser; what fails is not shrunk."""

    @pytest.fixture(autouse=True)
    def _functions_that_every_machine_rounds_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = tuple(op for op in strategies._UNARY_FLOAT if OPS[op].text in ROUNDED)
        monkeypatch.setattr(strategies, "_UNARY_FLOAT", kept)

    SHAPE = (2, 2, 5, 7)

    def reference(self, case: ProgramCase) -> tuple[np.ndarray, np.ndarray]:
        result = evaluate(case.structure.root, case.variables(), case.captures, case.numbers)
        poison = np.zeros(self.SHAPE, bool) if result.poison is None else result.poison != 0
        return np.broadcast_to(result.value, self.SHAPE), np.broadcast_to(poison, self.SHAPE)

    def pages(self, cases: list[ProgramCase]) -> list[dict[str, object]]:
        programs = (Program(case.structure, case.captures, case.numbers) for case in cases)
        return [bare_page(program, *self.SHAPE) for program in programs]

    def test_masks_are_those_of_the_interpreter(self, evaluator: Page) -> None:
        cases = drawn(mask_structures(), 150)
        answer = """[
          everyRectangle(model),
          everyPair(model, (b, h, q, k) => model.visible(b, h, q, k)),
          everyPair(model, (b, h, q, k) => model.explain(b, h, q, k).holds),
        ]"""
        poisoned = 0
        for case, (filled, *singles) in zip(cases, ask(evaluator, self.pages(cases), answer), strict=True):
            value, poison = self.reference(case)
            expected = digits(np.where(poison, 2, value))
            assert filled == expected, case
            for single in singles:
                assert digits([2 if isinstance(one, str) else one for one in single]) == expected, case
            poisoned += poison.any()
        assert len(cases) > 100
        assert poisoned > 10

    @pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
    def test_scores_are_those_of_the_interpreter(self, evaluator: Page, dtype: DType) -> None:
        cases = drawn(score_structures(dtype=dtype, customs=False), 180)
        scores = [case.variables()["score"].astype(np.float64).tolist() for case in cases]
        pages = [{**data, "title": score} for data, score in zip(self.pages(cases), scores, strict=True)]
        answer = "everyPair(model, (b, h, q, k) => model.score(b, h, q, k, data.title[b][h][q][k]))"
        poisoned = 0
        for case, found in zip(cases, ask(evaluator, pages, answer), strict=True):
            value, poison = self.reference(case)
            assert [isinstance(one, str) for one in found] == poison.flatten().tolist(), case
            numbers = np.array([0.0 if isinstance(one, str) else one for one in found], dtype=np.float64)
            np.testing.assert_array_equal(numbers, np.where(poison, 0, value).flatten(), err_msg=repr(case))
            poisoned += poison.any()
        assert len(cases) > 50
        assert poisoned > 0


def is_rounded(structure: Structure) -> bool:
    """Whether every float operation of a program has one right result."""
    rules = (TypeRule.FLOAT, TypeRule.NUMERIC)
    return all(
        OPS[node.op].text in ROUNDED or not node.dtype.is_float or OPS[node.op].rule not in rules
        for node in evaluated(structure.root)
    )


class TestPoison:
    def test_it_says_which_tensor_and_index(self, evaluator: Page) -> None:
        table = np.arange(12).reshape(3, 4)
        structure = parse_structure("mask(c0: i64[2], n0: i64) -> bool\nc0[b, q_idx - kv_idx] < n0")
        program = Program(structure, (table,), (5,), ("table",))
        (found,) = ask(
            evaluator, [bare_page(program, 1, 1, 3, 9)], "[model.visible(0,0,2,5), model.visible(0,0,2,8)]"
        )
        pair = {"b": 0, "h": 0, "q_idx": 2, "kv_idx": 8}
        error = poison_error(program.root, program.root.args[0], pair, (table,), (5,), ("table",))
        assert found == [True, str(error).partition("; guard")[0]]
        assert "table has 4 entries in dimension 1, got index -6 in table[b, q_idx - kv_idx]" in found[1]

    def test_it_says_where_zero_divides(self, evaluator: Page) -> None:
        program = program_of("mask() -> bool\nkv_idx % (q_idx - 1) == 0")
        (found,) = ask(
            evaluator, [bare_page(program, 1, 1, 3, 4)], "[model.visible(0,0,1,3), model.visible(0,0,2,3)]"
        )
        assert found[0] == (
            "expected a divisor other than 0, got 0 in kv_idx % (q_idx - 1) at (b=0, h=0, q_idx=1, kv_idx=3)"
        )
        assert found[1] is True

    def test_it_names_the_first_index_of_a_reduction(self, evaluator: Page) -> None:
        program = program_of(
            "mask(c0: i64[1]) -> bool\nsum(axis0 < 4, c0[q_idx + axis0]) < 9", np.array([1, 2, 3, 4, 5])
        )
        (found,) = ask(
            evaluator, [bare_page(program, 1, 1, 4, 1)], "[0,1,2,3].map((q) => model.visible(0, 0, q, 0))"
        )
        assert found[0] is False
        assert "got index 5 in c0[q_idx + axis0] at (b=0, h=0, q_idx=2, kv_idx=0)" in found[2]
        assert "got index 5" in found[3]


class TestExplanations:
    def test_terms_tell_what_they_compared(self, evaluator: Page) -> None:
        ids = torch.tensor([4, 4, 7, 7, 7])
        mask = create_block_mask(m.causal & ~m.document(ids), None, None, 5, 5, device="cpu", BLOCK_SIZE=2)
        ((first, second),) = ask(
            evaluator, [page_data(mask)], "[model.explain(0, 0, 3, 2), model.explain(0, 0, 1, 4)]"
        )
        assert (first["kind"], first["label"], first["holds"]) == (
            "all",
            "causal & ~document(ids=int64[5])",
            False,
        )
        causal, other = first["terms"]
        assert causal == {
            "kind": "leaf",
            "label": "causal",
            "named": True,
            "text": "kv_idx <= q_idx",
            "holds": True,
            "values": "2 <= 3",
            "terms": [],
        }
        assert (other["kind"], other["holds"]) == ("not", False)
        (same,) = other["terms"]
        assert same["label"] == "document(ids=int64[5])"
        assert same["holds"] is True
        assert same["values"] == "7 == 7 (document_ids[3] = 7, document_ids[2] = 7)"
        assert [term["holds"] for term in second["terms"]] == [False, True]

    def test_captures_are_called_as_in_the_text(self, evaluator: Page) -> None:
        q_ids, kv_ids = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0])
        mask = create_block_mask(
            m.document(q_ids, kv_ids=kv_ids) | m.document(kv_ids, kv_ids=q_ids),
            None,
            None,
            3,
            3,
            device="cpu",
            BLOCK_SIZE=1,
        )
        ((told,),) = ask(evaluator, [page_data(mask)], "[model.explain(0, 0, 1, 2)]")
        for term, (query, key) in zip(told["terms"], [(1, 0), (1, 1)], strict=True):
            names = re.findall(r"(\w+)\[", term["text"])
            assert len(set(names)) == 2
            assert term["text"] == f"{names[0]}[q_idx] == {names[1]}[kv_idx]"
            assert term["values"] == f"{query} == {key} ({names[0]}[1] = {query}, {names[1]}[2] = {key})"

    def test_a_choice_tells_the_branch_taken(self, evaluator: Page) -> None:
        def chosen(b, h, q_idx, kv_idx):
            return torch.where(q_idx < 5, kv_idx <= q_idx, (q_idx - kv_idx).abs() < 3)

        mask = create_block_mask(chosen, None, None, 10, 10, device="cpu", BLOCK_SIZE=2)
        answer = """[
          everyPair(model, (b, h, q, k) => model.explain(b, h, q, k).holds),
          model.explain(0, 0, 3, 9), model.explain(0, 0, 9, 8),
        ]"""
        ((holds, first, second),) = ask(evaluator, [page_data(mask)], answer)
        assert holds == mask.to_bool().flatten().tolist()
        assert (first["kind"], first["label"], first["named"]) == ("where", "chosen", True)
        assert (first["holds"], first["taken"], second["holds"], second["taken"]) == (False, 1, True, 2)
        assert [term["values"] for term in first["terms"]] == ["3 < 5", "9 <= 3", "6 < 3"]
        assert [term["named"] for term in first["terms"]] == [False] * 3

    def test_a_choice_without_a_condition_fails_with_it(self, evaluator: Page) -> None:
        text = "mask(c0: i64[1]) -> bool\nwhere(c0[kv_idx] == 1, q_idx == 0, c0[q_idx] == 0)"
        data = bare_page(program_of(text, np.array([1, 0])), 1, 1, 3, 3)
        ((no_condition, untaken, taken),) = ask(
            evaluator, [data], "[model.explain(0,0,0,2), model.explain(0,0,2,0), model.explain(0,0,2,1)]"
        )
        assert no_condition["taken"] is None
        assert "got index 2 in c0[kv_idx]" in no_condition["holds"]
        assert (untaken["taken"], untaken["holds"]) == (1, False)
        assert taken["taken"] == 2
        assert "got index 2 in c0[q_idx]" in taken["holds"]

    def test_equal_truths(self, evaluator: Page) -> None:
        text = "mask(c0: i64[1]) -> bool\n(c0[q_idx] == 1) == (kv_idx < 2)"
        data = bare_page(program_of(text, np.array([1, 0])), 1, 1, 3, 4)
        ((told,),) = ask(evaluator, [data], "[everyPair(model, (b, h, q, k) => model.explain(b, h, q, k))]")
        assert {one["kind"] for one in told} == {"same"}
        assert [one["holds"] for one in told[:8]] == [True, True, False, False, False, False, True, True]
        assert all("got index 2" in one["holds"] for one in told[8:])

    def test_a_boolean_table_is_told_by_its_entry(self, evaluator: Page) -> None:
        keep = torch.tensor([[True, False, True]])
        mask = create_block_mask(m.padding(keep=keep), 1, None, 3, 3, device="cpu", BLOCK_SIZE=1)
        ((hidden, shown),) = ask(
            evaluator, [page_data(mask)], "[model.explain(0,0,2,1), model.explain(0,0,0,2)]"
        )
        assert (hidden["holds"], shown["holds"]) == (False, True)
        assert hidden["values"].endswith("[0, 1] = False")

    def test_poison_in_a_term_is_settled_by_another(self, evaluator: Page) -> None:
        program = program_of("mask(c0: i64[1]) -> bool\n(kv_idx < 2) & (c0[kv_idx] == 1)", np.array([1, 0]))
        ((settled, plain),) = ask(
            evaluator, [bare_page(program, 1, 1, 2, 3)], "[model.explain(0,0,0,2), model.explain(0,0,0,0)]"
        )
        assert settled["holds"] is False
        assert settled["terms"][0]["holds"] is False
        assert settled["terms"][1]["holds"].startswith("c0 has 2 entries in dimension 0, got index 2")
        assert settled["terms"][1]["values"] == "? == 1 (c0[2] = ?)"
        assert plain["holds"] is True

    def test_an_odd_number_of_terms(self, evaluator: Page) -> None:
        odd = m.causal ^ m.sliding_window(2) ^ m.local(1, 1)
        mask = create_block_mask(odd, None, None, 6, 6, device="cpu", BLOCK_SIZE=2)
        terms = "[model.explain(b, h, q, k)].flatMap((one) => [one, ...one.terms]).map((term) => term.holds)"
        answer = f"[everyRectangle(model), everyPair(model, (b, h, q, k) => {terms})]"
        ((found, told),) = ask(evaluator, [page_data(mask)], answer)
        assert found == digits(mask.to_bool())
        q_idx, kv_idx = torch.arange(6)[:, None], torch.arange(6)
        for place, mod in enumerate((odd, *odd.parts)):
            assert [one[place] for one in told] == mod(0, 0, q_idx, kv_idx).expand(6, 6).flatten().tolist()


class TestBlocks:
    def test_kinds_runs_and_shares(self, evaluator: Page, monkeypatch: pytest.MonkeyPatch) -> None:
        def per_head(b, h, q_idx, kv_idx):
            return (q_idx >= kv_idx) & (kv_idx >= 4 * h)

        mask = create_block_mask(per_head, 2, 2, 10, 14, device="cpu", BLOCK_SIZE=(4, 3))
        answer = """[
          [0, 1].map((h) => [0, 1, 2].map((row) => [0, 1, 2, 3, 4].map((c) => model.kind(1, h, row, c)))),
          [0, 1].map((h) => [0, 1, 2].map((row) => model.runs(1, h, row))),
          [0, 1].map((h) => [0, 1, 9].map((row) => [0, 4, 13].map((c) => model.share(0, h, row, c)))),
        ]"""
        monkeypatch.setattr(overview_data, "_DRAWN_PAIRS", 0)
        ((kinds, runs, shares),) = ask(evaluator, [page_data(mask)], answer)
        dense = mask.runs.to_dense()
        assert kinds == dense[0].tolist()
        expected = [
            [[list(map(int, run)) for run in mask.runs.row(0, h, row)] for row in range(3)] for h in (0, 1)
        ]
        assert runs == expected
        visible = mask.to_bool()[0].double()
        assert shares == visible[:, [0, 1, 9]][:, :, [0, 4, 13]].tolist()

    def test_rectangles_are_parts_of_the_whole(self, evaluator: Page) -> None:
        mask = create_block_mask(m.sliding_window(300), None, None, 700, 600, device="cpu", BLOCK_SIZE=64)
        rectangles = [(0, 700, 0, 600), (10, 20, 5, 590), (63, 65, 0, 1), (500, 700, 123, 400)]
        answer = f"{[list(one) for one in rectangles]}.map((one) => rectangle(model, 0, 0, ...one))"
        (found,) = ask(evaluator, [page_data(mask)], answer)
        whole = mask.to_bool()[0, 0]
        for (q0, q1, k0, k1), filled in zip(rectangles, found, strict=True):
            assert filled == digits(whole[q0:q1, k0:k1])
