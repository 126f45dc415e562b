"""The one look of every table the command line prints."""

from __future__ import annotations

from rich import box
from rich.table import Table

__all__ = ["plain_table"]


def plain_table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table.

    Args:
        columns: The headings; `|r` at the end of one aligns its column to the right, as numbers are.
        title: What stands above the table.

    Example:
        >>> [column.justify for column in plain_table("name", "time|r").columns]
        ['left', 'right']
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        show_edge=False,
        padding=0,
    )
    for column in columns:
        heading, _, alignment = column.partition("|")
        table.add_column(heading, justify="right" if alignment == "r" else "left", no_wrap=alignment == "r")
    return table
