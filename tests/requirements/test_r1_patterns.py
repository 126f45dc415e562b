"""R1, the table of mods: each as its row says, in plain functions and from the library, on two engines.

"Mods, all of them in the gallery, each against the dense oracle forward and backward." The functions below
are written from the table's words, and the oracle asks them. One engine is given the same functions; the
other, which compiles, the library's forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import oracle
from catalogue.printed import PRINTED as printed_catalogue
from requirements.agreement import ENGINES, assert_equal_to_dense, draw
from saccade import (
    alibi,
    causal,
    checkerboard,
    create_block_mask,
    create_mask,
    create_njt_wrapper,
    document,
    flex_attention,
    image_cross_attention,
    local_2d,
    natten,
    noop_mask,
    prefix_lm,
    register_rule,
    sliding_window,
    softcap,
)
from saccade.bench.text_patterns import pattern_names
from saccade.signatures import MaskMod, ScoreMod

CORRECTIONS = Path(__file__).parents[2] / "docs/decisions/007-the-printed-forms-of-the-walk-through.md"
HEADS, SIDE = 2, 8
TOKENS = SIDE * SIDE
LENGTHS = [8, 8, 16, 16, 16]  # of documents: the text's, 4096, 4096, 8192, ..., on 64 tokens
IDS = torch.repeat_interleave(torch.arange(5), torch.tensor(LENGTHS))
OFFSETS = torch.tensor([0, 1, 14, 30, 47, 64])
SEQUENCE = torch.repeat_interleave(torch.arange(5), OFFSETS.diff())
INTERVALS, IMAGE_LENGTHS = [[0, 40], [5, 40], [40, TOKENS]], [20, 14, 30]
SLOPES = torch.tensor([2.0**-4, 2.0**-8])  # 2^(−8(h+1)/H) of two heads


def noop_score(score, b, h, q_idx, kv_idx):
    return score


def checkerboard_score(score, b, h, q_idx, kv_idx):
    return torch.where(torch.abs(kv_idx - q_idx) % 2 == 1, score * 0.5, score * 2.0)


def causal_score(score, b, h, q_idx, kv_idx):
    return torch.where(q_idx >= kv_idx, score, -float("inf"))


def causal_mask(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def window_mask(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 10)


def prefix_mask(b, h, q_idx, kv_idx):
    return (kv_idx < 20) | (q_idx >= kv_idx)


def document_mask(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (IDS[q_idx] == IDS[kv_idx])


def sasa_mask(b, h, q_idx, kv_idx):
    rows_apart = torch.abs(q_idx // SIDE - kv_idx // SIDE)
    columns_apart = torch.abs(q_idx % SIDE - kv_idx % SIDE)
    return (rows_apart <= 2) & (columns_apart <= 2)


def natten_mask(b, h, q_idx, kv_idx):
    """A kernel of 5 × 5; its centre stays 2 from the border."""
    row = (q_idx // SIDE).clamp(2, SIDE - 3)
    column = (q_idx % SIDE).clamp(2, SIDE - 3)
    return (torch.abs(row - kv_idx // SIDE) <= 2) & (torch.abs(column - kv_idx % SIDE) <= 2)


def alibi_by_tensor(score, b, h, q_idx, kv_idx):
    return score + SLOPES[h] * (kv_idx - q_idx)


def alibi_by_formula(score, b, h, q_idx, kv_idx):
    return score + torch.exp2(-((h + 1) * 8.0 / HEADS)) * (kv_idx - q_idx)


def softcap_score(score, b, h, q_idx, kv_idx):
    return 2 * torch.tanh(score / 2)


def jagged_mask(b, h, q_idx, kv_idx):
    same = SEQUENCE[q_idx] == SEQUENCE[kv_idx]
    return same & (q_idx - OFFSETS[SEQUENCE[q_idx]] >= kv_idx - OFFSETS[SEQUENCE[kv_idx]])


def flamingo_mask(b, h, q_idx, kv_idx):
    first, stop = torch.tensor(INTERVALS).unbind(1)
    image = torch.repeat_interleave(torch.arange(3), torch.tensor(IMAGE_LENGTHS))
    return (first[image[kv_idx]] <= q_idx) & (q_idx < stop[image[kv_idx]])


@dataclass(frozen=True)
class Row:
    """A row of the table: what is meant, and the library's form of it."""

    name: str
    mask: MaskMod | None = None
    score: ScoreMod | None = None
    library_mask: MaskMod | None = None
    library_score: ScoreMod | None = None

    def __str__(self) -> str:
        return self.name


TABLE = [
    Row("noop", score=noop_score, library_mask=noop_mask),
    Row("checkerboard", score=checkerboard_score, library_score=checkerboard),
    Row("causal as a score_mod", score=causal_score, library_mask=causal),
    Row("causal as a mask_mod", causal_mask, library_mask=causal),
    Row("sliding window causal", window_mask, library_mask=sliding_window(10)),
    Row("prefix LM", prefix_mask, library_mask=prefix_lm(20)),
    Row("document causal", document_mask, library_mask=causal & document(lengths=LENGTHS)),
    Row("SASA", sasa_mask, library_mask=local_2d((SIDE, SIDE), 2)),
    Row("NATTEN", natten_mask, library_mask=natten((SIDE, SIDE), 5)),
    Row("ALiBi by a captured tensor", causal_mask, alibi_by_tensor, causal, alibi(slopes=SLOPES)),
    Row("ALiBi by a formula", causal_mask, alibi_by_formula, causal, alibi(n_heads=HEADS)),
    Row("tanh softcap", score=softcap_score, library_score=softcap(2.0)),
    Row("jagged", jagged_mask, library_mask=create_njt_wrapper(causal, OFFSETS, SEQUENCE)),
    Row(
        "Flamingo",
        flamingo_mask,
        library_mask=image_cross_attention(INTERVALS, IMAGE_LENGTHS),
    ),
]


def inputs() -> list[Tensor]:
    return draw(*[(1, HEADS, TOKENS, 16)] * 3)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_function_equals_the_oracle_forward_and_backward_on_eager(row: Row) -> None:
    """'each against the dense oracle forward and backward'"""
    assert_equal_to_dense(inputs(), "eager", mask=row.mask, score=row.score)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_librarys_form_equals_the_same_oracle_on_cpu(row: Row) -> None:
    """'all of them in the gallery'"""
    given: dict[str, object] = {"mask_mod": None, "score_mod": row.library_score}
    if row.name == "causal as a score_mod":
        given = {}  # the library has causality as a mask alone
    elif row.library_mask is not None:
        given["block_mask"] = create_block_mask(row.library_mask, None, None, TOKENS, TOKENS, "cpu", 16)
    assert_equal_to_dense(inputs(), "cpu", mask=row.mask, score=row.score, **given)


@pytest.mark.parametrize("row", [row for row in TABLE if row.mask is not None], ids=str)
def test_the_librarys_mask_shows_the_same_pairs(row: Row) -> None:
    assert row.mask is not None
    assert row.library_mask is not None
    meant = oracle.visible_pairs(row.mask, 1, 1, TOKENS, TOKENS)
    assert torch.equal(create_mask(row.library_mask, None, None, TOKENS, TOKENS, "cpu"), meant)


def test_the_comparison_table_knows_every_row() -> None:
    """'Mods, all of them in the gallery': the table of times has each by its name."""
    wanted = (
        "noop checkerboard causal_score causal sliding_window prefix_lm document sasa natten alibi "
        "alibi_table softcap softcap_approximate jagged flamingo"
    )
    assert set(wanted.split()) <= set(pattern_names())


@pytest.mark.parametrize("engine", ENGINES)
def test_causal_as_a_score_and_as_a_mask_give_the_same_and_the_mask_does_half_the_work(engine: str) -> None:
    """'causal as a score_mod, causal as a mask_mod | same result; the second does half the work'"""
    query, key, value = inputs()
    by_score = flex_attention(query, key, value, causal_score, backend=engine)
    by_mask = flex_attention(query, key, value, mask_mod=causal_mask, backend=engine)
    torch.testing.assert_close(by_score, by_mask, rtol=1e-5, atol=1e-6)
    blocks = create_block_mask(causal_mask, None, None, 8192, 8192, "cpu")
    assert blocks.visible_pairs() == 8192 * 8193 // 2
    assert blocks.sparsity() == 100 * (1 - (64 * 65 / 2) / 64**2)  # 49.2 % of the blocks are not touched


def test_alibi_has_the_slopes_of_16_heads_and_penalises_distance() -> None:
    """'slope 2^(−8(h+1)/H); distant keys are penalised: `score + slope·(kv − q)`'"""
    slopes = torch.tensor([2 ** (-8 * (h + 1) / 16) for h in range(16)])
    zero, h, q_idx, kv_idx = torch.zeros(16, 1, 1), torch.arange(16)[:, None, None], 90, torch.arange(91)
    for score in (alibi(n_heads=16), alibi(slopes=slopes)):
        made = score(zero, torch.tensor(0), h, torch.tensor(q_idx), kv_idx)
        torch.testing.assert_close(made, slopes[:, None, None] * (kv_idx - q_idx))
        assert bool((made.diff(dim=-1) > 0).all())  # the nearer the key, the better


class ApproximateTanh(torch.autograd.Function):
    """A fast tanh, as a custom op, whose derivative is written by hand: x (27 + x²) / (27 + 9 x²)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.ops.saccade_requirements.fast_tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        (result,) = ctx.saved_tensors
        return grad * (1 - result * result)


def quotient(x):
    x = torch.clamp(x, -3.0, 3.0)
    return x * (27 + x * x) / (27 + 9 * x * x)


@pytest.fixture(scope="module")
def _fast_tanh() -> None:
    operator = torch.library.custom_op(
        "saccade_requirements::fast_tanh", quotient, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    operator.register_fake(torch.empty_like)
    register_rule(operator, quotient)


@pytest.mark.usefixtures("_fast_tanh")
@pytest.mark.parametrize("engine", ENGINES)
def test_softcap_by_a_custom_op_with_its_own_autograd_function(engine: str) -> None:
    """'a fast approximate tanh written as a custom op with its own `autograd.Function`'"""

    def tanh_softcap(score, b, h, q_idx, kv_idx):
        return 2 * ApproximateTanh.apply(score / 2)

    assert_equal_to_dense(inputs(), engine, score=tanh_softcap)


@pytest.mark.parametrize("engine", ENGINES)
def test_softcap_is_cap_times_tanh_of_score_by_cap_and_the_approximate_one_is_near(engine: str) -> None:
    """'cap · tanh(score / cap), cap = 2 in the text, exact and with a fast approximate tanh'"""
    scores = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    index = torch.tensor(0)
    exact = softcap(2.0)(scores, index, index, index, index)
    torch.testing.assert_close(exact, 2 * (scores / 2).tanh())
    near = softcap(2.0, approximate=True)(scores, index, index, index, index)
    torch.testing.assert_close(near, exact, rtol=0, atol=2 * 2.0**-11)  # a GPU's tanh.approx is no better
    query, key, value = inputs()
    one, other = (
        flex_attention(query, key, value, softcap(2.0, approximate=fast), backend=engine)
        for fast in (False, True)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)
    assert not torch.equal(one, other)


PRINTED = {
    "window with <=": (
        lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx <= 10),
        None,
    ),
    "prefix with <=": (lambda b, h, q_idx, kv_idx: (kv_idx <= 20) | (q_idx >= kv_idx), None),
    "checkerboard with % 1 == 0": (
        None,
        lambda score, b, h, q_idx, kv_idx: torch.where(
            torch.abs(kv_idx - q_idx) % 2 == 0,
            torch.where(torch.abs(kv_idx - q_idx) % 1 == 0, score * 0.5, score) * 2.0,
            torch.where(torch.abs(kv_idx - q_idx) % 1 == 0, score * 0.5, score),
        ),
    ),
    "ALiBi with q − kv": (
        None,
        lambda score, b, h, q_idx, kv_idx: score + (q_idx - kv_idx) * torch.exp2(-((h + 1) * 8.0 / HEADS)),
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_forms_also_run_and_match_the_oracle(name: str, engine: str) -> None:
    """'(window and prefix with `<=`, ...): those printed forms also run and match the oracle'"""
    mask, score = PRINTED[name]
    assert_equal_to_dense(inputs(), engine, mask=mask, score=score)


def test_the_printed_forms_have_a_catalogue_and_a_page_of_corrections() -> None:
    """'in a second small catalogue, and a page in `docs/decisions/` lists each correction'"""
    page = CORRECTIONS.read_text(encoding="utf-8")
    for words in ("q_idx - kv_idx <= WINDOW", "kv_idx <= PREFIX", "% 1 == 0", "(q_idx - kv_idx) * slopes[h]"):
        assert words in page
    names = {case.name for case in printed_catalogue}
    assert {
        f"printed_{name}" for name in ("sliding_window", "prefix_lm", "checkerboard", "alibi_by_formula")
    } < names


def test_rows_of_the_table_see_what_their_words_say() -> None:
    """A last look at the functions above, by counting: they are the measure of everything here."""
    seen = {
        row.name: oracle.visible_pairs(row.mask, 1, 1, TOKENS, TOKENS).sum(-1) for row in TABLE if row.mask
    }
    assert seen["causal as a mask_mod"].flatten().tolist() == list(range(1, 65))
    assert seen["sliding window causal"].flatten().tolist() == [min(i + 1, 10) for i in range(64)]
    assert seen["prefix LM"].flatten().tolist() == [max(i + 1, 20) for i in range(64)]
    assert seen["NATTEN"].unique().tolist() == [25]
    assert seen["SASA"].max() == 25
    assert seen["document causal"].sum() == sum(length * (length + 1) // 2 for length in LENGTHS)
    assert seen["jagged"].sum() == sum(length * (length + 1) // 2 for length in OFFSETS.diff().tolist())
    assert seen["Flamingo"].flatten().tolist() == [20] * 5 + [34] * 35 + [30] * 24
