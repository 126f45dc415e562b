"""Every refusal: the fault, what was given, what to do, and the user's line."""

from __future__ import annotations

import functools
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saccade.errors import (
    ControlFlowError,
    DTypeError,
    IndexOutOfRangeError,
    ModError,
    TraceError,
    UnsupportedOpError,
)
from saccade.ir.structure import ModKind
from saccade.masks import causal, sliding_window
from saccade.tracing import trace

MASK, SCORE = ModKind.MASK, ModKind.SCORE
TABLE = torch.arange(12.0).reshape(3, 4)
INTS = torch.arange(12).reshape(3, 4)
EMPTY = torch.zeros(3, 0)


def choose(b, h, q_idx, kv_idx):
    if q_idx > kv_idx:
        return kv_idx > 0
    return q_idx > 0


def both(b, h, q_idx, kv_idx):
    return q_idx > kv_idx and kv_idx > 0


def either(b, h, q_idx, kv_idx):
    return q_idx > kv_idx or kv_idx > 0


def neither(b, h, q_idx, kv_idx):
    return not q_idx > kv_idx


def largest(b, h, q_idx, kv_idx):
    return max(q_idx, kv_idx) > 2


def chained(b, h, q_idx, kv_idx):
    return 0 <= q_idx - kv_idx < 3


def listed(b, h, q_idx, kv_idx):
    return q_idx in [0, 1]


@pytest.mark.parametrize(
    ("mod", "line", "rewrite"),
    [
        (choose, "if q_idx > kv_idx:", r"torch\.where\(condition, a, b\) for a choice"),
        (both, "return q_idx > kv_idx and kv_idx > 0", r"write \(a\) & \(b\)"),
        (either, "return q_idx > kv_idx or kv_idx > 0", r"write \(a\) \| \(b\)"),
        (neither, "return not q_idx > kv_idx", "write ~condition"),
        (largest, r"return max\(q_idx, kv_idx\) > 2", r"write torch\.maximum\(a, b\) or torch\.minimum"),
        (chained, "return 0 <= q_idx - kv_idx < 3", r"write \(a <= b\) & \(b < c\)"),
        (listed, r"return q_idx in \[0, 1\]", r"write \(values == item\)\.any\(\)"),
    ],
)
def test_a_question_of_truth_shows_the_line_and_the_rewrite(mod, line: str, rewrite: str) -> None:
    place = rf'{rewrite}[^\n]*\n  File ".*test_errors\.py", line \d+, in {mod.__name__}\n    {line}$'
    with pytest.raises(ControlFlowError, match=place) as caught:
        trace(mod)
    assert isinstance(caught.value, TypeError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        (lambda s, b, h, q, k: [1, 2, 3][q], r"cannot index a list or bound a range\(\).*torch\.tensor"),
        (lambda s, b, h, q, k: sum(range(q)), r"cannot index a list or bound a range\(\)"),
        (lambda s, b, h, q, k: np.arange(4)[q], r"numpy needs numbers.*torch\.from_numpy"),
        (lambda s, b, h, q, k: np.exp(s), r"numpy needs numbers|ufunc|operand type"),
        (lambda s, b, h, q, k: s * {0: 1.0}.get(h, 2.0), r"cannot be a key of a dict or set.*torch\.tensor"),
        (lambda s, b, h, q, k: s * (h in {0, 1}), "cannot be a key of a dict or set"),
        (lambda s, b, h, q, k: int(q), r"int\(\) needs a number.*use \.long\(\)"),
        (lambda s, b, h, q, k: float(q), r"float\(\) needs a number.*use \.float\(\)"),
        (lambda s, b, h, q, k: complex(q), r"complex\(\) needs a number"),
        (lambda s, b, h, q, k: len(s), r"len\(\) of a traced value without axes"),
        (lambda s, b, h, q, k: list(s), "a traced value without axes cannot be iterated"),
        (lambda s, b, h, q, k: 3 in TABLE[h], r"`in` needs numbers.*\(values == item\)\.any\(\)"),
        (lambda s, b, h, q, k: s.item(), r"\.item\(\) needs a number"),
        (lambda s, b, h, q, k: s.tolist(), r"\.tolist\(\) needs numbers"),
        (lambda s, b, h, q, k: s.numpy(), r"\.numpy\(\) needs numbers"),
        (lambda s, b, h, q, k: s.new_ones(q), "a size must be a Python integer.*got a traced value"),
        (lambda s, b, h, q, k: TABLE[h].sum(q), "an axis must be a Python integer"),
    ],
)
def test_what_needs_a_number(mod, message: str) -> None:
    with pytest.raises((ControlFlowError, TypeError), match=message):
        trace(mod, SCORE)


WHERE = r'\n  File ".*test_errors\.py", line \d+, in <lambda>\n'


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        (
            lambda s, b, h, q, k: torch.vmap(lambda x: x + 1)(TABLE[h]),
            r"vmap has no meaning in a mod: .*stands for every pair; write it for one",
        ),
        (
            lambda s, b, h, q, k: TABLE[h].sort()[0],
            r"torch\.Tensor\.sort has no meaning.*whole row of values",
        ),
        (lambda s, b, h, q, k: torch.sort(TABLE[h])[0], r"torch\.sort has no meaning in a mod"),
        (lambda s, b, h, q, k: torch.topk(TABLE[h], 2), r"torch\.topk has no meaning"),
        (lambda s, b, h, q, k: torch.softmax(TABLE[h], -1)[0], r"torch\.softmax has no meaning"),
        (
            lambda s, b, h, q, k: torch.nonzero(TABLE[h]),
            r"torch\.nonzero .*shape of its result depends on data",
        ),
        (
            lambda s, b, h, q, k: torch.masked_select(TABLE[h], TABLE[h] > 0),
            "masked_select .*depends on data",
        ),
        (lambda s, b, h, q, k: TABLE[h].unique(), "unique .*depends on data"),
        (lambda s, b, h, q, k: torch.rand_like(s), "rand_like .*draw the numbers outside"),
        (lambda s, b, h, q, k: torch.bernoulli(s), "bernoulli .*draw the numbers outside"),
        (lambda s, b, h, q, k: F.dropout(s), r"torch\.nn\.functional\.dropout .*draw the numbers outside"),
        (lambda s, b, h, q, k: s.add_(1), r"torch\.Tensor\.add_ .*cannot write"),
        (lambda s, b, h, q, k: TABLE.add_(s), r"torch\.Tensor\.add_ .*cannot write"),
        (lambda s, b, h, q, k: TABLE.__setitem__((0, h), s), r"__setitem__ .*cannot write.*torch\.where"),
        (lambda s, b, h, q, k: s.__setitem__((), 1), r"a mod cannot write to a tensor; .*torch\.where"),
        (lambda s, b, h, q, k: torch.stack([s, s]), r"torch\.stack .*combine the values directly"),
        (lambda s, b, h, q, k: torch.mm(TABLE, TABLE[None, h]), r"torch\.mm .*multiply the matrices outside"),
        (
            lambda s, b, h, q, k: torch.einsum("i,i->", TABLE[h], TABLE[h]),
            "einsum .*multiply the matrices outside",
        ),
        (
            lambda s, b, h, q, k: TABLE[h] @ INTS.T.float(),
            r"matmul in a mod takes two vectors, got shapes \(4,\) and",
        ),
        (lambda s, b, h, q, k: TABLE.gather(0, q), r"gather .*axis by axis"),
        (lambda s, b, h, q, k: TABLE[h].prod(), "prod .*factors out"),
        (lambda s, b, h, q, k: TABLE[h].max(dim=0), r"max along an axis .*amax\(dim"),
        (lambda s, b, h, q, k: torch.min(TABLE[h], 0), r"min along an axis .*amin\(dim"),
        (lambda s, b, h, q, k: torch.lgamma(s), r"register_rule\(torch\.lgamma, lambda \*args: \.\.\.\)"),
        (
            lambda s, b, h, q, k: s.digamma(),
            r"torch\.Tensor\.digamma .*register_rule\(torch\.Tensor\.digamma",
        ),
        (lambda s, b, h, q, k: torch.ops.aten.lgamma.default(s), r"register_rule\(torch\.ops\.aten\.lgamma,"),
        (lambda s, b, h, q, k: s.backward(), "backward .*run the attention"),
    ],
)
def test_operations_without_a_meaning_are_refused_by_name(mod, message: str) -> None:
    with pytest.raises((UnsupportedOpError, TraceError), match=message) as caught:
        trace(mod, SCORE)
    assert re.search(WHERE, str(caught.value))


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        (lambda s, b, h, q, k: (q > k) - (k > 0), "sub expects numbers, got bools only; convert one with"),
        (lambda s, b, h, q, k: -(q > k), "neg expects a number, got a bool; use ~"),
        (lambda s, b, h, q, k: (q > k) % (k > 0), "remainder expects numbers, got bools only"),
        (lambda s, b, h, q, k: (q > k) // (k > 0), "floordiv expects numbers, got bools only"),
        (lambda s, b, h, q, k: torch.addcmul(q > k, k > 0, k > 1), "mul expects numbers, got bools only"),
        (lambda s, b, h, q, k: s & 1, "and expects bools or integers, got f32; compare the number first"),
        (lambda s, b, h, q, k: ~s, "not expects bools or integers, got f32"),
        (lambda s, b, h, q, k: s << 1, "shl expects integers, got f32; convert with"),
        (lambda s, b, h, q, k: (q > k) >> (k > 0), "shr expects integers, got bool"),
        (lambda s, b, h, q, k: q**-1, "constant exponent >= 0, got exponent=-1; make the base a float"),
        (lambda s, b, h, q, k: 3**q, "constant exponent >= 0, got a traced exponent"),
        (
            lambda s, b, h, q, k: torch.div(s, 2, rounding_mode="up"),
            r"rounding_mode None, 'floor' or 'trunc'.*'up'",
        ),
        (lambda s, b, h, q, k: torch.clamp(s), r"clamp\(\) expects min or max, got neither"),
        (
            lambda s, b, h, q, k: torch.round(s, decimals=2),
            r"round\(\) expects decimals=0 in a mod, got decimals=int 2",
        ),
        (
            lambda s, b, h, q, k: F.gelu(s, approximate="fast"),
            "gelu.*'none' or 'tanh', got approximate='fast'",
        ),
        (lambda s, b, h, q, k: torch.where(q > k), r"where\(\) expects a condition and two values"),
        (
            lambda s, b, h, q, k: torch.where(q, s, 0),
            r"where\(\) expects a bool condition, got i64; compare it",
        ),
        (lambda s, b, h, q, k: s.type(), r"type\(\) expects a torch\.dtype in a mod, got NoneType None"),
        (lambda s, b, h, q, k: s + "1", r"an operand in a mod is a traced value.*got str '1'"),
        (lambda s, b, h, q, k: s + np.arange(3), r"got ndarray array\(\[0, 1, 2\]\); make a tensor of it"),
        (lambda s, b, h, q, k: q + 2**70, "must fit 64 bits; got 1180591620717411303424"),
        (lambda s, b, h, q, k: TABLE[h] + torch.ones(3), r"must broadcast.*got shapes \(4,\), \(3,\)"),
        (lambda s, b, h, q, k: TABLE[h, q, k], r"shape \(3, 4\) takes at most 2 indices, got 3"),
        (lambda s, b, h, q, k: TABLE[..., h, ...], r"one `\.\.\.`, got 2"),
        (lambda s, b, h, q, k: TABLE[h, :q], "a slice needs Python numbers for bounds"),
        (lambda s, b, h, q, k: TABLE[h][q:], "a slice needs Python numbers for bounds"),
        (lambda s, b, h, q, k: TABLE[h][True], "an index in a mod must be an integer, got True"),
        (lambda s, b, h, q, k: TABLE[[h, q]], r"an index in a mod is an integer, a value.*got list"),
        (lambda s, b, h, q, k: TABLE[h, TABLE[0] > 1], "indexing by bool selects a number of elements"),
        (lambda s, b, h, q, k: TABLE[q > k], "indexing by bool selects a number of elements"),
        (lambda s, b, h, q, k: TABLE[s], r"an index must be an integer, got f32; convert it with \.long\(\)"),
        (lambda s, b, h, q, k: INTS[:, None, h][0, INTS[0], :, INTS[1]], "takes at most"),
        (lambda s, b, h, q, k: INTS[None][INTS[0] + q, :, INTS[1] + q], "must stand side by side"),
        (lambda s, b, h, q, k: TABLE[h][1:][q], "a slice of a traced value cannot be indexed"),
        (lambda s, b, h, q, k: TABLE[h][::-1], "a slice needs a positive step, got step=-1"),
        (lambda s, b, h, q, k: torch.take(TABLE[h], q), r"take\(\) expects a captured tensor"),
        (
            lambda s, b, h, q, k: TABLE[h].sum(3),
            "an axis of a value with 1 axes must lie in -1..0, got dim=3",
        ),
        (
            lambda s, b, h, q, k: TABLE[h].permute(0, 0),
            r"permute\(\) expects each of the 1 axes once, got dims=\[0, 0\]",
        ),
        (lambda s, b, h, q, k: TABLE[h].view(2, 2), r"axes of extent 1 only, got \(4,\) to \(2, 2\)"),
        (lambda s, b, h, q, k: TABLE[h].expand(3), r"expand\(\) widens axes of extent 1 only"),
        (lambda s, b, h, q, k: EMPTY[h].amax(), "needs an extent of 1 or more, got 0"),
        (lambda s, b, h, q, k: INTS[h].mean(), r"mean\(\) expects floats, got i64; convert with \.float\(\)"),
        (
            lambda s, b, h, q, k: torch.dot(TABLE[h], TABLE),
            r"two vectors of one length, got shapes \(4,\) and \(3, 4\)",
        ),
        (
            lambda s, b, h, q, k: s + torch.ones(2, dtype=torch.complex64)[h],
            r"got dtype=torch\.complex64; convert it",
        ),
        (lambda s, b, h, q, k: s + TABLE.to_sparse()[h], r"dense tensors; got layout=torch\.sparse|index"),
        (lambda s, b, h, q, k: TABLE[h] + s, r"single element, got shape \(4,\); index or reduce the axes"),
        (lambda s, b, h, q, k: None, "must return a tensor, got NoneType None; return one value"),
        (lambda s, b, h, q, k: lambda: s, "must return a tensor, got function .*; call the factory"),
        (lambda s, b, h, q, k: (s, b), "must return a tensor, got tuple .*; return one value"),
    ],
)
def test_what_a_mod_cannot_say(mod, message: str) -> None:
    with pytest.raises((TraceError, DTypeError), match=message) as caught:
        trace(mod, SCORE)
    assert '\n  File "' in str(caught.value)


@pytest.mark.parametrize("index", [4, -5])
def test_constant_indices_are_checked_at_once(index: int) -> None:
    with pytest.raises(
        IndexOutOfRangeError, match=rf"its axis, of size 4; got index={index} for shape=\(3, 4\)"
    ):
        trace(lambda s, b, h, q, k: TABLE[h, index], SCORE)


@pytest.mark.parametrize("result", [lambda q: q, lambda q: q * 0.5, lambda q: 1, lambda q: INTS[0, 0]])
def test_a_mask_returns_a_bool(result) -> None:
    with pytest.raises(
        TraceError, match="a mask mod must return a bool, True where the query may attend, got"
    ):
        trace(lambda b, h, q, k: result(q), MASK)


def test_values_do_not_leave_their_trace() -> None:
    kept = []
    trace(lambda b, h, q, k: bool(kept.append(q)) or True, MASK)
    with pytest.raises(TraceError, match="a mod returned a value of another trace"):
        trace(lambda b, h, q, k: kept[0] > 1, MASK)


def make_window(window):
    return lambda b, h, q_idx, kv_idx: q_idx - kv_idx < window


def three(b, h, q_idx):
    return q_idx > 0


@pytest.mark.parametrize(
    ("mod", "kind", "message"),
    [
        (
            sliding_window,
            MASK,
            r"a mask mod: sliding_window is a factory.*call it first: sliding_window\(window=256\)",
        ),
        (sliding_window, None, r"trace\(\): sliding_window is a factory"),
        (3, None, r"trace\(\) expects mods, functions of index values .*got the int 3"),
        (3, MASK, "a mask mod expects mods.*got the int 3"),
        (make_window, None, r"of 1 required arguments; call it first if it is a factory.*\n.*in make_window"),
        (
            make_window,
            MASK,
            r"a function of \(b, h, q_idx, kv_idx\), got function .*call it first if it is a factory",
        ),
        (three, SCORE, r"a function of \(score, b, h, q_idx, kv_idx\), got function <function three"),
        (choose, SCORE, "which cannot be called so; pass it as mask_mod="),
        (lambda s, b, h, q, k: s, MASK, "which cannot be called so; pass it as score_mod="),
        (causal, SCORE, "which cannot be called so; pass it as mask_mod="),
        (functools.partial(three, 1), None, "of 2 required arguments"),
    ],
)
def test_what_is_no_mod(mod, kind, message: str) -> None:
    with pytest.raises(ModError, match=message):
        trace(mod, kind)


def test_a_program_of_the_other_kind() -> None:
    with pytest.raises(ModError, match="expected a score mod, got a mask program; pass it as mask_mod="):
        trace(trace(causal), SCORE)


def test_unknown_attributes_are_attribute_errors() -> None:
    def probe(b, h, q_idx, kv_idx):
        assert not hasattr(q_idx, "no_such_thing")
        assert not hasattr(q_idx, "__cuda_array_interface__")
        return q_idx > 0

    trace(probe)
    with pytest.raises(
        AttributeError, match="a traced value has no attribute 'colour', because a tensor has none"
    ):
        trace(lambda b, h, q, k: q.colour)


def test_arguments_that_a_rule_does_not_know() -> None:
    with pytest.raises(
        TraceError,
        match=r"torch\.amax in a mod takes fewer arguments.*by position and the keywords .dim, out.; leave",
    ):
        trace(lambda s, b, h, q, k: torch.amax(s, dim=(), out=TABLE), SCORE)
    with pytest.raises(
        TraceError, match=r"torch\.Tensor\.clamp in a mod .*2 by position and the keywords .out.; leave"
    ):
        trace(lambda s, b, h, q, k: s.clamp(0, out=TABLE), SCORE)


def test_the_users_own_errors_pass() -> None:
    def faulty(b, h, q_idx, kv_idx):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(faulty)
    with pytest.raises(TypeError, match="unsupported operand"):
        trace(lambda b, h, q, k: {} + {})
