"""The captured tensors of a page, each written once.

Owns their form in the page: little-endian bytes as base64, half types widened to float32. It bounds what they
take together, so that a page stays something a browser opens.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, final

import numpy as np
import numpy.typing as npt

from saccade.block_mask.snapshot import host_array
from saccade.errors import ArgumentError
from saccade.ir.program import Array, Program
from saccade.ir.text import capture_names

__all__ = ["MOST_BYTES", "CapturedData", "encoded"]

MOST_BYTES = 64 << 20
"""Bytes that the captured tensors of a page may take together, before base64, and its blocks likewise."""


def encoded(values: npt.NDArray[Any]) -> str:
    """Write the bytes of an array as base64, little-endian.

    Example:
        >>> encoded(np.array([1, 256], dtype=np.int16))
        'AQAAAQ=='
    """
    return base64.b64encode(_little_endian(values)).decode("ascii")


def _little_endian(values: npt.NDArray[Any]) -> bytes:
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


@final
class CapturedData:
    """Collects the captured tensors of the programs of one page. What each is called is the programs' own."""

    def __init__(self) -> None:
        self.entries: list[dict[str, object]] = []
        self._known: dict[tuple[object, ...], int] = {}
        self._nbytes = 0

    def add(self, program: Program) -> tuple[list[int], list[npt.NDArray[Any]]]:
        """Add a program's captures.

        Args:
            program: The program.

        Returns:
            The number of each capture among the entries, by slot, and the captures as numpy arrays.

        Raises:
            ArgumentError: All captures together take more than `MOST_BYTES`.
        """
        arrays = [_widened(capture) for capture in program.captures]
        names = capture_names(len(arrays), program.names)
        return [self._slot(name, values) for name, values in zip(names, arrays, strict=True)], arrays

    def _slot(self, name: str, values: npt.NDArray[Any]) -> int:
        data = _little_endian(values)
        key = (values.dtype.name, values.shape, hashlib.sha256(data).digest())
        if key not in self._known:
            self._nbytes += len(data)
            if self._nbytes > MOST_BYTES:
                raise ArgumentError(
                    f"the page holds every tensor that the mask and the score read, {MOST_BYTES >> 20} MB "
                    f"at most; got {self._nbytes / 2**20:.1f} MB with {name}, {values.dtype.name}"
                    f"{list(values.shape)}, which takes {len(data) / 2**20:.1f} MB; "
                    "make the mask for shorter lengths, with tensors that are no longer than these"
                )
            self._known[key] = len(self.entries)
            self.entries.append(
                {
                    "dtype": values.dtype.name,
                    "shape": list(values.shape),
                    "data": base64.b64encode(data).decode("ascii"),
                }
            )
        return self._known[key]


def _widened(capture: Array) -> npt.NDArray[Any]:
    """A capture as an array that JavaScript has a type for."""
    values = host_array(capture)
    return values.astype(np.float32) if values.dtype == np.float16 else values
