"""Identities: captured integers renumbered in order of first appearance, for tests of equality.

Equality does not ask how large ids are, intervals do. Documents numbered 7 7 3 3 9 9 become 0 0 1 1 2 2,
which ascend, so that ranges of them are exact. Invariant: two elements of a row are equal if and only if
their new numbers are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

# With more changes than one in so many elements an array is no list of documents.
_LEAST_MEAN_RUN = 4


def renumbered(ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Renumber the ids of each row, a row being everything along the last dimension.

    Args:
        ids: Integers of any shape with one dimension or more.

    Returns:
        int64 of the same shape: new ids, ascending with first appearance from row to row; or `ids` itself
        where its rows ascend already, or where ids change so often that renumbering would not help.

    Example:
        >>> renumbered(np.array([7, 7, 3, 9, 9, 9, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]))
        array([0, 0, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    """
    if ids.size == 0 or (ids[..., :-1] <= ids[..., 1:]).all():
        return ids
    length = ids.shape[-1]
    flat = np.ascontiguousarray(ids).reshape(-1)
    changes = np.ones(len(flat), dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    changes[::length] = True
    begins = np.flatnonzero(changes)
    if len(begins) * _LEAST_MEAN_RUN > len(flat):
        return ids
    _, known = np.unique(flat[begins], return_inverse=True)
    pairs = begins // length * (int(known.max()) + 1) + known  # one number for each (row, id)
    _, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.repeat(rank[which], np.diff(begins, append=len(flat))).reshape(ids.shape)
