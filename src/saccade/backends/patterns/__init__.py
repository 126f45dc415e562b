"""Patterns that a library's kernel computes by itself, recognised in what a problem's programs say.

Recognition reads structures, numbers and facts about captured tensors, never names. It is sound and not
complete: what it returns hides exactly what the programs hide; where it is not sure it returns nothing.
"""

from saccade.backends.patterns.aligned import Aligned, aligned
from saccade.backends.patterns.contents import contents_of
from saccade.backends.patterns.exact import Documents, Pattern, exact_pattern

__all__ = ["Aligned", "Documents", "Pattern", "aligned", "contents_of", "exact_pattern"]
