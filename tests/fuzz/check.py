"""A fuzzed call, made by the engine and held against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from fuzz.call import Call
from fuzz.differentiate import POISON, Differentiated, differentiated, threads
from fuzz.gradients import expect_gradients
from fuzz.guard import guarded_outputs
from fuzz.operands import Operands, make
from fuzz.reference import Expected, expect
from saccade import AuxRequest, flex_attention
from saccade.settings import CPU_ISA

__all__ = ["complaint"]

_DISTURBANCES = 4
_ONE_ROUNDING = 0.51  # in ulp
Results = dict[str, Tensor | None]


@torch.no_grad()
def complaint(call: Call) -> str | None:
    """Say what is wrong with the engine's answer to a call; None where nothing is."""
    with threads(1):  # the reference of so few pairs is slower on more
        return _complaint(call)


def _complaint(call: Call) -> str | None:
    operands = make(call)
    seed = None
    if call.dropout_p > 0:
        torch.manual_seed(call.seed)
        seed = int(torch.randint(2**63 - 1, ()))
    found: Results | Exception
    gradients: Differentiated | None = None
    try:
        with threads(call.threads), _isa(call.isa), guarded_outputs(call.guard):
            with torch.set_grad_enabled(call.backward is not None):
                for tensor in operands.learned(call).values():
                    tensor.requires_grad_()
                found = _answer(call, operands, "cpu")
            gradients = differentiated(call, operands, found["out"], found.get("lse"))
    except POISON as fault:
        found = fault
    # Most calls are right to a few ulp; only for others is it measured how far off they may be.
    wrong = None
    for disturbances in (0, _DISTURBANCES):
        expected = expect(call, operands, seed, disturbances)
        wrong = _judged(call, operands, found, expected)
        if wrong is None and gradients is not None:
            wrong = _judged_gradients(call, operands, gradients, expected)
        if wrong is None:
            break
    return wrong


def _judged(call: Call, operands: Operands, found: Results | Exception, expected: Expected) -> str | None:
    if isinstance(found, Exception):
        return f"raised {type(found).__name__}: {found}" if expected.raises is False else None
    if expected.raises:
        return "did not raise, and an index out of range or a division by zero decides something"
    return _difference(call, operands, found, expected)


def _judged_gradients(call: Call, operands: Operands, mine: Differentiated, expected: Expected) -> str | None:
    wanted = expect_gradients(call, operands, expected, mine.out, mine.grad_out, mine.grad_lse)
    found = mine.gradients
    if isinstance(found, Exception):
        surely = expected.raises is False and wanted.raises is False
        return f"the backward raised {type(found).__name__}: {found}" if surely else None
    if wanted.raises:
        return "the backward did not raise, and an index out of range or a division by zero decides something"
    for name, gradient in found.items():
        said = _unlike(
            f"the gradient of {name}", gradient, wanted.exact[name], wanted.slack[name], ulp=_ONE_ROUNDING
        )
        if said is None and mine.again is not None and not _same(gradient, mine.again[name]):
            said = f"the gradient of {name} has other bits at a repetition"
        if said is not None:
            return said
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _answer(call: Call, operands: Operands, backend: str) -> Results:
    torch.manual_seed(call.seed)
    tiles = zip(("BLOCK_M", "BLOCK_N"), call.tiles, strict=True)
    out, aux = flex_attention(
        operands.query,
        operands.key,
        operands.value,
        operands.score,
        operands.block_mask(call),
        scale=call.scale,
        enable_gqa=True,
        kernel_options={name: size for name, size in tiles if size is not None},
        return_aux=AuxRequest(lse=call.aux[0], max_scores=call.aux[1]),
        mask_mod=operands.mask,
        sinks=operands.sinks,
        dropout_p=call.dropout_p,
        backend=backend,
    )
    return {"out": out, "lse": aux.lse, "max_scores": aux.max_scores}


def _difference(call: Call, operands: Operands, found: Results, expected: Expected) -> str | None:
    special = not bool(expected.finite.all()) or call.values in ("infinite", "nan")
    # Rows with a score of +inf or NaN are torch's to define: there the dense backend is the reference.
    try:
        torch_like = _answer(call, operands, "eager") if special else None
    except POISON as fault:
        return None if expected.raises is None else f"eager raised {type(fault).__name__}: {fault}"
    for name, mine in found.items():
        if mine is None:
            continue
        wanted, slack = getattr(expected, name).clone(), expected.slack[name]
        finite = expected.finite[..., None].expand_as(wanted) if name == "out" else expected.finite
        if torch_like is not None:
            theirs = torch_like[name]
            assert theirs is not None
            wanted = torch.where(~finite | ~theirs.isfinite(), theirs.double(), wanted)
            # NaN always answers such a row, and a number where torch finds one; and which is the largest of
            # numbers among which are NaNs?
            free = mine.isnan() | theirs.isfinite() | (name == "max_scores")
            slack = torch.where(~finite & free, torch.inf, slack)
        said = _unlike(name, mine, wanted, slack, ulp=2)
        if said is not None:
            return said
    return None


def _unlike(name: str, mine: Tensor, wanted: Tensor, slack: Tensor, ulp: float) -> str | None:
    """Say where a tensor is not what is wanted, up to slack and so many of its own type's ulp."""
    largest = torch.finfo(mine.dtype).max
    wanted = torch.where(wanted.abs() > largest, wanted * torch.inf, wanted)
    same = (mine == wanted) | (mine.isnan() & wanted.isnan())
    rounding = ulp * torch.finfo(mine.dtype).eps * wanted.abs().nan_to_num(0, 0, 0)
    close = same | ((mine - wanted).abs() <= slack + rounding) | (slack == torch.inf)
    if bool(close.all()):
        return None
    at = tuple(int(i) for i in (~close).nonzero()[0])
    return (
        f"{name}{list(at)} is {float(mine[at])!r}, expected {float(wanted[at])!r} up to "
        f"{float((slack + rounding)[at]):.3g}; {int((~close).sum())} of {close.numel()} are wrong"
    )


@contextmanager
def _isa(name: str) -> Iterator[None]:
    """The instruction set within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CPU_ISA.name, name)
        yield
