"""How long `create_block_mask` takes: at a million tokens, and beside torch's where torch can follow.

Three masks of language models: causal, a window, packed causal documents. Each mask is checked before it is
timed: its visible pairs against a closed form and sampled blocks against the mod itself at any length, every
block against torch's where both exist.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.analysis.runs import BlockKind
from saccade.bench.machine import describe_machine
from saccade.bench.memory import peak_memory
from saccade.bench.oracle import kinds_of_rows
from saccade.bench.report import Measurement, Report
from saccade.bench.timing import time_in_turns
from saccade.bench.torch_masks import fits_in_memory, same_blocks, torch_block_mask, warm_up_torch
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import CheckError
from saccade.masks import causal, document, sliding_window
from saccade.signatures import MaskMod

__all__ = ["LONG", "SHORT", "MaskCase", "bench_masks", "check_mask", "mask_cases"]

LONG = 2**20
"""Tokens of the masks that only rules can reach."""

SHORT = (2048, 4096, 8192, 16384)
"""Tokens at which torch is asked too."""

_WINDOW = 4096
_DOCUMENT = (100, 30_000)  # shortest and longest document, tokens
_BLOCK = 128
_SAMPLED_ROWS = 48


@dataclass(frozen=True, eq=False)
class MaskCase:
    """A mask to time at some length.

    Attributes:
        name: What it is.
        length: Q and K.
        make: Makes the mask of a seed; masks of equal seeds are equal, their tensors new.
        visible: Visible pairs of the mask of a seed, by a closed form.
    """

    name: str
    length: int
    make: Callable[[int], MaskMod]
    visible: Callable[[int], int]

    @property
    def shape(self) -> dict[str, int]:
        """The lengths, as a report holds them."""
        return {"q_len": self.length, "kv_len": self.length}


def mask_cases(length: int) -> tuple[MaskCase, ...]:
    """Return the three masks at a length.

    Example:
        >>> [case.name for case in mask_cases(2048)]
        ['causal', 'sliding_window(4096)', 'causal documents of 100-30,000 tokens']
    """
    window = min(_WINDOW, length)
    return (
        MaskCase("causal", length, lambda seed: causal, lambda seed: _triangle(length)),
        MaskCase(
            f"sliding_window({_WINDOW})",
            length,
            lambda seed: sliding_window(_WINDOW),
            lambda seed: _triangle(window) + (length - window) * window,
        ),
        MaskCase(
            f"causal documents of {_DOCUMENT[0]:,}-{_DOCUMENT[1]:,} tokens",
            length,
            lambda seed: causal & document(lengths=_document_lengths(length, seed)),
            lambda seed: sum(map(_triangle, _document_lengths(length, seed))),
        ),
    )


def bench_masks(
    *,
    long: int = LONG,
    short: Sequence[int] = SHORT,
    rounds: int = 5,
    compiled: bool = True,
    progress: Callable[[str], object] = lambda step: None,
) -> Report:
    """Check and time `create_block_mask`.

    Args:
        long: Tokens of the masks that are timed alone.
        short: Token counts at which torch's function is timed beside ours, in turns.
        rounds: Samples of each contender.
        compiled: Whether torch's compiled form is timed too.
        progress: Told what comes next.

    Returns:
        The measurements, contenders of a case side by side; "mask_bytes" and "peak_bytes" among their facts.
    """
    measured: list[Measurement] = []
    for case in mask_cases(long):
        progress(f"{case.name}, {case.length:,} tokens")
        measured.append(_time_ours(case, rounds))
    warm_up_torch()
    for length in short:
        for case in mask_cases(length):
            progress(f"{case.name}, {length:,} tokens, beside torch")
            measured.extend(_time_beside_torch(case, rounds, compiled))
    return Report("masks", describe_machine(), tuple(measured))


def check_mask(case: MaskCase, mask: BlockMask, seed: int) -> None:
    """Check that the mask of a seed is right: its visible pairs exactly, and its blocks in a sample.

    Raises:
        CheckError: It is not.
    """
    mod, visible = case.make(seed), case.visible(seed)
    if mask.visible_pairs() != visible:
        raise CheckError(
            f"{case.name} has {visible:,} visible pairs, but its mask has {mask.visible_pairs():,}"
        )
    blocks = -(-case.length // _BLOCK)
    generator = random.Random(seed)
    rows = {0, blocks - 1, *(generator.randrange(blocks) for _ in range(_SAMPLED_ROWS))}
    for row in rows:
        runs = mask.runs.row(0, 0, row)
        edges = chain.from_iterable((start - 1, start, stop - 1, stop) for start, stop, _ in runs)
        for column in {column for column in (*edges, generator.randrange(blocks)) if 0 <= column < blocks}:
            claimed = next((kind for start, stop, kind in runs if start <= column < stop), BlockKind.EMPTY)
            true = BlockKind(_block_kind(mod, row, column, case.length))
            if claimed is not true:
                raise CheckError(
                    f"{case.name}: block ({row}, {column}) is {true.name}, but its mask says {claimed.name}"
                )


def _time_ours(case: MaskCase, rounds: int) -> Measurement:
    """Time our function alone, each time on tensors it has not seen before."""
    mods = _fresh_mods(case, rounds + 1)
    created: list[BlockMask] = []

    def create() -> BlockMask:
        return create_block_mask(next(mods), None, None, case.length, case.length, device="cpu")

    def check(name: str, mask: object) -> None:
        assert isinstance(mask, BlockMask), "create() makes masks"
        check_mask(case, mask, seed=0)
        created.append(mask)

    timing = time_in_turns({"saccade": create}, check=check, rounds=rounds)["saccade"]
    return Measurement(case.name, "saccade", case.shape, timing, {"mask_bytes": created[0].runs.nbytes})


def _time_beside_torch(case: MaskCase, rounds: int, compiled: bool) -> list[Measurement]:
    """Time our function and torch's in turns; what does not fit the memory is left out."""
    mod, length = case.make(0), case.length
    ours = create_block_mask(mod, None, None, length, length, device="cpu")
    check_mask(case, ours, seed=0)
    contenders: dict[str, Callable[[], object]] = {
        "saccade": lambda: create_block_mask(mod, None, None, length, length, device="cpu")
    }
    facts: dict[str, dict[str, float | int | None]] = {"saccade": {"mask_bytes": ours.runs.nbytes}}
    if fits_in_memory(length * length):
        contenders["torch"] = lambda: torch_block_mask(mod, None, length, length)
        facts["torch"] = {"peak_bytes": peak_memory(contenders["torch"])[1]}
        if compiled:
            contenders["torch, compiled"] = lambda: torch_block_mask(mod, None, length, length, compiled=True)

    def check(name: str, mask: object) -> None:
        if isinstance(mask, TorchBlockMask) and not same_blocks(ours, mask):
            raise CheckError(
                f"{case.name} at {length:,} tokens must have the blocks of {name}, but has others"
            )

    timings = time_in_turns(contenders, check=check, rounds=rounds)
    return [
        Measurement(case.name, name, case.shape, timing, facts.get(name, {}))
        for name, timing in timings.items()
    ]


def _fresh_mods(case: MaskCase, count: int) -> Iterator[MaskMod]:
    """Masks whose tensors nothing has looked at, all made before the clock starts."""
    return iter([case.make(seed) for seed in range(count)])


def _block_kind(mod: MaskMod, row: int, column: int, length: int) -> int:
    """The kind of one block: 0 empty, 1 partial, 2 full."""
    q_idx = torch.arange(row * _BLOCK, min((row + 1) * _BLOCK, length))[:, None]
    kv_idx = torch.arange(column * _BLOCK, min((column + 1) * _BLOCK, length))
    visible = torch.as_tensor(mod(torch.tensor(0), torch.tensor(0), q_idx, kv_idx))
    return int(kinds_of_rows(visible.expand(len(q_idx), len(kv_idx)), _BLOCK))


def _triangle(length: int) -> int:
    """Visible pairs of a causal mask."""
    return length * (length + 1) // 2


def _document_lengths(length: int, seed: int) -> list[int]:
    """Lengths of documents that fill a sequence, the last one cut to fit."""
    generator = random.Random(seed)
    lengths, left = [], length
    while left > 0:
        lengths.append(min(left, generator.randint(*_DOCUMENT)))
        left -= lengths[-1]
    return lengths
