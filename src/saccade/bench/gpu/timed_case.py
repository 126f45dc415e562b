"""One case by everyone in it: called a first time, checked, then timed in turns, a phase after the other.

Whoever is wrong, or stops with an error, is not timed and says why; the others are. A wrong result is a
failure, and so is an error of ours; a peer's error is its refusal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch

from saccade.bench.contenders import Contender, Workload
from saccade.bench.gpu.cases import GpuCase, Phase
from saccade.bench.gpu.check import Consensus, HeadChecks
from saccade.bench.gpu.clock import Clock, Preparation, time_by_turns
from saccade.bench.gpu.mask_times import time_masks
from saccade.bench.gpu.outcome import GpuOutcome, in_a_line
from saccade.bench.gpu.peers import AUTO, OURS, participants, picked
from saccade.bench.gpu.setup import Setup
from saccade.bench.gpu.workloads import cost_of, make_workload
from saccade.bench.timing import Timing
from saccade.errors import CheckError

__all__ = ["time_case"]

_MASK_ROUNDS = 3


@final
@dataclass(eq=False)
class _Entrant:
    """A contender on its way into the timing.

    Attributes:
        contender: Who.
        phases: What is asked of it.
        first_s: Phase to the seconds of its first call.
        difference: How far its tiles are from those of the first right one.
        refusals: Phase to why it does not run there.
        failures: Phase to what went wrong there.
    """

    contender: Contender
    phases: Sequence[Phase]
    first_s: dict[Phase, float] = field(default_factory=dict)
    difference: float | None = None
    refusals: dict[Phase, str] = field(default_factory=dict)
    failures: dict[Phase, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.contender
        for phase in self.phases:
            reason = given.refusal or (given.backward_refusal if phase is Phase.BACKWARD else "")
            if reason:
                self.refusals[phase] = reason

    def runs(self, phase: Phase) -> bool:
        """Whether it takes part in a phase, so far."""
        return phase not in self.refusals and phase not in self.failures

    def drop(self, phase: Phase, fault: Exception) -> None:
        """Leave a phase for an error, or for a wrong result, which fails whoever has it."""
        if isinstance(fault, CheckError):
            self.failures[phase] = str(fault)
            return
        reason = in_a_line(fault)
        (self.failures if self.contender.name == OURS else self.refusals)[phase] = reason
        if phase is Phase.BACKWARD:
            self.contender = replace(self.contender, backward_refusal=reason)


def time_case(case: GpuCase, phases: Sequence[Phase], setup: Setup) -> list[GpuOutcome]:
    """Check everyone in a case, then time them.

    Args:
        case: What to measure.
        phases: Which passes.
        setup: Where, by what clock, and who is measured.

    Returns:
        An outcome a phase.

    Example:
        >>> from saccade.bench.gpu.clock import HostClock
        >>> host = Setup(torch.device("cpu"), HostClock(), "eager", torch.float32, compiled=False, rounds=1)
        >>> (outcome,) = time_case(GpuCase("causal", 32, 16, 1, 2, 2), [Phase.FORWARD], host)
        >>> sorted(outcome.timings), outcome.cost.flops == 4 * 2 * (32 * 33 // 2) * 16
        (['SDPA flash', 'auto', 'saccade'], True)
    """
    if setup.compiled:
        # Of another case's sizes, torch would make kernels for sizes that vary.
        torch.compiler.reset()
    work = make_workload(case, setup.device, setup.dtype)
    masks = time_masks(case, work, setup.clock, setup.device, rounds=min(setup.rounds, _MASK_ROUNDS))
    picks = {phase: picked(work, gradients=phase is Phase.BACKWARD) for phase in phases}
    entered = _entrants(case, work, setup, picks)
    return [_time_phase(phase, case, work, entered, picks[phase], masks, setup) for phase in phases]


def _entrants(
    case: GpuCase, work: Workload, setup: Setup, picks: Mapping[Phase, str | None]
) -> list[_Entrant]:
    """Everyone after first calls and both checks; what `auto` picks only where it is not measured as ours."""
    phases = tuple(picks)
    gradients = Phase.BACKWARD in phases
    is_ours = set(picks.values()) == {setup.engine}
    heads, consensus = HeadChecks(work, gradients=gradients), Consensus(work, gradients=gradients)
    entered = [
        _Entrant(contender, phases)
        for contender in participants(case, work, backend=setup.engine, compiled=setup.compiled)
        if not (is_ours and contender.name == AUTO)
    ]
    # Peers first: what ours is held against, where no oracle looks, is not its own.
    for one in sorted(entered, key=lambda one: one.contender.name in (OURS, AUTO)):
        for phase in filter(one.runs, phases):
            try:
                one.first_s[phase] = _first_call(_preparation(phase, one.contender, work)(), setup.clock)
            except Exception as fault:  # whatever it meets: the others are measured all the same
                one.drop(phase, fault)
        if one.first_s:
            try:
                heads(one.contender)
                one.difference = consensus(one.contender)
            except Exception as fault:
                for phase in filter(one.runs, phases):
                    one.drop(phase, fault)
    return entered


def _time_phase(
    phase: Phase,
    case: GpuCase,
    work: Workload,
    entered: Sequence[_Entrant],
    choice: str | None,
    masks: Mapping[str, Timing],
    setup: Setup,
) -> GpuOutcome:
    """Time those that are right."""
    is_ours = choice == setup.engine
    running = [one for one in entered if one.runs(phase) and not (is_ours and one.contender.name == AUTO)]
    turns = time_by_turns(
        {one.contender.name: _preparation(phase, one.contender, work) for one in running},
        setup.clock,
        rounds=setup.rounds,
        limit_s=setup.limit_s,
        first_s={one.contender.name: one.first_s[phase] for one in running},
    )
    return GpuOutcome(
        case,
        phase,
        {**work.size.as_dict(), "kv_heads": work.inputs[1].shape[1]},
        turns.timings,
        cost_of(work, phase),
        refusals={one.contender.name: one.refusals[phase] for one in entered if phase in one.refusals},
        failures={one.contender.name: one.failures[phase] for one in entered if phase in one.failures},
        host_s=turns.host_s,
        differences={one.contender.name: one.difference for one in running if one.difference is not None},
        picked=choice,
        auto_is_ours=is_ours,
        masks=masks,
        visible_pairs=work.visible_pairs,
        dtype=str(setup.dtype).removeprefix("torch."),
    )


def _preparation(phase: Phase, contender: Contender, work: Workload) -> Preparation:
    """What is timed: a forward pass without gradients, or the backward pass on a graph made for it.

    A graph serves once: torch's compiled functions give its memory away while they walk it.
    """
    attend = contender.attend
    assert attend is not None, "contenders that cannot run are not timed"
    if phase is not Phase.BACKWARD:
        return lambda: partial(attend, *work.inputs)
    inputs = work.inputs_with_gradients()
    query = inputs[0]
    generator = torch.Generator(query.device).manual_seed(2)
    upstream = torch.randn(query.shape, generator=generator, device=query.device).to(query.dtype)

    def prepare() -> Callable[[], object]:
        return partial(torch.autograd.grad, attend(*inputs), inputs, upstream)

    return prepare


def _first_call(call: Callable[[], object], clock: Clock) -> float:
    """Seconds of a call on the host's clock, whatever it compiles, until the device is done."""
    clock.finish()
    start = time.perf_counter()
    call()
    clock.finish()
    return time.perf_counter() - start
