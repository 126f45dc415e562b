"""What the page's evaluator does to numbers: integers as torch, casts and functions as the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from explorer.evaluator import ask, bare_page, digits, program_of
from saccade.ir.interpret import evaluate
from saccade.ir.ops import OPS, Op, TypeRule

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
INTEGERS = [
    INT_MIN,
    INT_MIN + 1,
    -(2**53) - 1,
    -64,
    -7,
    -2,
    -1,
    0,
    1,
    2,
    3,
    7,
    63,
    64,
    65,
    2**31,
    2**53 + 1,
    INT_MAX,
]
SMALL = [-(2**31) - 5, -64, -7, -2, -1, 0, 1, 2, 3, 7, 13, 2**31 + 7]
OPERATIONS = {
    "c0[q_idx] + c0[kv_idx]": torch.add,
    "c0[q_idx] - c0[kv_idx]": torch.sub,
    "c0[q_idx] * c0[kv_idx]": torch.mul,
    "c0[q_idx] & c0[kv_idx]": torch.bitwise_and,
    "c0[q_idx] | c0[kv_idx]": torch.bitwise_or,
    "c0[q_idx] ^ c0[kv_idx]": torch.bitwise_xor,
    "c0[q_idx] << c0[kv_idx]": torch.bitwise_left_shift,
    "c0[q_idx] >> c0[kv_idx]": torch.bitwise_right_shift,
    "minimum(c0[q_idx], c0[kv_idx])": torch.minimum,
    "maximum(c0[q_idx], c0[kv_idx])": torch.maximum,
    "-c0[q_idx] + 0 * kv_idx": lambda a, b: torch.neg(a) + 0 * b,
    "~c0[q_idx] + 0 * kv_idx": lambda a, b: torch.bitwise_not(a) + 0 * b,
    "abs(c0[q_idx]) + 0 * kv_idx": lambda a, b: torch.abs(a) + 0 * b,
}
DIVISIONS = {
    "c0[q_idx] // c0[kv_idx]": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "c0[q_idx] % c0[kv_idx]": torch.remainder,
}


class TestIntegers:
    """A result is compared with torch's inside the program, where no conversion can hide a difference."""

    @pytest.mark.parametrize("numbers", [INTEGERS, SMALL], ids=["wide", "small"])
    def test_integers_wrap_floor_and_shift_as_torchs(self, evaluator: Page, numbers: list[int]) -> None:
        pages, exact = [], []
        ids = torch.tensor(numbers)
        for text, function in {**OPERATIONS, **DIVISIONS}.items():
            a, b = ids[:, None], ids
            kept = (torch.ones_like(a) * b) != 0
            if text in DIVISIONS:
                kept &= ~((a == INT_MIN) & (b == -1))  # the processor traps
                b = torch.where(b == 0, 1, b)
            else:
                kept |= True
            expected = torch.where(kept, function(a, torch.where(kept, b, 1)), 0)
            head = "mask(c0: i64[1], c1: i64[2], c2: bool[2]) -> bool\n"
            program = program_of(
                f"{head}~c2[q_idx, kv_idx] | ({text} == c1[q_idx, kv_idx])",
                ids.numpy(),
                expected.numpy(),
                kept.numpy(),
            )
            pages.append(bare_page(program, 1, 1, len(ids), len(ids)))
            exact.append(pages[-1]["programs"][0]["exact"])
        found = ask(evaluator, pages, "everyRectangle(model)")
        for text, filled in zip({**OPERATIONS, **DIVISIONS}, found, strict=True):
            assert set(filled) == {"1"}, text
        # Small numbers go through JavaScript's own, except where one may leave them.
        assert any(exact) == (numbers is SMALL)

    def test_a_comparison_inside_a_program_can_fail(self, evaluator: Page) -> None:
        ids = np.array(INTEGERS)
        program = program_of("mask(c0: i64[1]) -> bool\nc0[q_idx] + 1 == c0[kv_idx]", ids)
        (filled,) = ask(evaluator, [bare_page(program, 1, 1, len(ids), len(ids))], "everyRectangle(model)")
        assert filled == digits((ids[:, None] + 1) == ids)

    def test_a_zero_has_no_sign(self, evaluator: Page) -> None:
        zeros = (
            "b * -3",
            "-b",
            "b // -3",
            "b % -3",
            "b << 2",
            "(b - 1) >> 3",
            "i64(score)",
            "-b - b",
            "i32(b * -1)",
        )
        programs = [program_of(f"score() -> f32\n1.0 / f32({text})") for text in zeros]
        pages = [bare_page(program, 2, 1, 1, 1) for program in programs]
        for program, found in zip(
            programs, ask(evaluator, pages, "model.score(0, 0, 0, 0, -0.5)"), strict=True
        ):
            reference = evaluate(program.root, {"b": np.int64(0), "score": np.float32(-0.5)}).value
            assert found == reference, program

    def test_casts_are_the_interpreters(self, evaluator: Page) -> None:
        floats = np.array([0.0, 1.9, -1.9, 127.5, 128.0, 255.0, -300.7, 65519.0, 65520.0, 2.0**31, 2.0**40])
        floats = np.concatenate(
            [floats, [1e-8, 6e-5, -3e-6, 3.14159, 1e10, 2.0**63, -(2.0**63), np.inf, np.nan]]
        )
        sources = {
            "i64": np.array([*INTEGERS, 2**24 + 1, (1 << 60) + (1 << 36) + 1, 2**62 + 2**38, 2049, 65519]),
            "f32": floats.astype(np.float32),
            "f64": np.append(floats, 1 + 2.0**-11 + 2.0**-40),
            "bool": np.array([False, True]),
        }
        pages, expected = [], []
        for source, values in sources.items():
            for target in ("bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"):
                if source == target:
                    continue
                cast = f"{target}(c0[q_idx])"
                result = f"f64({cast})" if target != "f64" else cast
                program = program_of(f"score(c0: {source}[1]) -> f64\n{result}", values)
                pages.append(bare_page(program, 1, 1, len(values), 1))
                pairs = {"q_idx": np.arange(len(values))}
                expected.append((cast, evaluate(program.root, pairs, [values]).value))
        answer = (
            "everyPair(model, (b, h, q, k) => { const x = model.score(b, h, q, k, 0); return Number(x) })"
        )
        for (cast, values), found in zip(expected, ask(evaluator, pages, answer), strict=True):
            np.testing.assert_array_equal(np.array(found, np.float64), values, err_msg=cast)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-6), ("f64", 4e-15)])
def test_elementary_functions_are_numpys(evaluator: Page, dtype: str, tolerance: float) -> None:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 40.0, -40.0, 200.0, np.inf, -np.inf, np.nan]
    values = np.concatenate([special, np.linspace(-7, 7, 203), np.geomspace(1e-6, 1e6, 40)])
    values = values.astype({"f32": np.float32, "f64": np.float64}[dtype])
    names = [OPS[op].text for op in Op if OPS[op].rule is TypeRule.FLOAT and OPS[op].arity == 1]
    powers = [f"c0[q_idx] ** const({power}, {dtype})" for power in (0.0, 2.0, 0.75, -1.0, -3.0, "inf", "nan")]
    remainders = [f"c0[q_idx] % const({divisor}, {dtype})" for divisor in (3.0, -2.5, 0.0, "inf", "-inf")]
    texts = [*(f"{name}(c0[q_idx])" for name in names), *powers, *remainders]
    head = f"score(c0: {dtype}[1]) -> {dtype}\n"
    programs = [program_of(head + text, values) for text in texts]
    pages = [bare_page(program, 1, 1, len(values), 1) for program in programs]
    answer = "everyPair(model, (b, h, q, k) => model.score(b, h, q, k, 0))"
    for text, program, found in zip(texts, programs, ask(evaluator, pages, answer), strict=True):
        reference = evaluate(program.root, {"q_idx": np.arange(len(values))}, [values]).value
        # Near its zeros the sine of a float depends on the last bits of pi.
        np.testing.assert_allclose(found, reference, rtol=tolerance, atol=tolerance, err_msg=text)


def test_numbers_stay_numbers_only_where_that_is_proven(evaluator: Page) -> None:
    far = program_of("mask(c0: i64[1]) -> bool\nc0[kv_idx] * c0[q_idx] < 0", np.array([2**40, 3]))
    data = bare_page(far, 1, 1, 2, 2)
    assert data["programs"][0]["exact"] is False
    (filled,) = ask(evaluator, [data], "everyRectangle(model)")
    # 2^80 modulo 2^64 is 0.
    assert filled == "0000"
