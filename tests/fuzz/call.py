"""What a fuzzed call is: plain data, so that its `repr` is its reproduction.

A call names everything that can matter to an engine. `operands` makes tensors of it, the same at every time.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Backward", "Blocks", "Call", "Mod", "Table"]


@dataclass(frozen=True)
class Table:
    """A captured tensor of small numbers."""

    dtype: str  # as program text names it
    shape: tuple[int, ...]
    seed: int
    layout: str = "dense"  # a key of `operands.LAYOUTS`


@dataclass(frozen=True)
class Mod:
    """A mod: the text of a program, with its data, or a Python expression over the library.

    An expression may name `Q, K, H, B` and `L = max(Q, K)`, and make tensors with `ids` and `normal`.
    """

    text: str
    numbers: tuple[int | float, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Blocks:
    """A block mask.

    Attributes:
        size: Queries and keys a block.
        mod: Its mask_mod.
        axes: Whether it has an axis of batches, and one of heads.
        kinds: The seed of random kinds of blocks, which are then the truth; None: analysed.
    """

    size: tuple[int, int]
    mod: Mod | None = None
    axes: tuple[bool, bool] = (False, False)
    kinds: int | None = None


@dataclass(frozen=True)
class Backward:
    """A gradient of a call's results.

    Attributes:
        grad_out: How the gradient of the output lies in memory, a key of `operands.LAYOUTS` or "expanded";
            None where the output plays no part.
        grad_lse: The same for lse; where the call does not ask for lse, it plays no part.
        frozen: What wants no gradient, of `operands.LEARNED`.
        again: Torch's number of threads at a repetition, which must give the same bits; None: there is none.
    """

    grad_out: str | None = "dense"
    grad_lse: str | None = None
    frozen: tuple[str, ...] = ()
    again: int | None = None


@dataclass(frozen=True)
class Call:
    """A call of `flex_attention`.

    Attributes:
        lengths: Q and K.
        heads: Hq and Hkv.
        dims: D and Dv.
        dtype: Of query, key and value.
        batch: B.
        kv_batch: The batches of key and value, B or 1.
        seed: Of the values, and of dropout.
        layouts: How query, key and value lie in memory, keys of `operands.LAYOUTS`.
        values: What the values are, a key of `operands.VALUES`.
        scale: As the call's argument.
        score: The score_mod.
        mask: The mask_mod.
        blocks: The block mask.
        sinks: The dtype of sinks, if any.
        dropout_p: As the call's argument.
        aux: Whether lse, and max_scores, are asked for.
        tiles: Hints of how many queries, and keys, a tile holds.
        isa: The instruction set.
        threads: Torch's number of threads.
        guard: Which end of every tensor lies against a page that may not be touched: "first", "last" or
            "none".
        backward: What is differentiated, if anything is.
    """

    lengths: tuple[int, int]
    heads: tuple[int, int] = (1, 1)
    dims: tuple[int, int] = (8, 8)
    dtype: str = "f32"
    batch: int = 1
    kv_batch: int = 1
    seed: int = 0
    layouts: tuple[str, str, str] = ("dense", "dense", "dense")
    values: str = "normal"
    scale: float | None = None
    score: Mod | None = None
    mask: Mod | None = None
    blocks: Blocks | None = None
    sinks: str | None = None
    dropout_p: float = 0.0
    aux: tuple[bool, bool] = (False, False)
    tiles: tuple[int | None, int | None] = (None, None)
    isa: str = "best"
    threads: int = 2
    guard: str = "none"
    backward: Backward | None = None
