"""`BlockMask`: where a mask matters, block by block, with the rule that decides inside a block.

The class holds the value and names what can be asked of it; the answers are worked out in the modules beside
it. It never holds a rows × columns table unless asked for one. Invariant: a pair is visible iff its block is
FULL, or PARTIAL and the program is True there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, final

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.analysis.runs import Runs
from saccade.block_mask import convert, given, markup, pairs, pickling, sections, slicing, snapshot
from saccade.block_mask.arguments import exact_device
from saccade.block_mask.fit import require_fit
from saccade.block_mask.packed import PackedMask, pack
from saccade.block_mask.watching import Watched, require_fresh, watch
from saccade.errors import ArgumentTypeError
from saccade.ir.program import Program
from saccade.masks import noop_mask
from saccade.signatures import MaskMod

T = TypeVar("T")


@final
@dataclass(frozen=True, eq=False, repr=False)
class BlockMask:
    """A mask, sorted into blocks that hide every pair, show every pair, or must ask.

    Made by `create_block_mask`; also by `from_kv_blocks` and `from_torch`. It is a snapshot: the mod, its
    numbers and the tensors it read, as they were. When one of those tensors has changed, its use raises
    `StaleMaskError`; `refreshed()` gives a mask of the present values.

    What torch's BlockMask offers is here under the same names and with the same values (`kv_indices`,
    `sparsity()`, `print(mask)`, ...); its tensors are made when they are first asked for. Torch calls a block
    full only when no length cuts it, so a cut block that shows all its pairs is FULL in `runs` and in
    pictures, and partial in torch's tensors.

    Attributes:
        runs: The kind of every block. An axis of batches or heads that the mask does not depend on is stored
            once.
        program: The mask as a program; it decides the pairs of PARTIAL blocks (of all blocks where
            `analysed`).
        mask_mod: The user's own function.
        batch: Batches asked for, B.
        heads: Query heads asked for, H.
        q_len: Queries, Q.
        kv_len: Keys, K.
        q_block: Queries a block.
        kv_block: Keys a block.
        device: Where index tensors are handed out.
        analysed: Whether the kinds follow from the program. False where blocks were given: there they are the
            truth.
        separate_full_blocks: Whether torch's tensors list FULL blocks apart.
        watched: The tensors the mask was made from, and their versions then.
        packed: The same mask in pieces that torch's compiler can hold.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import sliding_window
        >>> mask = create_block_mask(sliding_window(256), None, None, 640, 640, device="cpu")
        >>> print(mask)
        BlockMask(shape=(1, 1, 640, 640), sparsity=52.00%,
        (0, 0)
        ░░
        ██░░
        ░░██░░
          ░░██░░
            ░░██░░
        )
    """

    runs: Runs
    program: Program
    mask_mod: MaskMod
    batch: int
    heads: int
    q_len: int
    kv_len: int
    q_block: int
    kv_block: int
    device: torch.device
    analysed: bool = True
    separate_full_blocks: bool = True
    watched: tuple[Watched, ...] = ()
    packed: PackedMask = field(init=False)
    _memo: dict[object, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "packed", pack(self))

    # Made from torch's form, and turned into it

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None,
        BLOCK_SIZE: int | tuple[int, int] = 128,
        mask_mod: MaskMod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
    ) -> BlockMask:
        """Make a mask of given blocks. They are the truth: nothing is analysed.

        A pair is visible when its block is listed as full, or listed as partial and `mask_mod` is True there.

        Args:
            kv_num_blocks: int ``[B, H, rows]``, how many partial blocks each row lists. B and H may be left
                out.
            kv_indices: int ``[B, H, rows, entries]``, their columns; entries past the count are ignored.
            full_kv_num_blocks: The same for full blocks; None for no full block.
            full_kv_indices: Their columns.
            BLOCK_SIZE: Tokens a block: one number, or (queries, keys).
            mask_mod: Decides the pairs of partial blocks; None shows them all.
            seq_lengths: Queries and keys; by default, ``rows`` and ``entries`` whole blocks.
            compute_q_blocks: Accepted for compatibility; `q_indices` and its kin are made when asked for.

        Returns:
            The mask, on the device of `kv_indices`.

        Raises:
            ShapeError: Shapes do not fit each other, or `seq_lengths`.
            DTypeError: A tensor does not hold integers.
            ArgumentError: A count or index is out of range, a block is listed twice, or one of the two
                `full_` tensors is missing.
            ModError: `mask_mod` is not callable, a factory passed uncalled, or a score_mod.

        Example:
            >>> counts, columns = torch.tensor([[[1, 2]]]), torch.tensor([[[[0, 1], [0, 1]]]])
            >>> BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=1).to_bool().int()
            tensor([[[[1, 0],
                      [1, 1]]]], dtype=torch.int32)
        """
        partial, full = (kv_num_blocks, kv_indices), (full_kv_num_blocks, full_kv_indices)
        blocks = given.read_blocks(partial, full, BLOCK_SIZE, seq_lengths)
        mod = noop_mask if mask_mod is None else mask_mod
        program = snapshot.mask_program(mod, "from_kv_blocks()")
        return cls(
            blocks.runs,
            program,
            mod,
            *blocks.runs.shape[:2],
            *blocks.lengths,
            *blocks.block_size,
            device=kv_indices.device,
            analysed=False,
            separate_full_blocks=full_kv_indices is not None,
            watched=watch(program, mod),
        )

    @classmethod
    def from_torch(cls, block_mask: TorchBlockMask) -> BlockMask:
        """Make a mask of torch's BlockMask; its blocks and mask_mod are taken as they are.

        Raises:
            ArgumentTypeError: `block_mask` is something else.
            TraceError: Its mask_mod cannot be read as a program.
        """
        given.require_torch(block_mask)
        return cls.from_kv_blocks(
            block_mask.kv_num_blocks,
            block_mask.kv_indices,
            block_mask.full_kv_num_blocks,
            block_mask.full_kv_indices,
            BLOCK_SIZE=block_mask.BLOCK_SIZE,
            mask_mod=block_mask.mask_mod,
            seq_lengths=block_mask.seq_lengths,
        )

    def to_torch(self, device: torch.device | str | None = None) -> TorchBlockMask:
        """Return torch's BlockMask of the same mask, for torch's flex_attention.

        It takes `torch_nbytes()`, which grows with Q × K; more than a GiB is announced by a warning before it
        is allocated. A mask of the library takes its tensors along to `device`; a function's own stay where
        they are.

        Args:
            device: Where its tensors go; None for this mask's device.

        Returns:
            The BlockMask, with the user's own function as mask_mod, usable inside `torch.compile`.

        Raises:
            ArgumentError: The mask lost its function when it was pickled.
            StaleMaskError: A tensor the mask was made from has changed.
        """
        self.check_fresh()
        return convert.to_torch(self, device)

    def torch_nbytes(self) -> int:
        """Return how many bytes `to_torch()` takes, before it takes them."""
        return convert.torch_nbytes(self)

    # Torch's attributes

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(B, H, Q, K)``."""
        return self.batch, self.heads, self.q_len, self.kv_len

    @property
    def seq_lengths(self) -> tuple[int, int]:
        """``(Q, K)``."""
        return self.q_len, self.kv_len

    @property
    def BLOCK_SIZE(self) -> tuple[int, int]:
        """Queries and keys a block."""
        return self.q_block, self.kv_block

    @property
    def kv_num_blocks(self) -> Tensor:
        """int32 ``[B, H, rows]``: partial blocks in each block row."""
        return convert.partial_lists(self).num_blocks

    @property
    def kv_indices(self) -> Tensor:
        """int32 ``[B, H, rows, cols]``: their columns ascending, then all others ascending."""
        return convert.partial_lists(self).indices

    @property
    def full_kv_num_blocks(self) -> Tensor | None:
        """int32 ``[B, H, rows]``: full blocks in each block row; None where they are not listed apart."""
        return convert.full_lists(self).num_blocks

    @property
    def full_kv_indices(self) -> Tensor | None:
        """int32 ``[B, H, rows, cols]``, as `kv_indices`; None where full blocks are not listed apart."""
        return convert.full_lists(self).indices

    @property
    def q_num_blocks(self) -> Tensor:
        """int32 ``[B, H, cols]``: partial blocks in each block column."""
        return convert.partial_lists(self, by_key=True).num_blocks

    @property
    def q_indices(self) -> Tensor:
        """int32 ``[B, H, cols, rows]``: their rows ascending, then all others ascending."""
        return convert.partial_lists(self, by_key=True).indices

    @property
    def full_q_num_blocks(self) -> Tensor | None:
        """int32 ``[B, H, cols]``: full blocks in each block column; None where they are not listed apart."""
        return convert.full_lists(self, by_key=True).num_blocks

    @property
    def full_q_indices(self) -> Tensor | None:
        """int32 ``[B, H, cols, rows]``, as `q_indices`; None where full blocks are not listed apart."""
        return convert.full_lists(self, by_key=True).indices

    def as_tuple(self, flatten: bool = True) -> tuple[object, ...]:
        """Return lengths, tensors, block sizes and mask_mod in torch's order; `flatten` opens the pairs."""
        return convert.as_tuple(self, flatten=flatten)

    def numel(self) -> int:
        """Return the number of pairs, B · H · Q · K."""
        return self.batch * self.heads * self.q_len * self.kv_len

    def sparsity(self) -> float:
        """Return the share of the work that is saved, in percent, by block, as torch counts it.

        Blocks count whole, also where a length cuts them, so short lengths can give a negative number. See
        `density`.
        """
        return convert.sparsity(self)

    def to_dense(self) -> Tensor:
        """Return int32 ``[B, H, rows, cols]``: 1 for every block with a visible pair, as torch does."""
        return convert.visible_blocks(self)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """Draw the blocks as text: ██ full, ░░ partial, blank empty.

        Args:
            grid_size: The most rows and columns drawn; larger masks are drawn by sections of several blocks,
                which are full or empty when all their blocks are. -1 draws every block.
            limit: The most (batch, head) pairs drawn.
        """
        return sections.drawing(self, grid_size, limit)

    def density(self) -> float:
        """Return the share of all pairs that is visible, in [0, 1], exactly; 0 for a mask without pairs."""
        return self.visible_pairs() / max(self.numel(), 1)

    def visible_pairs(self) -> int:
        """Count the visible pairs over all batches and heads, exactly and in bounded memory.

        Raises:
            StaleMaskError: A tensor the mask was made from has changed.
        """
        self.check_fresh()
        return self.once("visible_pairs", lambda: pairs.count_visible(self))

    def to_bool(self) -> Tensor:
        """Write the mask out by element.

        Returns:
            bool ``[B, H, Q, K]``, True where the query sees the key, on the mask's device. An axis that the
            mask does not depend on is expanded, not copied: call `.contiguous()` before writing to it.

        Raises:
            StaleMaskError: A tensor the mask was made from has changed.
        """
        self.check_fresh()
        return torch.from_numpy(pairs.dense_mask(self)).to(self.device).expand(self.shape)

    def __getitem__(self, index: slicing.Index) -> BlockMask:
        """Select batches, heads and blocks of queries; every axis stays, and so does a working mask_mod.

        Args:
            index: Up to three of int, slice, list or tensor (one of the last two kinds at a time): batch,
                head, block of queries. Selected queries are numbered from 0 again, and `q_len` counts them.

        Returns:
            The selected mask: what its rows see is what they saw here.

        Raises:
            IndexOutOfRangeError: An integer is out of range.
            ArgumentError: Nothing is selected, or a cut block not last.
            ArgumentTypeError: An index is of another kind.
            UnsupportedError: Two axes are indexed by lists or tensors.
        """
        return slicing.sliced(self, index)

    def crop(self, q: tuple[int, int] | None = None, kv: tuple[int, int] | None = None) -> BlockMask:
        """Cut out queries and keys, to the element, without tracing or compiling anything.

        Args:
            q: First query kept, and the one after the last; None keeps all.
            kv: First key kept, and the one after the last; None keeps all.

        Returns:
            The mask of the part: ``crop(q=(i, j), kv=(k, l)).to_bool()`` equals ``to_bool()[:, :, i:j,
            k:l]``.

        Raises:
            ArgumentTypeError: A range is not a pair of integers.
            ArgumentError: It does not lie inside the mask.
            StaleMaskError: A tensor the mask was made from has changed.

        Example:
            >>> from saccade.block_mask import create_block_mask
            >>> from saccade.masks import causal
            >>> mask = create_block_mask(causal, None, None, 512, 512, device="cpu")
            >>> mask.crop(q=(500, 502), kv=(0, 503)).to_bool().sum(-1)
            tensor([[[501, 502]]])
        """
        return slicing.cropped(self, q, kv)

    def refreshed(self) -> BlockMask:
        """Return the mask that the same mod gives now: it is read again, and so are its tensors.

        Given blocks stay as they were given.
        """
        return slicing.refreshed(self)

    def to(self, device: torch.device | str) -> BlockMask:
        """Return the same mask with its program's tensors, and those it hands out, on `device`.

        `mask_mod` stays the user's own function, and the tensors watched for changes stay the ones it reads.
        """
        return slicing.moved_to(self, exact_device(device))

    def check_fresh(self) -> None:
        """Check that the mask still describes its tensors.

        Raises:
            StaleMaskError: One of them has changed; the message names it and `refreshed()`.
        """
        require_fresh(self.watched)

    def check_usable(self, batch: int, heads: int, q_len: int, kv_len: int) -> None:
        """Check that the mask fits a call of so many batches, query heads, queries and keys, and is fresh.

        Raises:
            MaskAxisError: The mask has another number of batches or heads, and not a single one that serves
                all.
            ShapeError: It has other lengths.
            StaleMaskError: A tensor it was made from has changed.
        """
        require_fit(self, batch, heads, q_len, kv_len)
        self.check_fresh()

    @property
    def transposed_runs(self) -> Runs:
        """Per block column, runs over block rows: shape ``(B, H, cols, rows)`` as stored."""
        return self.once("transposed", self.runs.transposed)

    @property
    def host_captures(self) -> tuple[snapshot.HostArray, ...]:
        """The program's captured tensors as numpy arrays, by slot."""
        return self.once("host_captures", lambda: snapshot.host_arrays(self.program))

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """Return what `compute` gave the first time: for pure functions of this mask, here and in engines."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockMask):
            return NotImplemented
        same = self._facts() == other._facts() and self.runs == other.runs
        return same and snapshot.is_same_program(self.program, other.program)

    def _facts(self) -> tuple[object, ...]:
        return self.shape, self.BLOCK_SIZE, self.device, self.analysed, self.separate_full_blocks

    def __hash__(self) -> int:
        return hash((self.shape, self.BLOCK_SIZE, self.program.structure))

    def __bool__(self) -> NoReturn:
        raise ArgumentTypeError(
            f"a BlockMask has no truth value, got bool() of {self!r}; test for absence with `is None`, "
            "and combine masks before they are made: create_block_mask(first & second, ...)"
        )

    def __str__(self) -> str:
        drawing = self.to_string().strip()
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{drawing}\n)"

    def __repr__(self) -> str:
        return sections.summary(self)

    def _repr_html_(self) -> str:
        return markup.mask_html(self)

    def __copy__(self) -> BlockMask:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> BlockMask:
        return self

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        self.check_fresh()
        return pickling.reduced(self)
