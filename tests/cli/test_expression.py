"""The expression language of the command line: what it reads, and every refusal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.cli.expression import VOCABULARY, parse_expression
from saccade.errors import ArgumentError
from saccade.masks import (
    Mask,
    and_masks,
    causal,
    dense,
    document,
    local,
    natten,
    noop_mask,
    not_mask,
    or_masks,
    padding,
    prefix_lm,
    shift,
    sliding_window,
    xor_masks,
)
from saccade.scores import alibi, bias, softcap

READ = {
    "causal": causal,
    "  causal  ": causal,
    "(causal)": causal,
    "noop_mask": noop_mask,
    "sliding_window(256)": sliding_window(256),
    "sliding_window(window=256)": sliding_window(256),
    "causal & sliding_window(256)": causal & sliding_window(256),
    "~causal | local(1, right=2)": ~causal | local(left=1, right=2),
    "causal ^ causal & noop_mask": causal ^ (causal & noop_mask),
    "and_masks(causal, local(1, 2), noop_mask)": and_masks(causal, local(left=1, right=2), noop_mask),
    "or_masks(causal, noop_mask)": or_masks(causal, noop_mask),
    "xor_masks(causal, noop_mask)": xor_masks(causal, noop_mask),
    "not_mask(causal)": not_mask(causal),
    "and_masks()": and_masks(),
    "shift(causal, q=4)": shift(causal, q=4),
    "shift(causal & sliding_window(3), q=-4, kv=+2)": shift(causal & sliding_window(3), q=-4, kv=2),
    "document(lengths=[3, 5])": document(lengths=[3, 5]),
    "document(tensor([0, 0, 1]))": document(torch.tensor([0, 0, 1])),
    "natten((8, 8), 3)": natten((8, 8), 3),
    "dense(tensor([[True, False]]))": dense(torch.tensor([[True, False]])),
    "padding(lengths=[3, 4], side='left', kv_len=9)": padding(lengths=[3, 4], side="left", kv_len=9),
    "alibi(n_heads=8)": alibi(n_heads=8),
    "softcap(20.0)": softcap(20.0),
    "bias(tensor([[0.5, -0.5]]))": bias(torch.tensor([[0.5, -0.5]])),
}


@pytest.mark.parametrize("text", READ)
def test_an_expression_is_what_it_says(text: str) -> None:
    assert parse_expression(text) == READ[text]


def test_the_vocabulary_is_the_library() -> None:
    assert {"causal", "natten", "and_masks", "softcap", "create_padding_mask"} <= set(VOCABULARY)
    assert not {"Mask", "Score", "torch", "eval"} & set(VOCABULARY)


leaves = st.one_of(
    st.sampled_from([causal, noop_mask]),
    st.builds(sliding_window, st.integers(1, 9999)),
    st.builds(prefix_lm, st.integers(0, 9999)),
    st.builds(lambda left, right: local(left=left, right=right), st.integers(0, 99), st.integers(0, 99)),
    st.builds(lambda lengths: document(lengths=lengths), st.lists(st.integers(0, 9), max_size=8)),
    st.builds(lambda side, kernel: natten((side, side), kernel), st.integers(3, 9), st.sampled_from([1, 3])),
)
mods = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.builds(lambda a, b: a & b, parts, parts),
        st.builds(lambda a, b: a | b, parts, parts),
        st.builds(lambda a, b: a ^ b, parts, parts),
        st.builds(lambda a: ~a, parts),
        st.builds(lambda a, q, kv: shift(a, q=q, kv=kv), parts, st.integers(-9, 9), st.integers(-9, 9)),
        st.builds(lambda several: and_masks(*several), st.lists(parts, max_size=3)),
    ),
    max_leaves=6,
)


@given(mods)
def test_the_text_of_a_mask_reads_back_equal(mask: Mask) -> None:
    assert parse_expression(str(mask)) == mask


REFUSED = {
    "": "expected an expression such as",
    "causal &": "expected an expression such as `causal & sliding_window\\(256\\)`, got 'causal &'",
    "\0": "expected an expression such as",
    "(" * 300 + "causal" + ")" * 300: "expected an expression such as",
    "~" * 1500
    + "causal": "expected an expression such as|nested a few hundred levels deep, got one of 1,506",
    "document(lengths=[99999999999999])": r"document\(\) cannot use these arguments",
    "x = causal": "expected an expression such as",
    "causl": r"no mask or score called causl; did you mean causal\?",
    "causal & sliding_windw(256)": "did you mean sliding_window?",
    "qqqqqqqq": "there is no mask or score called qqqqqqqq; the names are alibi, and_masks, bias, ",
    "__import__('os')": "no mask or score called __import__",
    "sliding_window": r"sliding_window needs its arguments, for example sliding_window\(window=256\)",
    "and_masks": r"and_masks needs its arguments, for example and_masks\(causal, ",
    "not_mask": r"for example not_mask\(causal\)",
    "tensor": "tensor needs its arguments",
    "causal()": "causal is a mod already and takes no arguments; write causal",
    "sliding_window()": r"sliding_window\(window\): missing a required argument: 'window'; write for example",
    "sliding_window(1, 2)": "too many positional arguments",
    "sliding_window(width=3)": "argument",
    "and_masks(causal, x=1)": r"and_masks\(\*mask_mods\): got an unexpected keyword argument 'x'",
    "sliding_window(0)": "window must be at least 1, got 0",
    "sliding_window('a')": "must be an integer",
    "and_masks(causal, 3)": "expects mods",
    "dense([[True]])": r"table must be a torch tensor, got list; make one of it with tensor\(...\)",
    "tensor([1, 'a'])": r"tensor\(\) cannot use these arguments .*one list of numbers",
    "tensor([1])": r"expected a mask or a score, got the literal tensor\(\[1\]\)",
    "3": "expected a mask or a score, got the literal 3",
    "causal & 3": "only masks combine with & | ^ ~, got the literal 3",
    "~3": "only masks combine",
    "causal & softcap(2.0)": r"softcap\(2.0\) is a score; pass it as --score",
    "document(lengths=[causal])": "a list holds literals, got the mod causal",
    "-causal": "a sign belongs before a number; a mask is inverted with ~",
    "sliding_window(-True)": "a sign belongs before a number",
    "causal and noop_mask": "combine with & and |, not with `and` and `or`",
    "not causal": "inverted with ~, not with `not`",
    "causal + noop_mask": "masks combine with & | \\^ ~ only",
    "sliding_window(2 * 128)": "masks combine with & | \\^ ~ only",
    "q_idx >= kv_idx": "put index arithmetic into a file and give FILE.py:FUNCTION",
    "lambda b, h, q_idx, kv_idx: True": "a function cannot be written here",
    "saccade.causal": "write the bare name",
    "masks.sliding_window(3)": "write the bare name",
    "and_masks(*[causal])": "give the arguments one by one",
    "sliding_window(**{})": "give the arguments one by one",
    "sliding_window(3)(4)": "only a name can be called",
    "causal if True else causal": "IfExp has no meaning here",
    "1j": "Constant has no meaning here",
    "[causal for x in y]": "ListComp has no meaning here",
    "sliding_window(f'{causal}')": "JoinedStr has no meaning here",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_says_why(text: str) -> None:
    with pytest.raises(ArgumentError, match=REFUSED[text]):
        parse_expression(text)


def test_an_expression_that_is_too_deep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: object, node: object) -> None:
        raise RecursionError

    monkeypatch.setattr("saccade.cli.expression._Reader.read", read)
    with pytest.raises(ArgumentError, match="nested a few hundred levels deep, got one of 6 characters"):
        parse_expression("causal")


def test_a_refusal_marks_its_place() -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_expression("causal & 'ü' | causl")
    assert str(caught.value).splitlines()[1:] == ["  causal & 'ü' | causl", "           ^^^"]
    with pytest.raises(ArgumentError) as caught:
        parse_expression("'ü' | causal")
    assert str(caught.value).splitlines()[1:] == ["  'ü' | causal", "  ^^^"]
    with pytest.raises(ArgumentError) as caught:
        parse_expression("and_masks(causal,\n  causl)")
    assert str(caught.value).splitlines()[1:] == ["    causl)", "    ^^^^^"]
