"""What `saccade verify` does with a mod: run it through every backend, and hold each against an oracle.

The oracle asks the user's own function about one pair at a time and computes in float64, so it shares nothing
with the tracer, the analysis or an engine. Forward results and the gradients of query, key, value and of each
tensor that the function reads and that wants one are compared. Owns the checks and their verdicts; printing
belongs to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.attention import flex_attention
from saccade.backends.registry import candidates
from saccade.bench.oracle import pairwise_attention, pairwise_mask
from saccade.block_mask import create_block_mask
from saccade.errors import ArgumentError, BackendError
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.signatures import MaskMod, Mod, ScoreMod
from saccade.testing import compare_masks
from saccade.tracing import trace

__all__ = ["BLOCKS", "SHAPES", "Check", "Part", "Shape", "Verification", "verify_mod"]

BLOCKS = "block mask"
"""What stands in place of a backend's name where the blocks of a mask were checked."""

_HEAD_DIM, _VALUE_DIM = 16, 8
_BLOCK = 8  # small, so that small shapes have blocks of every kind
# Times the error of plain float32 attention that a backend's may have; the maximum of few numbers varies.
_ROUNDING = 8
_STEPS = (1e-3, 1e-6)  # the long one outlives rounding to float32 in a mod, the short one meets few jumps
_SLOPE_ERROR = 0.01  # of a derivative, relative; an approximation may have one of its own
_TOLD = 300  # characters of an error that are shown


@dataclass(frozen=True)
class Shape:
    """The sizes of one check: B, Hq, Hkv, Q and K."""

    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1 or self.q_heads % self.kv_heads:
            raise ArgumentError(
                "expected sizes of 1 or more, and as many query heads as key heads or a multiple of them, "
                f"got {self}; correct them"
            )

    def __str__(self) -> str:
        grouped = "" if self.q_heads == self.kv_heads else f"/{self.kv_heads}"
        return f"B{self.batch} H{self.q_heads}{grouped} {self.q_len}×{self.kv_len}"

    @property
    def pairs(self) -> tuple[int, int, int, int]:
        """B, Hq, Q and K."""
        return self.batch, self.q_heads, self.q_len, self.kv_len


SHAPES = (Shape(1, 2, 2, 16, 16), Shape(2, 4, 2, 19, 37), Shape(1, 4, 1, 33, 13))
"""Square; odd lengths and grouped heads; more queries than keys, of which some may see nothing."""


@dataclass(frozen=True)
class Part:
    """One tensor that was compared.

    Attributes:
        name: "output", or whose gradient it is: "query", "key", "value", or the name of a captured tensor.
        error: Its largest difference from the oracle; of a block mask, the number of wrong pairs.
        bound: The largest difference allowed.
    """

    name: str
    error: float
    bound: float

    @property
    def is_right(self) -> bool:
        """Whether the error is within its bound; NaN is not."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Check:
    """What one backend did at one shape.

    Attributes:
        backend: Its name, or `BLOCKS`.
        shape: The sizes.
        output: The forward result; None where it was not computed.
        gradients: One each for query, key, value and what the function captured; empty where not computed.
        refusals: Why the backend does not take the call, or not with gradients.
        fault: What went wrong besides: an error that was raised, or where masks differ. "" if nothing.
    """

    backend: str
    shape: Shape
    output: Part | None = None
    gradients: tuple[Part, ...] = ()
    refusals: tuple[str, ...] = ()
    fault: str = ""

    @property
    def was_run(self) -> bool:
        """Whether there is a result, right or wrong."""
        return self.output is not None or bool(self.fault)

    @property
    def is_right(self) -> bool:
        """Whether nothing that was computed is wrong."""
        return not self.told()

    def told(self) -> str:
        """Say what is wrong; "" if nothing is."""
        if self.fault:
            return self.fault
        wrong = [] if self.output is None or self.output.is_right else [f"the output {_off(self.output)}"]
        wrong += [f"the gradient of {part.name} {_off(part)}" for part in self.gradients if not part.is_right]
        return ", ".join(wrong)


@dataclass(frozen=True)
class Verification:
    """The outcome for one mod.

    Attributes:
        kind: Whether it is a mask_mod or a score_mod.
        checks: One for each backend and shape.
        remarks: What could not be checked, and why: the function itself fails at a shape, or has no gradient.
            Also that a score_mod's own derivative is not the slope of its values, as in a straight-through
            estimator: backends follow it, so no check fails by it.
    """

    kind: ModKind
    checks: tuple[Check, ...]
    remarks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether something was checked, and nothing is wrong."""
        return any(check.was_run for check in self.checks) and all(check.is_right for check in self.checks)


@dataclass(frozen=True, eq=False)
class _Truth:
    """What the oracle gives at one shape."""

    inputs: tuple[Tensor, Tensor, Tensor]  # query, key, value: float32 leaves
    visible: Tensor  # bool [B, Hq, Q, K]
    output: Tensor  # float64
    bound: float
    weight: Tensor  # of the output, in the sum whose gradients are compared
    leaves: dict[str, Tensor]  # whose gradients are compared, by name; empty where there are none
    gradients: tuple[Tensor, ...]  # of the leaves, float64
    bounds: tuple[float, ...]


def verify_mod(
    mod: Mod,
    *,
    mask_mod: MaskMod | None = None,
    shapes: Sequence[Shape] = SHAPES,
    backends: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda step: None,
) -> Verification:
    """Run a mod through backends and compare with the oracle.

    Args:
        mod: The user's function, a mask_mod or a score_mod.
        mask_mod: Which pairs are visible, for a score_mod; None shows all.
        shapes: What to check at.
        backends: Names of backends; None for every one of the device.
        device: Where the tensors lie that the function reads.
        progress: Is told each step before it begins.

    Returns:
        Errors beside their bounds. Nothing is raised for a wrong result, nor for what a backend raises.

    Raises:
        ArgumentError: `mod` is a `Program`, a mask is given beside a mask, or no backend has a name.
        ModError: It is no mod.
        TraceError: It cannot be read as a program; what the function itself raises then is passed on.

    Example:
        >>> from saccade.scores import softcap
        >>> found = verify_mod(softcap(5.0), shapes=[Shape(1, 2, 1, 5, 7)], backends=["eager"])
        >>> found.passed, [part.name for part in found.checks[0].gradients]
        (True, ['query', 'key', 'value'])
    """
    if isinstance(mod, Program):
        raise ArgumentError(
            "expected the function itself, got a Program, which would be held against its own trace; "
            "pass the function that was traced"
        )
    kind = trace(mod).kind
    score_mod: Any = mod if kind is ModKind.SCORE else None
    mask: Any = mod if kind is ModKind.MASK else mask_mod
    if kind is ModKind.MASK and mask_mod is not None:
        raise ArgumentError(
            "expected a mask beside a score_mod only, got two masks; verify their combination: first & second"
        )
    asked = candidates(device) if backends is None else tuple(backends)
    if unknown := set(asked) - set(candidates(device)):
        raise ArgumentError(
            f"backends must be among {', '.join(map(repr, candidates(device)))}, got {', '.join(unknown)}"
        )
    checks: list[Check] = []
    remarks: dict[str, None] = {}
    for shape in shapes:
        progress(f"{shape}: the oracle")
        try:
            truth, remark = _consult_oracle(shape, mask, score_mod, torch.device(device))
        except Exception as fault:
            # Whatever the user's function raises; the backends are not asked what has no answer.
            remarks[f"{shape}: the function itself fails: {_told(fault)}"] = None
            continue
        remarks.update({remark: None} if remark else {})
        if mask is not None:
            checks.append(_check_blocks(shape, mask, truth.visible))
        for name in asked:
            progress(f"{shape}: {name}")
            checks.append(_check_backend(name, shape, mask, score_mod, truth))
    return Verification(kind, tuple(checks), tuple(remarks))


def _consult_oracle(
    shape: Shape, mask: MaskMod | None, score: ScoreMod | None, device: torch.device
) -> tuple[_Truth, str]:
    """The truth at a shape, and a remark where the function has no gradient."""
    generator = torch.Generator().manual_seed(sum(shape.pairs))
    sizes = (
        (shape.batch, shape.q_heads, shape.q_len, _HEAD_DIM),
        (shape.batch, shape.kv_heads, shape.kv_len, _HEAD_DIM),
        (shape.batch, shape.kv_heads, shape.kv_len, _VALUE_DIM),
        (shape.batch, shape.q_heads, shape.q_len, _VALUE_DIM),
    )
    query, key, value, weight = (torch.randn(size, generator=generator).to(device) for size in sizes)
    inputs = (query, key, value)
    visible = torch.ones(shape.pairs, dtype=torch.bool, device=device)
    if mask is not None:
        visible = pairwise_mask(mask, shape.pairs, device)

    def attend(dtype: torch.dtype) -> Tensor:
        return pairwise_attention(*inputs, visible=visible, score_mod=score, dtype=dtype)

    for tensor in inputs:
        tensor.requires_grad_()
    try:
        exact, rough = attend(torch.float64), attend(torch.float32)
        total = (exact * weight).sum()
        leaves = {"query": query, "key": key, "value": value, **_captured_leaves(total, inputs, score)}
        slopes = _gradients(total, leaves)
        plain = _gradients((rough * weight).sum(), leaves)
    except Exception as fault:
        # A function without a derivative may raise anything; its forward results are checked all the same.
        remark = f"the function has no gradient, so none is checked: {_told(fault)}"
        with torch.no_grad():
            exact, rough = attend(torch.float64), attend(torch.float32)
        return _Truth(inputs, visible, exact, _bound(rough, exact), weight, {}, (), ()), remark
    bounds = tuple(_bound(one, true) for one, true in zip(plain, slopes, strict=True))

    def total_at(moved: Tensor) -> Tensor:
        out = pairwise_attention(moved, key, value, visible=visible, score_mod=score, dtype=torch.float64)
        return (out * weight).sum()

    remark = ""
    if score is not None and not _is_slope(total_at, query, slopes[0]):
        remark = (
            "the function's own derivative is not the slope of its values; backends are held to what it says"
        )
    return _Truth(
        inputs, visible, exact.detach(), _bound(rough, exact), weight, leaves, slopes, bounds
    ), remark


@torch.no_grad()
def _is_slope(total_at: Callable[[Tensor], Tensor], query: Tensor, slope: Tensor) -> bool:
    """Whether a gradient tells how the total rises in one direction, by differences over some step."""
    generator = torch.Generator().manual_seed(query.numel())
    direction = torch.randn(query.shape, generator=generator, dtype=torch.float64).to(query.device)
    terms = slope.double() * direction
    for step in _STEPS:
        ahead, behind = (total_at(query.double() + sign * step * direction) for sign in (1, -1))
        # Beside the terms' norm, because their sum may be near 0 by chance.
        if not abs((ahead - behind) / (2 * step) - terms.sum()) > _SLOPE_ERROR * terms.norm():
            return True
    return False


def _check_blocks(shape: Shape, mask: MaskMod, visible: Tensor) -> Check:
    """Compare the blocks of a mask, and the pairs in them, with what the function says of each pair."""
    try:
        blocks = create_block_mask(mask, shape.batch, shape.q_heads, *shape.pairs[2:], BLOCK_SIZE=_BLOCK)
        found = compare_masks(blocks, visible)
    except Exception as fault:
        return Check(BLOCKS, shape, fault=_told(fault))
    part = Part("output", found.count, 0)
    return Check(BLOCKS, shape, part, fault="" if found.is_equal else str(found))


def _check_backend(
    name: str, shape: Shape, mask: MaskMod | None, score: ScoreMod | None, truth: _Truth
) -> Check:
    """Run a backend without gradients, then with them."""

    def attend() -> Tensor:
        return flex_attention(
            *truth.inputs, score, mask_mod=mask, enable_gqa=shape.q_heads != shape.kv_heads, backend=name
        )

    output = None
    gradients: tuple[Part, ...] = ()
    try:
        with torch.no_grad():
            output = Part("output", _distance(attend(), truth.output), truth.bound)
        if truth.leaves:
            found = _gradients((attend() * truth.weight).sum(), truth.leaves)
            compared = zip(truth.leaves, found, truth.gradients, truth.bounds, strict=True)
            gradients = tuple(Part(leaf, _distance(got, true), bound) for leaf, got, true, bound in compared)
    except BackendError as refusal:
        what = "" if output is None else "with gradients: "
        return Check(
            name, shape, output, refusals=tuple(what + reason for reason in refusal.reasons.get(name, ()))
        )
    except Exception as fault:
        # A verification reports what a backend raises, whatever it is.
        return Check(name, shape, output, fault=_told(fault))
    return Check(name, shape, output, gradients)


def _gradients(total: Tensor, leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a number; zeros where it does not depend on a leaf."""
    found: Sequence[Tensor | None] = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return tuple(
        torch.zeros_like(leaf) if one is None else one
        for one, leaf in zip(found, leaves.values(), strict=True)
    )


def _captured_leaves(total: Tensor, inputs: Sequence[Tensor], mod: ScoreMod | None) -> dict[str, Tensor]:
    """The tensors that a function read and that want a gradient: those at the ends of the autograd graph."""
    known = {id(tensor) for tensor in inputs}
    leaves: list[Tensor] = []
    queue: list[Any] = [total.grad_fn]
    seen = set(queue)
    for node in queue:  # grows while it is walked
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            known.add(id(leaf))
            leaves.append(leaf)
        fresh = {following for following, _ in node.next_functions} - seen - {None}
        seen |= fresh
        queue.extend(fresh)
    names: dict[int, str] = {}
    if mod is not None:
        program = trace(mod)
        names = {id(one): name for one, name in zip(program.captures, program.names, strict=False)}
    return {names.get(id(leaf), f"captured tensor {at}"): leaf for at, leaf in enumerate(leaves)}


def _bound(rough: Tensor, exact: Tensor) -> float:
    """The error allowed: a few times that of plain float32 arithmetic, and of rounding the result."""
    scale = float(exact.detach().nan_to_num(0.0, 0.0, 0.0).abs().max())
    return _ROUNDING * (_distance(rough, exact) + torch.finfo(torch.float32).eps * scale)


def _distance(found: Tensor, exact: Tensor) -> float:
    """The largest difference; NaN where only one of them is NaN."""
    found, exact = found.detach().double(), exact.detach().double()
    same = (found == exact) | (found.isnan() & exact.isnan())
    return float((found - exact).abs().masked_fill(same, 0.0).max())


def _off(part: Part) -> str:
    return f"is off by {part.error:.2g}, more than {part.bound:.2g}"


def _told(fault: Exception) -> str:
    """An error as one line of bounded length; torch's compiler writes pages."""
    text = " ".join(str(fault).split())
    return f"{type(fault).__name__}: {text if len(text) <= _TOLD else text[:_TOLD] + ' ...'}"
