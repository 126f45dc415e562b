"""One pattern of attention, computed by everyone who can: checked, then timed forward and backward.

Owns the comparison as a value. Work is counted as the literature counts it: two products forward and five
backward, of two operations each, over the blocks that are not empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from saccade.bench.agreement import require_agreement
from saccade.bench.contenders import Contender, Inputs, Workload, contenders, make_block_mask
from saccade.bench.machine import describe_machine
from saccade.bench.report import Measurement, Report
from saccade.bench.sizes import AttentionSize, fit_size
from saccade.bench.text_patterns import text_pattern
from saccade.bench.timing import Timing, time_in_turns
from saccade.block_mask import BlockMask
from saccade.errors import ArgumentError
from saccade.mod_value import ModValue
from saccade.signatures import MaskMod, Mod, ScoreMod

__all__ = [
    "BACKWARD",
    "DTYPES",
    "FORWARD",
    "Comparison",
    "Row",
    "calculate_tflops",
    "compare",
    "compare_pattern",
    "report_of",
]

FORWARD = 4
"""Operations a visible pair and head dimension in the forward pass: 2 products of 2."""

BACKWARD = 10
"""The same in the backward pass: 5 products of 2."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What a comparison computes in, by name."""


@final
@dataclass(frozen=True)
class Row:
    """What one contender did.

    Attributes:
        contender: Its name.
        density: The part of all pairs that is counted as its work.
        forward: Times of the forward pass, without gradients; None where it does not run.
        backward: Times of the backward pass alone; None where it has none.
        reason: Why a time is missing; empty where none is.
    """

    contender: str
    density: float
    forward: Timing | None
    backward: Timing | None
    reason: str


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """The outcome for one pattern.

    Attributes:
        name: The pattern's name.
        size: The sizes that ran.
        scaling: What was lowered to fit the machine, in a sentence; empty where nothing was.
        dtype: Type of the inputs.
        device: Where it ran.
        block_mask: The blocks; None without a mask.
        density: The part of the blocks that is not empty; 1 without a mask.
        is_checked: Whether every row that computes the pattern was found right.
        rows: One a contender.
    """

    name: str
    size: AttentionSize
    scaling: str
    dtype: torch.dtype
    device: torch.device
    block_mask: BlockMask | None
    density: float
    is_checked: bool
    rows: tuple[Row, ...]

    def tflops(self, row: Row, timing: Timing, multiplier: int) -> float:
        """The rate of a row in TFLOP/s; `multiplier` is FORWARD or BACKWARD."""
        flops = row.density * self.size.scores * self.size.head_dim
        return calculate_tflops(flops, timing.median_s * 1e3, multiplier)

    def measurements(self) -> list[Measurement]:
        """The times as a report holds them."""
        found = []
        for row in self.rows:
            for phase, timing, multiplier in (
                ("forward", row.forward, FORWARD),
                ("backward", row.backward, BACKWARD),
            ):
                if timing is not None:
                    facts: dict[str, float | int | None] = {
                        "density": row.density,
                        "tflops": self.tflops(row, timing, multiplier),
                    }
                    case = f"{self.name}, {phase}"
                    found.append(Measurement(case, row.contender, self.size.as_dict(), timing, facts))
        return found


def calculate_tflops(flops: float, time_ms: float, multiplier: int) -> float:
    """Return a rate in TFLOP/s.

    Args:
        flops: Work in units of one product a pair and head dimension: density · B · H · S² · D.
        time_ms: The time it took, in milliseconds.
        multiplier: Operations a unit: 4 for a forward pass of attention, 10 for a backward pass.

    Example:
        >>> round(calculate_tflops(0.5 * 16 * 16 * 8192**2 * 64, 14.65, 4), 1)
        150.1
    """
    return multiplier * flops * (1e3 / time_ms) / 1e12


def compare(
    score_mod: ScoreMod | None = None,
    mask_mod: MaskMod | None = None,
    size: AttentionSize | None = None,
    *,
    name: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    rounds: int = 5,
    compiled: bool = True,
    checked: bool = True,
    progress: Callable[[str], object] = lambda step: None,
) -> Comparison:
    """Compare everyone who can compute a pattern.

    Args:
        score_mod: The change of the scores; None leaves them.
        mask_mod: The mask; None hides nothing. One of the two must be given.
        size: Sizes of the call, lowered where they do not fit the free memory. Default: `AttentionSize()`.
        name: What to call the pattern. Default: what the mods are called.
        dtype: float32, float16 or bfloat16. Default: float32 on a CPU, float16 elsewhere.
        device: Where to run. Default: the CUDA device where there is one, else the CPU.
        rounds: Samples of each contender; the medians are reported.
        compiled: Whether torch's `flex_attention` takes part, which torch compiles for each pattern.
        checked: Whether results are compared with float64 attention before anything is timed.
        progress: Told what comes next.

    Returns:
        The times of all, the density and the block mask.

    Raises:
        ArgumentError: Neither mod is given, or the dtype is none of the three.
        CheckError: A contender computes something else.

    Example:
        >>> from saccade.masks import causal
        >>> tiny = AttentionSize(1, 2, 256, 256, 16)
        >>> comparison = compare(mask_mod=causal, size=tiny, device="cpu", rounds=1, compiled=False)
        >>> comparison.density, [row.contender for row in comparison.rows]
        (0.75, ['causal flash (SDPA)', 'SDPA + mask', 'saccade (cpu)', 'saccade (eager)'])
    """
    if score_mod is None and mask_mod is None:
        raise ArgumentError(
            "a comparison expects a score_mod or a mask_mod, got neither; for plain attention give "
            "mask_mod=noop_mask"
        )
    where = _device(device)
    kind = dtype or (torch.float32 if where.type == "cpu" else torch.float16)
    if kind not in DTYPES.values():
        raise ArgumentError(f"a comparison runs in {', '.join(DTYPES)}, got dtype={kind}; give one of these")
    fitted, scaling = fit_size(size or AttentionSize(), where)
    title = name or " + ".join(_name_of(mod) for mod in (score_mod, mask_mod) if mod is not None)
    progress(f"{title}: preparing")
    block_mask = make_block_mask(mask_mod, fitted, where)
    work = Workload(score_mod, mask_mod, block_mask, fitted, _inputs(fitted, kind, where))
    entered = contenders(work, compiled=compiled)
    if checked:
        progress(f"{title}: checking")
        require_agreement(work, entered)
    progress(f"{title}: timing")
    rows = _timed(work, entered, rounds)
    return Comparison(title, fitted, scaling, kind, where, block_mask, work.density, checked, rows)


def compare_pattern(
    name: str,
    size: AttentionSize,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    rounds: int = 5,
    compiled: bool = True,
    progress: Callable[[str], object] = lambda step: None,
) -> Comparison:
    """Compare everyone who can compute a pattern of `text_patterns`; see `compare`.

    Args:
        name: The pattern's name.
        size: Sizes wanted: lowered to fit the memory, then to what the pattern needs (an image is square).
        dtype: As for `compare`.
        device: As for `compare`.
        rounds: As for `compare`.
        compiled: As for `compare`.
        progress: As for `compare`.

    Raises:
        ArgumentError: No pattern has the name, or the dtype is none of the three.
        CheckError: A contender computes something else.
    """
    where = _device(device)
    fitted, scaling = fit_size(size, where)
    pattern = text_pattern(name, fitted, where)
    comparison = compare(
        pattern.score_mod,
        pattern.mask_mod,
        pattern.size_within(fitted),
        name=name,
        dtype=dtype,
        device=where,
        rounds=rounds,
        compiled=compiled,
        progress=progress,
    )
    return replace(comparison, scaling=comparison.scaling or scaling)


def report_of(comparisons: list[Comparison]) -> Report:
    """Return comparisons as one report, for its JSON file."""
    found = [measurement for comparison in comparisons for measurement in comparison.measurements()]
    return Report("compare", describe_machine(), tuple(found))


def _timed(work: Workload, entered: list[Contender], rounds: int) -> tuple[Row, ...]:
    """Time all forward passes in turns, then all backward passes in turns."""
    running = {contender.name: contender for contender in entered if contender.attend is not None}
    forward = time_in_turns(
        {name: _forward(contender, work) for name, contender in running.items()}, rounds=rounds
    )
    backward = time_in_turns(
        {name: _backward(one, work) for name, one in running.items() if not one.backward_refusal},
        rounds=rounds,
    )
    return tuple(
        Row(
            contender.name,
            contender.density,
            forward.get(contender.name),
            backward.get(contender.name),
            contender.refusal or contender.backward_refusal,
        )
        for contender in entered
    )


def _forward(contender: Contender, work: Workload) -> Callable[[], object]:
    """The forward pass as one call; on a GPU it ends when the work does."""
    attend, inputs = contender.attend, work.inputs
    assert attend is not None, "contenders that cannot run are not timed"

    def call() -> None:
        attend(*inputs)
        _finish(inputs[0].device)

    return call


def _backward(contender: Contender, work: Workload) -> Callable[[], object]:
    """The backward pass alone as one call, on a graph made before."""
    assert contender.attend is not None, "contenders that cannot run are not timed"
    inputs = work.inputs_with_gradients()
    out = contender.attend(*inputs)
    upstream = torch.ones_like(out)

    def call() -> None:
        torch.autograd.grad(out, inputs, upstream, retain_graph=True)
        _finish(out.device)

    return call


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _inputs(size: AttentionSize, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Seeded normal numbers, the same in every run."""
    generator = torch.Generator().manual_seed(size.q_len + size.kv_len)

    def make(length: int) -> Tensor:
        shape = (size.batch, size.heads, length, size.head_dim)
        return torch.randn(shape, generator=generator, device="cpu").to(device, dtype)

    return make(size.q_len), make(size.kv_len), make(size.kv_len)


def _name_of(mod: Mod) -> str:
    return repr(mod) if isinstance(mod, ModValue) else getattr(mod, "__name__", type(mod).__name__)
