"""The whole run on a GPU: the ceilings, then case after case while the time lasts, then the ceilings again.

Owns the budget. A case is begun only where the longest one so far would still end in time; what is left is
named in the result. An error inside a case ends the case, not the run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from saccade.bench.gpu.cases import GpuCase, Selection
from saccade.bench.gpu.ceilings import Ceilings, measure_ceilings
from saccade.bench.gpu.outcome import GpuOutcome, in_a_line
from saccade.bench.gpu.peers import AUTO, OURS
from saccade.bench.gpu.setup import Setup, describe_card
from saccade.bench.gpu.timed_case import time_case
from saccade.bench.machine import Machine
from saccade.bench.report import Refusal, Report
from saccade.errors import ArgumentError

__all__ = ["GpuRun", "bench_gpu"]

_CLOSING_S = 10.0  # kept for the second measurement of the ceilings, the tables and the files

_STAND_IN = {"side": 512, "copied": 2**24, "rounds": 3}


@final
@dataclass(frozen=True, eq=False)
class GpuRun:
    """What a run found.

    Attributes:
        machine: What it ran on, the driver among its versions.
        card: The card's numbers by name with unit.
        engine: The backend that was measured as ours.
        ceilings: The card's limits, the larger of two measurements: before all cases and after them.
        outcomes: One a phase of a case, in the order measured.
        left: The cases for which there was no time.
        broken: Name of a case to the error that ended it.
        minutes: The time there was.
    """

    machine: Machine
    card: dict[str, float | int | None]
    engine: str
    ceilings: Ceilings
    outcomes: tuple[GpuOutcome, ...]
    left: tuple[GpuCase, ...]
    broken: dict[str, str]
    minutes: float

    @property
    def is_right(self) -> bool:
        """Whether everything of this library that ran was right, and no case broke."""
        return not self.broken and not any({OURS, AUTO} & one.failures.keys() for one in self.outcomes)

    def report(self) -> Report:
        """Everything as plain numbers, for the JSON file."""
        unmeasured = [
            *(Refusal(str(case), "everyone", self._out_of_time()) for case in self.left),
            *(Refusal(case, "everyone", f"FAILED: {reason}") for case, reason in self.broken.items()),
        ]
        return Report(
            "gpu",
            self.machine,
            tuple(one for outcome in self.outcomes for one in outcome.measurements(self.ceilings)),
            (*(one for outcome in self.outcomes for one in outcome.refused()), *unmeasured),
            {**self.ceilings.as_json(), **self.card},
        )

    def _out_of_time(self) -> str:
        return f"the {self.minutes:g} minutes of the run were spent"


def bench_gpu(
    setup: Setup,
    selection: Selection | None = None,
    *,
    minutes: float = 9.0,
    ceilings: Callable[[Setup], Ceilings] | None = None,
    progress: Callable[[str, int, int], object] = lambda step, done, steps: None,
) -> GpuRun:
    """Measure the GPU engine beside its peers and beside the card's own limits.

    Args:
        setup: Where, by what clock, and who is measured.
        selection: Which cases. Default: all, the most important first.
        minutes: How long the run may take. The first case is measured in any case.
        ceilings: Measures the limits. Default: at full size, on the setup's device.
        progress: Told what comes next, how many steps are done, and how many there are.

    Returns:
        Times, refusals, limits, and what was left.

    Raises:
        ArgumentError: `minutes` is not above 0.

    Example:
        >>> from saccade.bench.gpu.cases import Phase
        >>> from saccade.bench.gpu.clock import HostClock
        >>> host = Setup(torch.device("cpu"), HostClock(), "eager", torch.float32, compiled=False, rounds=1)
        >>> tiny = Selection(("causal",), (32,), (16,), only=Phase.FORWARD, tokens=32, width=32)
        >>> run = bench_gpu(host, tiny, ceilings=lambda setup: Ceilings(1e12, 1e11))
        >>> [outcome.name for outcome in run.outcomes], run.left
        (['forward causal S=32 D=16 B=1 H=2'], ())
    """
    if not minutes > 0.0:
        raise ArgumentError(f"minutes must be above 0, got minutes={minutes:g}")
    measure = ceilings or _measured_ceilings
    chosen, started = selection or Selection(), time.monotonic()
    cases = chosen.cases()
    steps = len(cases) + 2
    progress("the card's limits", 0, steps)
    limits = measure(setup)
    outcomes: list[GpuOutcome] = []
    broken: dict[str, str] = {}
    left: tuple[GpuCase, ...] = ()
    longest = 0.0
    for number, case in enumerate(cases):
        begun = time.monotonic()
        if number and begun - started + longest + _CLOSING_S > 60.0 * minutes:
            left = cases[number:]
            break
        progress(str(case), number + 1, steps)
        try:
            outcomes += time_case(case, chosen.phases(case), setup)
        except (
            Exception
        ) as fault:  # memory that does not suffice, a device that gave up: what was found stays
            broken[str(case)] = in_a_line(fault)
        _free_memory(setup.device)
        longest = max(longest, time.monotonic() - begun)
    progress("the card's limits, again", steps - 1, steps)
    try:
        limits = limits.larger(measure(setup))
    except RuntimeError as fault:
        broken["the card's limits, again"] = in_a_line(fault)
    progress("done", steps, steps)
    machine, card = describe_card(setup.device)
    return GpuRun(machine, card, setup.engine, limits, tuple(outcomes), left, broken, minutes)


def _measured_ceilings(setup: Setup) -> Ceilings:
    """The limits of the device: at sizes that fill a card, or at some that a stand-in does in a moment."""
    sizes = {} if setup.device.type == "cuda" else _STAND_IN
    return measure_ceilings(setup.clock, setup.device, **sizes)


def _free_memory(device: torch.device) -> None:
    """Hand back what a case held, graphs in rings among it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
