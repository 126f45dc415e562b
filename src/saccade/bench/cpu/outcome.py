"""What a case of the CPU measurements came to: times, refusals, and rates against the processor's limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from saccade.bench.cpu.peaks import Peaks
from saccade.bench.report import Measurement, Refusal
from saccade.bench.timing import Timing

__all__ = ["Limit", "Outcome"]


class Limit(str, Enum):
    """What the processor has too little of."""

    MULTIPLY_ADD = "multiply-add"  # work in floating-point operations
    BANDWIDTH = "bandwidth"  # work in bytes read
    NONE = "none"  # what is measured is no rate


@final
@dataclass(frozen=True, eq=False)
class Outcome:
    """One case and everyone in it.

    Attributes:
        name: The case, as tables and reports call it.
        group: The table it belongs to: "forward", "decode", "overhead", "tiny", "first call", "memory".
        shape: Its sizes by name.
        labels: The rest of what sorts it, by name.
        timings: Contender to times, ours first.
        refusals: Contender to why it did not run.
        limit: What bounds its speed.
        work: Operations or bytes of one call, as `limit` counts them; 0 without a limit.
        facts: Contender to other numbers, by name with unit.
    """

    name: str
    group: str
    shape: Mapping[str, int]
    labels: Mapping[str, str]
    timings: Mapping[str, Timing]
    refusals: Mapping[str, str] = field(default_factory=dict)
    limit: Limit = Limit.NONE
    work: float = 0.0
    facts: Mapping[str, Mapping[str, float | int | None]] = field(default_factory=dict)

    def rate(self, contender: str) -> float:
        """Operations or bytes a second that a contender reached."""
        return self.work / self.timings[contender].median_s

    def share(self, contender: str, peaks: Peaks) -> float | None:
        """The part of the limit it reached; None without a limit, or where that was not measured."""
        peak = self.peak(peaks)
        return None if peak is None else self.rate(contender) / peak

    def peak(self, peaks: Peaks) -> float | None:
        """The limit itself, in operations or bytes a second."""
        if self.limit is Limit.MULTIPLY_ADD:
            return peaks.flops(self.labels["dtype"])
        return peaks.read_bytes if self.limit is Limit.BANDWIDTH else None

    def ratio(self, peer: str, ours: str) -> float | None:
        """How many times as long as ours a peer takes; None where one of the two did not run."""
        if peer not in self.timings or ours not in self.timings:
            return None
        return self.timings[peer].median_s / self.timings[ours].median_s

    def measurements(self, peaks: Peaks) -> list[Measurement]:
        """The times as a report holds them."""
        return [
            Measurement(
                self.name,
                name,
                dict(self.shape),
                timing,
                {**self._rates(name, peaks), **self.facts.get(name, {})},
                dict(self.labels),
            )
            for name, timing in self.timings.items()
        ]

    def refused(self) -> list[Refusal]:
        """The refusals as a report holds them."""
        return [Refusal(self.name, contender, reason) for contender, reason in self.refusals.items()]

    def _rates(self, contender: str, peaks: Peaks) -> dict[str, float | int | None]:
        if self.limit is Limit.NONE:
            return {}
        unit = "flop_s" if self.limit is Limit.MULTIPLY_ADD else "bytes_s"
        return {unit: self.rate(contender), "share_of_peak": self.share(contender, peaks)}
