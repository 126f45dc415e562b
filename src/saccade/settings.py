"""Every environment variable that Saccade reads: its name, type, default and meaning.

A setting is read when it is used, never at import, so a change of `os.environ` counts from the next call on.
No other module looks at the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from saccade.errors import SettingError

__all__ = [
    "BEST_ISA",
    "CACHE_DIR",
    "CPU_ISA",
    "EAGER_LIMIT",
    "GPU_CHECKS",
    "SETTINGS",
    "TRITON_INTERPRET",
    "USER_CACHE",
    "Setting",
    "SettingReport",
    "report",
    "user_cache_directory",
]

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
        ['SACCADE_EAGER_LIMIT', 'SACCADE_CPU_ISA', 'SACCADE_CACHE_DIR', 'SACCADE_GPU_CHECKS']
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

USER_CACHE = "user"
"""The value of `CACHE_DIR` that stands for the user's own directory, `user_cache_directory()`."""


def _directory(text: str) -> str:
    if text == USER_CACHE:
        return text
    try:
        path = Path(text).expanduser()
    except RuntimeError as fault:  # nobody's home
        raise ValueError(str(fault)) from None
    if not path.is_absolute():
        raise ValueError(f"{text} is relative")
    return str(path)


CACHE_DIR = Setting(
    name="SACCADE_CACHE_DIR",
    default=USER_CACHE,
    parse=_directory,
    accepts=f"an absolute path, or {USER_CACHE!r}",
    meaning="Where the sources of GPU kernels and the choices of tiles are kept; 'user' is the directory "
    "saccade in XDG_CACHE_HOME, or in ~/.cache.",
)


def _switch(text: str) -> bool:
    known = {"1": True, "on": True, "true": True, "0": False, "off": False, "false": False}
    if text.lower() not in known:
        raise ValueError(f"{text} is neither on nor off")
    return known[text.lower()]


GPU_CHECKS = Setting(
    name="SACCADE_GPU_CHECKS",
    default=False,
    parse=_switch,
    accepts="0 or 1",
    meaning="Whether GPU kernels raise where a mod reads a tensor out of range or divides by zero; each call "
    "then waits for the device.",
)


def user_cache_directory() -> Path | None:
    """Return `saccade` in the directory where this user's programs keep what can be made again.

    That is `XDG_CACHE_HOME`, or `~/.cache` where it is unset, empty or relative (XDG Base Directory
    Specification 0.8); None if there is no home directory, or `HOME` is empty or relative.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "saccade"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    # Python takes an empty HOME for the root directory.
    if os.environ.get("HOME") == "" or not home.is_absolute():
        return None
    return home / ".cache" / "saccade"


TRITON_INTERPRET = Setting(
    name="TRITON_INTERPRET",
    default=False,
    parse=lambda text: text.lower() in ("1", "on", "true", "y", "yes"),
    accepts="anything, as triton does",
    meaning="Whether triton interprets its kernels on the CPU; triton reads it when it is imported.",
)
"""Triton's own variable, read here before triton is; not among Saccade's settings."""

SETTINGS: tuple[Setting[object], ...] = (EAGER_LIMIT, CPU_ISA, CACHE_DIR, GPU_CHECKS)
"""Every setting there is, in the order they are listed to people."""
