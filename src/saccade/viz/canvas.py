"""What every picture is drawn on: figures that no window owns, colours, and files.

The colours are told apart by the colour-blind: blue against orange for kinds of blocks, viridis for numbers,
and a paper colour that neither of them holds for what is hidden.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import final

import numpy as np

from saccade.block_mask.markup import KIND_COLOURS
from saccade.errors import ArgumentError, MissingPackageError

try:
    from matplotlib import colormaps
    from matplotlib.axis import XAxis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
except ImportError as fault:
    raise MissingPackageError(
        f"saccade.viz needs matplotlib, which cannot be imported ({fault}); "
        "install it with: pip install 'saccade[viz]'"
    ) from fault

__all__ = [
    "DPI",
    "INK",
    "KINDS",
    "NUMBERS",
    "PAPER",
    "Line2D",
    "MaxNLocator",
    "XAxis",
    "new_figure",
    "require_picture_file",
    "save_figure",
    "share_colours",
    "tint",
]

DPI = 150
PAPER = KIND_COLOURS[0]
INK = "#2b2a27"
_FORMATS = (".png", ".svg", ".pdf")

# Without the brightest yellow, which would be close to the paper.
NUMBERS: Colormap = ListedColormap(
    colormaps["viridis"](np.linspace(0.0, 0.93, 256)), name="numbers"
).with_extremes(bad=PAPER)
"""From low to high; hidden pairs are paper."""

KINDS: Colormap = ListedColormap(KIND_COLOURS, name="kinds")
"""Empty, partial and full, for 0, 1 and 2."""


@final
class _NotebookFigure(Figure):
    """A figure that notebooks show by themselves: matplotlib's own ask for `%matplotlib inline` first."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, drawn by Agg whatever backend is set."""
    figure = _NotebookFigure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tint(colour: str) -> Colormap:
    """Return the colours from paper to `colour`, for shares in [0, 1]."""
    return LinearSegmentedColormap.from_list("tint", [PAPER, colour])


def share_colours(shares: np.ndarray) -> np.ndarray:
    """Return shares as depths of colour in [0, 1]: anything visible stands out from nothing at all.

    Example:
        >>> share_colours(np.array([0.0, 0.0001, 1.0])).round(2).tolist()
        [0.0, 0.3, 1.0]
    """
    return np.where(shares > 0, 0.3 + 0.7 * shares, 0.0)


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure to a file; its ending says as what.

    Args:
        figure: What to write.
        path: A file ending in .png, .svg or .pdf. Missing directories are made.

    Returns:
        The path written.

    Raises:
        ArgumentError: The ending is another one, or the file cannot be written.
    """
    path = Path(path)
    require_picture_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as fault:
        raise ArgumentError(
            f"expected a file that can be written, got path={str(path)!r} ({fault.strerror}); choose another"
        ) from fault
    return path


def require_picture_file(path: Path) -> None:
    """Raise ArgumentError where a file's ending names no format: before long work rather than after it."""
    if path.suffix.lower() not in _FORMATS:
        raise ArgumentError(
            f"expected a file ending in {', '.join(_FORMATS)}, got path={str(path)!r}; rename it"
        )
