"""Checks for the tests of those who write masks: are two masks the same, and if not, where do they part.

Owns the reading of every form in which a mask exists and the comparison of two. It computes no attention.
"""

from saccade.testing.difference import MaskDifference, assert_same_mask, compare_masks
from saccade.testing.sides import MaskLike

__all__ = ["MaskDifference", "MaskLike", "assert_same_mask", "compare_masks"]
