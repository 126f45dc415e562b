"""The page that explains a mask: one HTML file that holds the mask, its program and what evaluates it.

Owns the page, the data in it and the evaluator that runs in it. Which mask is shown is the caller's choice;
what a mask means is told by its program. It draws nothing in Python.
"""

from saccade.explorer.page import mask_html, write_mask_html

__all__ = ["mask_html", "write_mask_html"]
