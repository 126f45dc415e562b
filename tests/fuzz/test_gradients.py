"""What the fuzzer holds against gradients: faults planted in an engine's are seen, and simplified."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fuzz import check
from fuzz.call import Backward, Blocks, Call, Mod, Table
from fuzz.differentiate import Differentiated, differentiated
from fuzz.simplify import simplest
from saccade.errors import IndexOutOfRangeError

LEARNED = ("query", "key", "value", "sinks", "c0")
SCORE = Mod("score(c0: f32[1], n0: f32) -> f32\ntanh(score * n0) + c0[h]", (0.5,), (Table("f32", (4,), 1),))
CALL = Call(
    (19, 70),
    (4, 2),
    (16, 8),
    batch=2,
    seed=5,
    score=SCORE,
    mask=Mod("causal"),
    blocks=Blocks((16, 16), Mod("sliding_window(5)")),
    sinks="f32",
    dropout_p=0.25,
    aux=(True, False),
    backward=Backward("dense", "dense"),
)


def off(monkeypatch: pytest.MonkeyPatch, name: str, factor: float) -> None:
    """Let an engine's gradient of a name be too large where there are more than six keys."""

    def wrong(call: Call, *given: object) -> Differentiated | None:
        made = differentiated(call, *given)
        if made is None or name not in made.gradients or call.lengths[1] <= 6:
            return made
        return replace(made, gradients={**made.gradients, name: factor * made.gradients[name]})

    monkeypatch.setattr(check, "differentiated", wrong)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "f32") for name in LEARNED), ("key", "bf16"), ("value", "f16"), ("query", "f64")],
)
def test_a_hundredth_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, dtype: str) -> None:
    call = replace(CALL, dtype=dtype)
    assert check.complaint(call) is None
    off(monkeypatch, name, 1.01)
    said = check.complaint(call)
    assert said is not None
    assert said.startswith(f"the gradient of {name}[")


def test_a_fault_is_simplified(monkeypatch: pytest.MonkeyPatch) -> None:
    off(monkeypatch, "c0", 1.01)
    begun = replace(CALL, blocks=None, dropout_p=0.0, sinks=None, batch=1)
    found = simplest(begun, lambda call: check.complaint(call) is not None)
    assert found.lengths == (1, 7)
    assert (found.heads, found.dims) == ((1, 1), (1, 1))
    assert found.mask is None
    assert found.backward is not None
    assert set(LEARNED) - set(found.backward.frozen) == {"c0"}


def test_other_bits_at_a_repetition_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    call = replace(CALL, backward=Backward("dense", "dense", again=1))
    assert check.complaint(call) is None

    def restless(*given: object) -> Differentiated | None:
        made = differentiated(*given)
        again = {name: tensor * (1 + 2e-7) for name, tensor in made.again.items()}
        return replace(made, again=again)

    monkeypatch.setattr(check, "differentiated", restless)
    assert "has other bits at a repetition" in (check.complaint(call) or "")


def test_an_error_that_nobody_expects_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*given: object) -> Differentiated | None:
        return replace(differentiated(*given), gradients=IndexOutOfRangeError("no such row"))

    monkeypatch.setattr(check, "differentiated", raising)
    assert check.complaint(CALL) == "the backward raised IndexOutOfRangeError: no such row"


# A gradient of its own, that reads a table at the key's place.
PEEK = "score(c0: f32[1]) -> f32\ncustom(score * 1.0, score, cotangent * c0[kv_idx])"


def test_a_missing_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Mod(PEEK, (), (Table("f32", (50,), 1),))
    call = Call((3, 51), score=short, backward=Backward(frozen=("c0",)))
    assert check.complaint(call) is None
    hidden = replace(call, mask=Mod("mask() -> bool\nkv_idx < 50"))
    assert check.complaint(hidden) is None

    def silent(call: Call, operands: object, out: Tensor, lse: Tensor | None) -> Differentiated:
        gradients = {name: torch.zeros_like(one) for name, one in operands.learned(call).items()}
        return Differentiated(out.detach(), torch.ones_like(out), None, gradients)

    monkeypatch.setattr(check, "differentiated", silent)
    assert "the backward did not raise" in (check.complaint(call) or "")
    assert (check.complaint(hidden) or "").startswith("the gradient of query[")
