"""Every environment variable that Saccade reads: its name, type, default and meaning.

A setting is read when it is used, never at import, so a change of `os.environ` counts from the next call on.
No other module looks at the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from saccade.errors import SettingError

__all__ = ["BEST_ISA", "CPU_ISA", "EAGER_LIMIT", "SETTINGS", "Setting", "SettingReport", "report"]

T = TypeVar("T", covariant=True)  # a setting is read, never assigned


@dataclass(frozen=True)
class Setting(Generic[T]):
    """One environment variable.

    Args:
        name: The variable's name.
        default: What `read` returns when the variable is unset or empty.
        parse: Turns the variable's text into a value; raises ValueError on a bad one.
        accepts: The values `parse` admits, in words, for the error message.
        meaning: What the value decides, in one sentence.

    Example:
        >>> EAGER_LIMIT.name
        'SACCADE_EAGER_LIMIT'
    """

    name: str
    default: T
    parse: Callable[[str], T]
    accepts: str
    meaning: str

    def read(self) -> T:
        """Return the variable's present value.

        Raises:
            SettingError: the variable holds a text that its type does not admit.
        """
        text = os.environ.get(self.name, "").strip()
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError as fault:
            raise SettingError(
                f"{self.name} must be {self.accepts}, but {self.name}={text!r}; "
                f"correct it, or unset it for the default {self.default!r}."
            ) from fault


@dataclass(frozen=True)
class SettingReport:
    """The state of one setting, for people: `problem` is the error message when the value is bad."""

    name: str
    value: str
    is_default: bool
    meaning: str
    problem: str | None


def report() -> tuple[SettingReport, ...]:
    """Describe every setting as the environment has it now; a bad value is reported, not raised.

    Example:
        >>> [row.name for row in report()]
        ['SACCADE_EAGER_LIMIT', 'SACCADE_CPU_ISA']
    """
    return tuple(_report_one(setting) for setting in SETTINGS)


def _report_one(setting: Setting[object]) -> SettingReport:
    try:
        value = setting.read()
    except SettingError as fault:
        return SettingReport(setting.name, os.environ[setting.name], False, setting.meaning, str(fault))
    return SettingReport(setting.name, str(value), value == setting.default, setting.meaning, None)


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


EAGER_LIMIT = Setting(
    name="SACCADE_EAGER_LIMIT",
    default=2**24,
    parse=_natural,
    accepts="an integer of 0 or more",
    meaning="The most scores (batch * query heads * queries * keys) for which backend='auto' takes 'eager', "
    "which holds them all in memory.",
)

BEST_ISA = "best"
"""The value of `CPU_ISA` that leaves the choice to the processor."""

_ISA_NAMES = (BEST_ISA, "avx512_bf16", "avx512", "avx2", "baseline")


def _isa_name(text: str) -> str:
    if text not in _ISA_NAMES:
        raise ValueError(f"{text} is no instruction set")
    return text


CPU_ISA = Setting(
    name="SACCADE_CPU_ISA",
    default=BEST_ISA,
    parse=_isa_name,
    accepts=f"one of {', '.join(_ISA_NAMES)}",
    meaning="The instruction set that CPU kernels are compiled for; 'best' is the best that the host runs.",
)

SETTINGS: tuple[Setting[object], ...] = (EAGER_LIMIT, CPU_ISA)
"""Every setting there is, in the order they are listed to people."""
