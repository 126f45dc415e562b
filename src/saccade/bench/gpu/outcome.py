"""What a phase of a case came to: times, rates, the floor by arithmetic, and why who is missing is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from saccade.bench.gpu.cases import GpuCase, Phase
from saccade.bench.gpu.ceilings import Ceilings, Cost, Floor
from saccade.bench.gpu.peers import AUTO, OURS
from saccade.bench.report import Measurement, Refusal
from saccade.bench.timing import Timing

__all__ = ["GpuOutcome", "in_a_line"]

_LONGEST = 160  # characters of an error


@final
@dataclass(frozen=True, eq=False)
class GpuOutcome:
    """One phase of a case and everyone in it.

    Attributes:
        case: What was measured.
        phase: Which pass.
        shape: Its sizes by name, those that the pattern took.
        timings: Contender to times, ours first.
        cost: Operations and bytes of a call.
        refusals: Contender to why it did not run.
        failures: Contender to what went wrong: a result that is not right, or an error of ours.
        host_s: Contender to the seconds until a call returned.
        differences: Contender to how far its tiles were from those of the first right one.
        picked: The backend that `auto` picks; None where every one refuses.
        auto_is_ours: Whether that is the one measured as ours, and so not timed again.
        masks: Whose block mask, ours or torch's, to how long it took to make; empty without a mask.
        visible_pairs: Pairs that are computed, over all batches and heads.
        dtype: The name of the inputs' type.
    """

    case: GpuCase
    phase: Phase
    shape: Mapping[str, int]
    timings: Mapping[str, Timing]
    cost: Cost
    refusals: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    host_s: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, float] = field(default_factory=dict)
    picked: str | None = None
    auto_is_ours: bool = False
    masks: Mapping[str, Timing] = field(default_factory=dict)
    visible_pairs: int = 0
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """The phase and the case, as tables and reports call it."""
        return str(self.case) if self.case.is_decode else f"{self.phase.value} {self.case}"

    def rate(self, contender: str) -> float:
        """Operations a second that a contender reached; in decoding bytes a second."""
        work = self.cost.bytes if self.phase is Phase.DECODE else self.cost.flops
        return work / self.timings[contender].median_s

    def peak(self, ceilings: Ceilings) -> float:
        """The ceiling that the rate is held against."""
        return ceilings.copy_bytes if self.phase is Phase.DECODE else ceilings.matrix_flops

    def share(self, contender: str, ceilings: Ceilings) -> float:
        """The part of that ceiling a contender reached."""
        return self.rate(contender) / self.peak(ceilings)

    def floor(self, ceilings: Ceilings) -> Floor:
        """The shortest time by arithmetic."""
        return ceilings.floor(self.cost)

    def ratio(self, peer: str) -> float | None:
        """How many times as long as ours a peer takes; None where one of the two did not run."""
        if peer not in self.timings or OURS not in self.timings:
            return None
        return self.timings[peer].median_s / self.timings[OURS].median_s

    def slowness_of_auto(self) -> float | None:
        """How many times as long as the fastest what `auto` picks takes; None where it was not timed."""
        name = OURS if self.auto_is_ours else AUTO
        if name not in self.timings:
            return None
        return self.timings[name].median_s / min(one.median_s for one in self.timings.values())

    def measurements(self, ceilings: Ceilings) -> list[Measurement]:
        """The times as a report holds them."""
        return [
            Measurement(
                self.name,
                name,
                dict(self.shape),
                timing,
                {**self._rates(name, ceilings), **self._beside(name)},
                {
                    "phase": self.phase.value,
                    "pattern": self.case.pattern,
                    "dtype": self.dtype,
                    "auto_picks": self.picked or "",
                    "bound": self.floor(ceilings).bound.value,
                },
            )
            for name, timing in self.timings.items()
        ]

    def refused(self) -> list[Refusal]:
        """Refusals and failures as a report holds them."""
        failed = {name: f"FAILED: {reason}" for name, reason in self.failures.items()}
        return [Refusal(self.name, name, reason) for name, reason in {**self.refusals, **failed}.items()]

    def _rates(self, name: str, ceilings: Ceilings) -> dict[str, float | int | None]:
        unit = "bytes_s" if self.phase is Phase.DECODE else "flop_s"
        floor = self.floor(ceilings).seconds
        return {
            unit: self.rate(name),
            "share_of_peak": self.share(name, ceilings),
            "floor_s": floor,
            "times_floor": self.timings[name].median_s / floor,
            "times_saccade": self.ratio(name),
            "visible_pairs": self.visible_pairs,
        }

    def _beside(self, name: str) -> dict[str, float | int | None]:
        """What was measured beside the time."""
        masks = {f"{owner}_block_mask_s": timing.median_s for owner, timing in self.masks.items()}
        return {
            "host_s": self.host_s.get(name),
            "tile_difference": self.differences.get(name),
            **masks,
        }


def in_a_line(fault: Exception) -> str:
    """Return an error as a short line: its kind, and how its message begins.

    Example:
        >>> in_a_line(ValueError("first line" + chr(10) + "second line"))
        'ValueError: first line'
    """
    line = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()}…"
