"""What is asked: every fact about a call that can change its result, or the choice of who computes it.

`AttentionProblem` holds facts about tensors and masks, never the tensors or masks themselves, and no torch.
What can only change the time is in `schedule.Schedule`. `KernelKey` is the smaller part that machine code
depends on: two problems with one key run the same kernel, whatever their batch, lengths, scale and program
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

from saccade.ir.dtype import DType
from saccade.ir.structure import Structure

__all__ = [
    "AttentionProblem",
    "BlockFacts",
    "Contents",
    "HeadGroups",
    "KernelKey",
    "ModFacts",
    "Outputs",
    "Wanted",
]


@final
@dataclass(frozen=True)
class Outputs:
    """What a call returns beside the attention output."""

    lse: bool = False  # [B, Hq, Q] natural log of the softmax denominator
    max_scores: bool = False  # [B, Hq, Q] largest score of a row, after score_mod and mask
    weights: bool = False  # [B, Hq, Q, K] what multiplies the values


@final
@dataclass(frozen=True)
class Wanted:
    """Which gradients a backward pass computes; no work is done for the others.

    Attributes:
        query: Of query.
        key: Of key.
        value: Of value.
        sinks: Of sinks.
        captures: Of each captured tensor of the score program, by slot; () for none of them.
    """

    query: bool = False
    key: bool = False
    value: bool = False
    sinks: bool = False
    captures: tuple[bool, ...] = ()

    @property
    def of_scores(self) -> bool:
        """Whether something wants the gradients of scores."""
        return self.query or self.key or any(self.captures)


@final
@dataclass(frozen=True)
class Contents:
    """What is known of the elements of a captured integer tensor; False where it is not known.

    Attributes:
        in_runs: Whether, along the last dimension, equal elements stand next to each other, as the ids of
            packed documents do.
        fits_int32: Whether 32 bits, signed, hold every element.
    """

    in_runs: bool = False
    fits_int32: bool = False


@final
@dataclass(frozen=True)
class ModFacts:
    """What is known of a mod without its tensors' contents, but for what a library's kernel must know.

    Attributes:
        structure: The traced program without its data.
        numbers: Its run-time numbers, by slot.
        capture_shapes: The shape of each captured tensor, by slot.
        capture_grads: Which captured tensors want a gradient, by slot.
        is_function: Whether the user's own function is at hand; False for a mod given as a Program.
        contents: What is known of each captured tensor's elements, by slot; () where nobody looked.
    """

    structure: Structure
    numbers: tuple[int | float, ...] = ()
    capture_shapes: tuple[tuple[int, ...], ...] = ()
    capture_grads: tuple[bool, ...] = ()
    is_function: bool = True
    contents: tuple[Contents, ...] = ()

    @property
    def needs_grad(self) -> bool:
        """Whether a captured tensor wants a gradient."""
        return any(self.capture_grads)


@final
@dataclass(frozen=True)
class BlockFacts:
    """What is known of a BlockMask without its blocks.

    Attributes:
        mod: Its mask_mod; it decides the pairs of PARTIAL blocks.
        batch: The batches it stores: 1 (one for all) or B.
        heads: The heads it stores: 1 (one for all) or Hq.
        q_block: Rows of a block.
        kv_block: Columns of a block.
        analysed: Whether the blocks were found from the mod, so that the mod alone decides every pair.
            Otherwise they were given, and they are the truth.
    """

    mod: ModFacts
    batch: int
    heads: int
    q_block: int
    kv_block: int
    analysed: bool


class HeadGroups(Enum):
    """How query heads share kv heads, as far as code depends on it."""

    SINGLE = "every query head has its own kv head"
    GROUPED = "several query heads read one kv head"

    __hash__ = object.__hash__  # as in DType: members are singletons


@final
@dataclass(frozen=True)
class KernelKey:
    """What machine code depends on, and nothing else.

    Attributes:
        target: The instruction set or GPU architecture, as the engine names it.
        dtype: The element type of query, key, value and output.
        head_dim: D.
        value_dim: Dv.
        head_groups: How query heads share kv heads.
        score: The score program's structure; None where the score is unchanged.
        mask: The structure that decides PARTIAL blocks; None without a block mask.
        mask_mod: The structure of a mask that must hold beside the block mask; None without one.
        outputs: What is returned beside the output; in a backward, of what there are gradients.
        sinks: Whether a sink joins the denominator.
        dropout: Whether weights are dropped.
        small_indices: Whether every index value of the programs fits 32 bits.
        wanted: Which gradients are computed; None in code that attends.
    """

    target: str
    dtype: DType
    head_dim: int
    value_dim: int
    head_groups: HeadGroups
    score: Structure | None
    mask: Structure | None
    mask_mod: Structure | None
    outputs: Outputs
    sinks: bool
    dropout: bool
    small_indices: bool
    wanted: Wanted | None = None


@final
@dataclass(frozen=True)
class AttentionProblem:
    """Every fact that can change the result of a call, or who may compute it.

    Attributes:
        device: The device's type: "cpu", "cuda", ...
        dtype: The element type of query, key, value and output.
        batch: B.
        kv_batch: The batches of key and value: B, or 1 for keys that every batch shares.
        q_heads: Hq.
        kv_heads: Hkv; query head h reads kv head h // (Hq / Hkv).
        q_len: Q.
        kv_len: K.
        head_dim: D.
        value_dim: Dv.
        scale: What q·k is multiplied by.
        score: The score_mod; None where the score is unchanged.
        block_mask: The block mask; None without one, or where it hides nothing.
        mask_mod: A mask that must hold beside it; None without one, or where it hides nothing.
        sinks: The element type of the sinks `[Hq]`; None without them.
        dropout_p: The probability that a weight is dropped.
        outputs: What is wanted beside the output.
        needs_grad: Whether a derivative is wanted: a gradient, perhaps, later, or a tangent at once.
        needs_tangent: Whether tangents travel with the tensors (forward-mode derivatives).
        follower: What takes the call apart into torch's own operations and knows no others, such as
            "torch.func.vmap"; "" for nobody.

    Example:
        >>> problem = AttentionProblem("cpu", DType.FLOAT32, batch=2, kv_batch=2, q_heads=8, kv_heads=2,
        ...                            q_len=128, kv_len=256, head_dim=64, value_dim=64, scale=0.125)
        >>> problem.scores, problem.group_size, problem.accumulates_in
        (524288, 4, DType.FLOAT32)
    """

    device: str
    dtype: DType
    batch: int
    kv_batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    value_dim: int
    scale: float
    score: ModFacts | None = None
    block_mask: BlockFacts | None = None
    mask_mod: ModFacts | None = None
    sinks: DType | None = None
    dropout_p: float = 0.0
    outputs: Outputs = Outputs()
    needs_grad: bool = False
    needs_tangent: bool = False
    follower: str = ""

    @property
    def scores(self) -> int:
        """The elements of the score matrix: B * Hq * Q * K."""
        return self.batch * self.q_heads * self.q_len * self.kv_len

    @property
    def group_size(self) -> int:
        """How many query heads read one kv head."""
        return self.q_heads // self.kv_heads

    @property
    def accumulates_in(self) -> DType:
        """The type of scores, softmax and sums: FLOAT64 for float64 inputs, else FLOAT32."""
        return self.dtype.value_type

    @property
    def has_mask(self) -> bool:
        """Whether some pair may be hidden."""
        return self.block_mask is not None or self.mask_mod is not None

    def kernel_key(self, target: str, *, small_indices: bool) -> KernelKey:
        """Return what machine code for this problem depends on.

        Args:
            target: The instruction set or GPU architecture, as the engine names it.
            small_indices: Whether the engine has proven that 32 bits hold every index value.
        """
        score, block_mask, mask_mod = self.score, self.block_mask, self.mask_mod
        return KernelKey(
            target=target,
            dtype=self.dtype,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            head_groups=HeadGroups.SINGLE if self.group_size == 1 else HeadGroups.GROUPED,
            score=None if score is None else score.structure,
            mask=None if block_mask is None else block_mask.mod.structure,
            mask_mod=None if mask_mod is None else mask_mod.structure,
            outputs=self.outputs,
            sinks=self.sinks is not None,
            dropout=self.dropout_p > 0.0,
            small_indices=small_indices,
        )
