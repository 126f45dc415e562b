"""Which kernel computes a problem: its kind, its tiles, what is proven of its programs.

Everything that the engine chooses is chosen here, from the problem, the hints of its schedule and the
processor. Nothing here looks at an operand.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

from saccade.backends.mods import masks_of, proven
from saccade.codegen.cpu.backward_tiling import backward_tile_shape
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.philox import KEYS
from saccade.codegen.cpu.spec import KernelKind, KernelSpec
from saccade.codegen.cpu.tiling import TILE_SHAPE, RegisterTile
from saccade.codegen.program.contributions import contributions
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.structure import Structure
from saccade.problem import AttentionProblem, HeadGroups, KernelKey, ModFacts, Outputs, Wanted
from saccade.schedule import Schedule

__all__ = [
    "Choice",
    "analysis_pays",
    "choose",
    "key_of",
    "kind_for",
    "specify",
    "specify_backward",
]

# Up to here the decode kernel is the faster one, or at most a tenth slower: measured on AVX2 and AVX-512.
_MOST_DECODE_ROWS = 64
_MOST_DECODE_QUERIES = 32
_DECODE_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_MOST_TILE = 4096  # rows or keys; a larger tile gains nothing and its scratch memory may not be there
_TILES_A_CORE = 4  # with fewer, cores wait for the last ones
_FEW_TILES = (
    4  # into so many parts the tiles are cut where they are too few; one step, for it is a kernel more
)

_ANALYSED_BYTES = 2**24  # of keys and values, a millisecond of reading
_ANALYSED_PAIRS = 2**16
_ANALYSED_ONCE = 2**22  # multiply-adds
_ANALYSED_EACH_TIME = 2**26


@final
@dataclass(frozen=True)
class Choice:
    """How a problem is computed.

    Attributes:
        kind: Which kernel.
        key: What its code depends on; the target is the instruction set.
        rows: Query rows of a tile; in DECODE rows of a head group.
        keys: Keys of a tile.
    """

    kind: KernelKind
    key: KernelKey
    rows: int
    keys: int

    def schedule(self, hints: Schedule) -> Schedule:
        """Return the hints with what was chosen in their place."""
        chosen = (("kernel", self.kind.name.lower()), ("isa", self.key.target))
        return replace(
            hints, q_tile=self.rows, kv_tile=self.keys, engine_options=hints.engine_options + chosen
        )


def choose(problem: AttentionProblem, hints: Schedule, isa: str, cores: int) -> Choice:
    """Choose the kernel and its tiles.

    Args:
        problem: A problem that the engine takes.
        hints: `q_tile` and `kv_tile` are rounded to what the kernel can have, at most about 4096, unless it
            packs its rows.
        isa: The instruction set's name.
        cores: How many cores share the work.

    Example:
        >>> from saccade.ir.dtype import DType
        >>> problem = AttentionProblem("cpu", DType.FLOAT32, 1, 1, 8, 8, 2048, 2048, 64, 64, scale=0.125)
        >>> chosen = choose(problem, Schedule(q_tile=64), "avx512", cores=2)
        >>> chosen.kind.name, chosen.rows, chosen.keys
        ('FORWARD', 66, 128)
    """
    kind, key = kind_for(problem), key_of(problem, isa)
    rows, keys = TILE_SHAPE
    if hints.kv_tile is not None:
        step = RegisterTile.of(ISAS[isa]).vectors * ISAS[isa].lanes(problem.accumulates_in)
        # Both are powers of two.
        keys = _multiple(hints.kv_tile, max(step, KEYS) if problem.dropout_p else step)
    if kind is KernelKind.DECODE:
        packed = problem.group_size * problem.q_len
        return Choice(kind, key, _DECODE_ROWS[bisect_left(_DECODE_ROWS, packed)], keys)
    step = RegisterTile.of(ISAS[isa]).rows
    if hints.q_tile is not None:
        return Choice(kind, key, _multiple(hints.q_tile, step), keys)
    tiles = problem.batch * problem.q_heads * -(-problem.q_len // rows)
    if tiles < _TILES_A_CORE * cores or problem.q_len <= rows // 2:
        rows //= _FEW_TILES
    return Choice(kind, key, _multiple(rows, step), keys)


def kind_for(problem: AttentionProblem) -> KernelKind:
    """Return which kernel computes a problem.

    DECODE takes all query rows of a head group as one tile, so they must be few; and given blocks, which are
    the truth, must say the same of all of them.
    """
    blocks = problem.block_mask
    rows = problem.group_size * problem.q_len
    if rows > _MOST_DECODE_ROWS or problem.q_len > _MOST_DECODE_QUERIES:
        return KernelKind.FORWARD
    if blocks is not None and not blocks.analysed:
        differs = problem.q_len > blocks.q_block or (blocks.heads > 1 and problem.group_size > 1)
        return KernelKind.FORWARD if differs else KernelKind.DECODE
    return KernelKind.DECODE


def key_of(problem: AttentionProblem, isa: str) -> KernelKey:
    """Return the key of the problem's forward kernel."""
    score, mask, mask_mod = problem.score, *masks_of(problem)
    return _key(
        isa,
        problem.dtype,
        problem.head_dim,
        problem.value_dim,
        problem.q_heads != problem.kv_heads,
        None if score is None else score.structure,
        None if mask is None else mask.structure,
        None if mask_mod is None else mask_mod.structure,
        problem.outputs,
        problem.sinks is not None,
        problem.dropout_p > 0.0,
    )


@lru_cache(maxsize=1024)  # lengths that grow ask for one key again and again
def _key(
    isa: str,
    dtype: DType,
    head_dim: int,
    value_dim: int,
    is_grouped: bool,
    score: Structure | None,
    mask: Structure | None,
    mask_mod: Structure | None,
    outputs: Outputs,
    sinks: bool,
    dropout: bool,
) -> KernelKey:
    return KernelKey(
        target=isa,
        dtype=dtype,
        head_dim=head_dim,
        value_dim=value_dim,
        head_groups=HeadGroups.GROUPED if is_grouped else HeadGroups.SINGLE,
        score=score,
        mask=mask,
        mask_mod=mask_mod,
        outputs=outputs,
        sinks=sinks,
        dropout=dropout,
        small_indices=False,
    )


def specify(
    problem: AttentionProblem,
    choice: Choice,
    mods: Mapping[Which, ModFacts],
    dense: tuple[bool, ...],
) -> KernelSpec:
    """Return the kernel's specification.

    Args:
        problem: The problem.
        choice: How it is computed.
        mods: Its programs, as `mods_of` gives them.
        dense: Which captures have neighbours along their last dimension, program by program.
    """
    facts, first = {}, 0
    for which, mod in mods.items():
        last = first + len(mod.capture_shapes)
        facts[which] = proven(problem, mod, dense[first:last])
        first = last
    return KernelSpec(
        choice.kind,
        choice.key,
        choice.rows,
        choice.keys,
        score=facts.get(Which.SCORE),
        mask=facts.get(Which.MASK),
        mask_mod=facts.get(Which.MASK_MOD),
    )


def specify_backward(
    problem: AttentionProblem,
    isa: str,
    mods: Mapping[Which, ModFacts],
    dense: tuple[bool, ...],
    *,
    grad_lse: bool,
    wanted: Wanted,
) -> KernelSpec:
    """Return the specification of the kernel that computes gradients of the problem.

    Args:
        problem: The problem.
        isa: The instruction set's name.
        mods: Its programs, as `mods_of` gives them.
        dense: As for `specify`.
        grad_lse: Whether lse has a gradient.
        wanted: Which gradients; at least one.
    """
    if not any(wanted.captures):
        wanted = replace(wanted, captures=())
    # The values have no part in lse.
    outputs = Outputs(lse=grad_lse and (wanted.of_scores or wanted.sinks))
    key = replace(key_of(problem, isa), outputs=outputs, wanted=wanted)
    spec = specify(problem, Choice(KernelKind.BACKWARD, key, *backward_tile_shape(key)), mods, dense)
    score = mods.get(Which.SCORE)
    if score is None or not wanted.of_scores:
        return spec
    changed = replace(score, structure=derivative(score.structure))
    beside = contributions(score.structure, wanted.captures)
    # The score's captures are the last ones.
    of_score = dense[len(dense) - len(score.capture_shapes) :]
    return replace(spec, score_gradient=proven(problem, changed, of_score, beside))


def analysis_pays(problem: AttentionProblem) -> bool:
    """Return whether to look for the blocks that a mask_mod alone hides, before computing.

    That takes some tenths of a millisecond. It is kept for the next call where the mask reads no tensor.
    """
    assert problem.mask_mod is not None, "the question is about a mask_mod"
    width = problem.head_dim + problem.value_dim
    if kind_for(problem) is KernelKind.DECODE:
        bytes_read = problem.kv_batch * problem.kv_heads * problem.kv_len * width * problem.dtype.itemsize
        return bytes_read >= _ANALYSED_BYTES
    if problem.q_len * problem.kv_len < _ANALYSED_PAIRS:
        return False
    is_kept = not problem.mask_mod.capture_shapes
    return problem.scores * width >= (_ANALYSED_ONCE if is_kept else _ANALYSED_EACH_TIME)


def _multiple(size: int, of: int) -> int:
    """The smallest multiple that holds a hint, or the least tile's or the largest one's size."""
    return max(-(-min(size, _MOST_TILE) // of) * of, of)
