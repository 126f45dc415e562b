"""Which jagged cases are measured, and what a user may choose among them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import final

from saccade.bench.cpu.cases import DTYPES, require_axes
from saccade.bench.cpu.patterns import require_pattern
from saccade.bench.jagged.batches import BATCHES, Batch
from saccade.errors import ArgumentError
from saccade.masks import causal, noop_mask
from saccade.signatures import MaskMod

__all__ = ["PATTERNS", "JaggedCase", "Selection"]

PATTERNS: dict[str, MaskMod] = {"full": noop_mask, "causal": causal}
"""What a sequence sees of itself, by name."""


@final
@dataclass(frozen=True)
class JaggedCase:
    """Attention of each sequence to itself.

    Attributes:
        batch: A name in `BATCHES`.
        pattern: A name in `PATTERNS`.
        dtype: A name in `bench.cpu.cases.DTYPES`.

    Example:
        >>> str(JaggedCase("short", "causal", "float32"))
        'short causal float32'
    """

    batch: str
    pattern: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.batch} {self.pattern} {self.dtype}"

    @property
    def sequences(self) -> Batch:
        """The batch itself."""
        return BATCHES[self.batch]

    @property
    def mask_mod(self) -> MaskMod:
        """The mask of one sequence."""
        return PATTERNS[self.pattern]

    @property
    def labels(self) -> dict[str, str]:
        """What sorts it, as a report holds it."""
        return {"pattern": f"{self.batch}, {self.pattern}", "dtype": self.dtype, "after_matmul": "no"}


@final
@dataclass(frozen=True)
class Selection:
    """What a user chose; an empty axis stands for all there is.

    Attributes:
        batches: Names in `BATCHES`.
        patterns: Names in `PATTERNS`.
        dtypes: Names in `bench.cpu.cases.DTYPES`.

    Raises:
        ArgumentError: A name is unknown.

    Example:
        >>> for case in Selection(batches=("text",), dtypes=("bfloat16",)).cases():
        ...     print(case)
        text full bfloat16
        text causal bfloat16
    """

    batches: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.batches:
            if name not in BATCHES:
                raise ArgumentError(f"batch must be one of {', '.join(BATCHES)}, got {name!r}")
        for name in self.patterns:
            require_pattern(name, PATTERNS)
        require_axes(self.dtypes, (), ())

    def cases(self) -> tuple[JaggedCase, ...]:
        """The cases, those of equal type beside each other."""
        axes = (self.dtypes or DTYPES, self.batches or BATCHES, self.patterns or PATTERNS)
        return tuple(JaggedCase(batch, pattern, dtype) for dtype, batch, pattern in itertools.product(*axes))
