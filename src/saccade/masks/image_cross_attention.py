"""Cross attention from text to the images inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, DTypeError, ShapeError
from saccade.masks.base import Mask
from saccade.masks.vector import integer_vector, owner_of_each, require_lengths
from saccade.mod_value import is_integral, require_at_least

__all__ = ["image_cross_attention", "image_intervals"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class image_cross_attention(Mask):
    """Show a text token the images whose interval it lies in.

    Queries are text tokens; keys are the tokens of the images, image after image. Query i keeps every key of
    each image n with `intervals[n][0] <= i < intervals[n][1]`; a query in no interval, as before the first
    image, keeps none, and its output is 0. Positions of queries and keys count different things, so causality
    has no meaning here; the intervals of `image_intervals` never show text an image that comes later. The
    masked cross attention of Flamingo (arXiv 2204.14198), with intervals as Llama 3.2 Vision takes them.

    Args:
        intervals: First text token that sees the image, and the first after it that does not, for each
            image: pairs of ints, or an integer tensor `[images, 2]`. Read once, now; of ints the tables are
            made on the CPU.
        image_lengths: Tokens of each image: an int for all, ints, or an integer tensor `[images]`. Read once,
            now.

    Raises:
        ArgumentError: There are not as many lengths as intervals, or a length is negative.
        ArgumentTypeError: `image_lengths` is neither an int nor a sequence.
        DTypeError: Numbers are not integers.
        ShapeError: `intervals` is not `[images, 2]`, or `image_lengths` has more than one axis.

    Example:
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(5)
        >>> image_cross_attention([[0, 2], [1, 4]], image_lengths=[2, 3])(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0, 0, 0],
                [1, 1, 1, 1, 1],
                [0, 0, 1, 1, 1],
                [0, 0, 1, 1, 1]], dtype=torch.int32)
    """

    intervals: Sequence[Sequence[int]] | Tensor
    image_lengths: int | Sequence[int] | Tensor
    usage: ClassVar[str] = "image_cross_attention(intervals=[[0, 7], [7, 12]], image_lengths=576)"
    _first: Tensor = field(init=False, repr=False, compare=False)  # [K] int64: of the key's image
    _stop: Tensor = field(init=False, repr=False, compare=False)  # [K] int64

    def __post_init__(self) -> None:
        # Tuples, so that the value hashes and the caller's lists cannot change under it.
        if not isinstance(self.intervals, Tensor):
            object.__setattr__(self, "intervals", tuple(tuple(pair) for pair in self.intervals))
        if isinstance(self.image_lengths, Sequence):
            object.__setattr__(self, "image_lengths", tuple(self.image_lengths))
        intervals = _pairs(self.intervals)
        lengths = self._lengths(len(intervals)).to(intervals.device)
        if len(lengths) != len(intervals):
            raise ArgumentError(
                "image_cross_attention(): image_lengths must have a number for each of the "
                f"{len(intervals)} intervals, got {len(lengths)}; give an int where all are equal"
            )
        require_lengths(lengths, "image_cross_attention()", "image_lengths")
        of_key = intervals[owner_of_each(lengths)]
        object.__setattr__(self, "_first", of_key[:, 0].contiguous())
        object.__setattr__(self, "_stop", of_key[:, 1].contiguous())

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= self._first[kv_idx]) & (q_idx < self._stop[kv_idx])

    def _lengths(self, images: int) -> Tensor:
        """[images] int64: the tokens of each image."""
        if isinstance(self.image_lengths, (Sequence, Tensor)):
            return integer_vector(self.image_lengths, "image_cross_attention(): image_lengths")
        require_at_least(0, self.image_lengths, "image_cross_attention(): image_lengths")
        return torch.full((images,), self.image_lengths, dtype=torch.int64, device="cpu")

    @classmethod
    def from_tokens(
        cls,
        tokens: Sequence[int] | Tensor,
        image_token: int,
        image_lengths: int | Sequence[int] | Tensor,
    ) -> image_cross_attention:
        """Make the mask of a text with image tokens in it: that of `image_intervals(tokens, image_token)`.

        Args:
            tokens: The text, ints or an integer tensor `[Q]`.
            image_token: The token that stands for an image.
            image_lengths: Tokens of each image, in order of their image tokens, as for the class.

        Returns:
            The mask. Text from an image's token on keeps that image's keys, to the next run of images.

        Example:
            >>> image_cross_attention.from_tokens([7, 1, 8, 1, 9], image_token=1, image_lengths=2)
            image_cross_attention(intervals=[(1, 3), (3, 5)], image_lengths=2)
        """
        return cls(image_intervals(tokens, image_token), image_lengths)


def image_intervals(tokens: Sequence[int] | Tensor, image_token: int) -> list[list[int]]:
    """Return which text sees each image: from its image token to the next image that text separates from it.

    Images whose tokens are adjacent form a run; all of a run are seen up to the next run, or the end.

    Args:
        tokens: The text, ints or an integer tensor `[Q]`.
        image_token: The token that stands for an image.

    Returns:
        A pair [first, stop] for each image token, in order: for `image_cross_attention`.

    Raises:
        DTypeError: `tokens` are not integers.
        ShapeError: `tokens` has not one axis.

    Example:
        >>> image_intervals([1, 1, 9673, 527, 1403, 12875, 13, 1, 1115, 374, 264, 8415], image_token=1)
        [[0, 7], [1, 7], [7, 12]]
    """
    text = integer_vector(tokens, "image_intervals(): tokens").tolist()
    intervals: list[list[int]] = []
    stop = len(text)
    for place in range(len(text) - 1, -1, -1):
        if text[place] != image_token:
            continue
        intervals.append([place, stop])
        if place > 0 and text[place - 1] != image_token:
            stop = place
    return intervals[::-1]


def _pairs(intervals: Sequence[Sequence[int]] | Tensor) -> Tensor:
    """[images, 2] int64."""
    name = "image_cross_attention(): intervals"
    # The device is named because torch.set_default_device may have made another one the default.
    if isinstance(intervals, Tensor):
        pairs = intervals
    elif len({len(pair) for pair in intervals}) > 1:
        raise ShapeError(
            f"{name} must be pairs, got {[list(pair) for pair in intervals]}; give [first, stop]"
        )
    else:
        pairs = torch.tensor(intervals, device="cpu") if intervals else torch.zeros(0, 2, device="cpu").long()
    if not is_integral(pairs):
        raise DTypeError(f"{name} must be of an integer dtype, got dtype={pairs.dtype}; give token positions")
    if pairs.dim() != 2 or pairs.shape[1] != 2:
        raise ShapeError(f"{name} must be [images, 2], got shape={list(pairs.shape)}; give [first, stop]")
    return pairs.long()
