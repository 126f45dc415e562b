"""The contact sheet of `saccade demo --out`: every pattern of the gallery as a small picture.

Apart from the demo because it needs matplotlib, which is optional. Patterns are drawn at their small size,
where their shape shows pair by pair.
"""

from __future__ import annotations

from pathlib import Path

from saccade.bench.patterns import Family, Pattern, Size, demo_patterns
from saccade.block_mask import create_block_mask
from saccade.viz import Panel, contact_sheet, save_figure

__all__ = ["write_gallery"]


def write_gallery(path: Path) -> Path:
    """Draw the gallery.

    Args:
        path: A file ending in .png, .svg or .pdf.

    Returns:
        The path written.

    Raises:
        ArgumentError: The ending is another one, or the file cannot be written.
    """
    patterns = demo_patterns(Size.SMALL)
    groups = {
        family.value: [_panel(pattern) for pattern in patterns if pattern.family is family]
        for family in Family
    }
    sheet = contact_sheet(
        groups,
        "Saccade: the gallery",
        f"Which keys a query sees, and what becomes of its scores: {len(patterns)} patterns made of the "
        "ready-made masks and scores.",
    )
    return save_figure(sheet, path)


def _panel(pattern: Pattern) -> Panel:
    batch = None if pattern.batch == 1 else pattern.batch
    mask = create_block_mask(pattern.mask, batch, None, pattern.q_len, pattern.kv_len, device="cpu")
    return Panel(pattern.name, pattern.extent, mask, pattern.score)
