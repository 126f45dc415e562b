"""Pictures with matplotlib: attention scores, block masks, many masks on one sheet, and speeds.

Not imported by `import saccade`: matplotlib is optional (`pip install 'saccade[viz]'`). Every function
returns a `Figure` or writes a file; none opens a window or touches `matplotlib.pyplot`, so they work without
a screen and leave a user's own plots alone.
"""

from saccade.viz.attention_scores import plot_attention_scores, visualize_attention_scores
from saccade.viz.block_mask import plot_block_mask
from saccade.viz.canvas import save_figure
from saccade.viz.contact_sheet import Panel, contact_sheet
from saccade.viz.speed import SpeedChart, plot_speeds

__all__ = [
    "Panel",
    "SpeedChart",
    "contact_sheet",
    "plot_attention_scores",
    "plot_block_mask",
    "plot_speeds",
    "save_figure",
    "visualize_attention_scores",
]
