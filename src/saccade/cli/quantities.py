"""Numbers as people read them in tables: times, memory, ratios, counts."""

from __future__ import annotations

__all__ = ["counted", "memory", "percent", "seconds", "spread", "times"]


def seconds(value: float) -> str:
    """A time with three significant digits and its unit.

    Example:
        >>> seconds(0.0000312), seconds(0.00452), seconds(12.3456)
        ('31.2 µs', '4.52 ms', '12.3 s')
    """
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if round(abs(value) * scale, 1) < 1000:
            return f"{_three_digits(value * scale)} {unit}"
    return f"{_three_digits(value)} s"


def memory(size: int | float | None) -> str:
    """A number of bytes with its unit, or – where it is not known.

    Example:
        >>> memory(671_088_640), memory(1_500), memory(None)
        ('671 MB', '1.50 kB', '–')
    """
    if size is None:
        return "–"
    for unit, scale in (("B", 1), ("kB", 1e3), ("MB", 1e6)):
        if round(size / scale) < 1000:
            return f"{size} B" if unit == "B" else f"{_three_digits(size / scale)} {unit}"
    return f"{_three_digits(size / 1e9)} GB"


def times(value: float) -> str:
    """A ratio.

    Example:
        >>> times(1234.5), times(1.234)
        ('1,234×', '1.23×')
    """
    return f"{_three_digits(value)}×"


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage with three significant digits.

    Example:
        >>> percent(0.50006), percent(0.00299)
        ('50.0 %', '0.299 %')
    """
    return f"{_three_digits(100 * share)} %"


def spread(share: float | None) -> str:
    """The spread of a timing, as a percentage of its median, or – where there were too few samples.

    Example:
        >>> spread(0.0312), spread(None)
        ('3.12 %', '–')
    """
    return "–" if share is None else percent(share)


def counted(number: int, noun: str) -> str:
    """A number and its noun, plural where due.

    Example:
        >>> counted(1, "block"), counted(2016, "block")
        ('1 block', '2,016 blocks')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent; whole numbers above 100."""
    if value == 0:
        return "0"
    size = abs(value)
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:,.{decimals}f}"
