"""Which kernel computes a problem: its kind, its tiles, what is proven of its programs.

Everything that the engine chooses is chosen here, from the problem, the hints of its schedule and the
processor. Nothing here looks at an operand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from saccade.codegen.cpu.arguments import Which
from saccade.codegen.cpu.backward_tiling import backward_tile_shape
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.program.derivative import derivative
from saccade.codegen.cpu.program.facts import ProgramFacts
from saccade.codegen.cpu.program.prover import prove
from saccade.codegen.cpu.spec import KernelKind, KernelSpec
from saccade.codegen.cpu.tiling import RegisterTile, tile_shape
from saccade.problem import AttentionProblem, KernelKey, ModFacts, Outputs
from saccade.schedule import Schedule

__all__ = [
    "Choice",
    "analysis_pays",
    "choose",
    "key_of",
    "kind_for",
    "mods_of",
    "specify",
    "specify_backward",
]

# Up to here the decode kernel is the faster one, or as fast: measured on AVX2 and AVX-512.
_MOST_DECODE_ROWS = 64
_MOST_DECODE_QUERIES = 32
_DECODE_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_ROW_SHARES = (1, 2, 4)  # parts of the best tile's rows that are tried where there are too few tiles
_TILES_A_CORE = 4  # with fewer, cores wait for the last ones

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
        hints: `q_tile` and `kv_tile` are rounded to what the kernel can have, unless it packs its rows.
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
    rows, keys = tile_shape(key)
    register, lanes = RegisterTile.of(ISAS[isa]), ISAS[isa].lanes(problem.accumulates_in)
    if hints.kv_tile is not None:
        keys = _multiple(hints.kv_tile, register.vectors * lanes)
    if kind is KernelKind.DECODE:
        packed = problem.group_size * problem.q_len
        return Choice(kind, key, next(size for size in _DECODE_ROWS if size >= packed), keys)
    if hints.q_tile is not None:
        return Choice(kind, key, _multiple(hints.q_tile, register.rows), keys)
    for share in _ROW_SHARES:
        height = _multiple(rows // share, register.rows)
        tiles = problem.batch * problem.q_heads * -(-problem.q_len // height)
        if tiles >= _TILES_A_CORE * cores and problem.q_len > height // 2:
            break
    return Choice(kind, key, height, keys)


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


def mods_of(problem: AttentionProblem) -> dict[Which, ModFacts]:
    """Return the programs of the problem's kernel.

    A mask_mod alone has the place of a block mask's program, so that one kernel serves it, whether or not it
    is analysed first.
    """
    blocks = problem.block_mask
    given = {
        Which.MASK: problem.mask_mod if blocks is None else blocks.mod,
        Which.MASK_MOD: None if blocks is None else problem.mask_mod,
        Which.SCORE: problem.score,
    }
    return {which: mod for which, mod in given.items() if mod is not None}


def key_of(problem: AttentionProblem, isa: str) -> KernelKey:
    """Return the key of the problem's forward kernel; gradients of captures are no concern of it."""
    mods = mods_of(problem)
    structures = {which: mod.structure for which, mod in mods.items()}
    return replace(
        problem.kernel_key(isa, small_indices=False),
        mask=structures.get(Which.MASK),
        mask_mod=structures.get(Which.MASK_MOD),
        captures_need_grad=(),
    )


def specify(problem: AttentionProblem, choice: Choice, dense: Mapping[Which, tuple[bool, ...]]) -> KernelSpec:
    """Return the kernel's specification.

    Args:
        problem: The problem.
        choice: How it is computed.
        dense: For each program, which of its captures have neighbours along their last dimension.
    """
    facts = {which: _prove(problem, mod, dense[which]) for which, mod in mods_of(problem).items()}
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
    problem: AttentionProblem, isa: str, dense: Mapping[Which, tuple[bool, ...]], *, grad_lse: bool
) -> KernelSpec:
    """Return the specification of the kernel that computes the problem's gradients.

    Args:
        problem: The problem.
        isa: The instruction set's name.
        dense: As for `specify`.
        grad_lse: Whether lse has a gradient.
    """
    key = replace(key_of(problem, isa), outputs=Outputs(lse=grad_lse))
    spec = specify(problem, Choice(KernelKind.BACKWARD, key, *backward_tile_shape(key)), dense)
    score = mods_of(problem).get(Which.SCORE)
    if score is None:
        return spec
    changed = replace(score, structure=derivative(score.structure))
    return replace(spec, score_gradient=_prove(problem, changed, dense[Which.SCORE]))


def _prove(problem: AttentionProblem, mod: ModFacts, dense: tuple[bool, ...]) -> ProgramFacts:
    return prove(
        mod.structure,
        batch=problem.batch,
        heads=problem.q_heads,
        q_len=problem.q_len,
        kv_len=problem.kv_len,
        numbers=mod.numbers,
        shapes=mod.capture_shapes,
        dense=dense,
    )


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
    return max(-(-size // of) * of, of)
