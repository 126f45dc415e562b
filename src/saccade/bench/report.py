"""Benchmark results as one value and one JSON file.

Owns the format: a report names the machine and the versions, and holds one `Measurement` a case and
contender, with its shape, its timing and what else was measured. Later versions may add keys, not change any.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from saccade.bench.machine import Machine
from saccade.bench.timing import Timing
from saccade.errors import ArgumentError

__all__ = ["Measurement", "Refusal", "Report", "ratio", "require_writable"]

FORMAT = 1
"""The number of the file format, for those who read many reports."""


@dataclass(frozen=True)
class Measurement:
    """What one contender did in one case.

    Attributes:
        case: What was done, such as "causal, 8192 tokens". Contenders of equal case are comparable.
        contender: Who did it, such as "saccade" or "torch, eager".
        shape: The sizes that the time depends on, by name.
        timing: Its times.
        facts: Other measured numbers, by name with unit: "mask_bytes", "peak_bytes".
        labels: What sorts the case beside its shape, by name: "dtype", "pattern".
    """

    case: str
    contender: str
    shape: dict[str, int]
    timing: Timing
    facts: dict[str, float | int | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The measurement as plain data."""
        return {
            "case": self.case,
            "contender": self.contender,
            "shape": self.shape,
            **self.timing.as_json(),
            "facts": self.facts,
            "labels": self.labels,
        }


@dataclass(frozen=True)
class Refusal:
    """A contender that did not run in a case, and why."""

    case: str
    contender: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The outcome of one benchmark run.

    Attributes:
        benchmark: Its name.
        machine: What it ran on.
        measurements: One a case and contender; contenders of a case follow each other.
        refusals: Who did not run, and why.
        facts: What was measured of the machine itself, by name with unit.
    """

    benchmark: str
    machine: Machine
    measurements: tuple[Measurement, ...]
    refusals: tuple[Refusal, ...] = ()
    facts: dict[str, float | int | None] = field(default_factory=dict)

    def write_json(self, path: Path) -> None:
        """Write the report as JSON, replacing the file.

        Raises:
            ArgumentError: The file cannot be written.
        """
        content = {
            "format": FORMAT,
            "benchmark": self.benchmark,
            "machine": self.machine.as_json(),
            "facts": self.facts,
            "measurements": [measurement.as_json() for measurement in self.measurements],
            "refusals": [dataclasses.asdict(refusal) for refusal in self.refusals],
        }
        try:
            path.write_text(json.dumps(content, indent=1) + "\n")
        except OSError as fault:
            raise _unwritable(path, fault.strerror) from fault


def require_writable(path: Path) -> None:
    """Raise ArgumentError where a report cannot be written: before long work rather than after it.

    Args:
        path: The file; it is neither made nor touched.

    Raises:
        ArgumentError: The file cannot be written.

    Example:
        >>> require_writable(Path("report.json"))
        >>> require_writable(Path("nowhere/report.json"))
        Traceback (most recent call last):
        ...
        saccade.errors.ArgumentError: expected a file that can be written, got 'nowhere/report.json': ...
    """
    if path.is_dir():
        reason = errno.EISDIR
    elif not path.parent.is_dir():
        reason = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = errno.EACCES
    else:
        return
    raise _unwritable(path, os.strerror(reason))


def _unwritable(path: Path, reason: str | None) -> ArgumentError:
    return ArgumentError(
        f"expected a file that can be written, got {str(path)!r}: {reason}; name another one"
    )


def ratio(slower: Measurement, faster: Measurement) -> float:
    """Return how many times longer the median of one measurement is than that of another."""
    return slower.timing.median_s / faster.timing.median_s
