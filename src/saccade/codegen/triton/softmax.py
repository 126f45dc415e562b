"""A turn of the online softmax: a tile's scores, what is visible of them, and what they add to sums.

FlashAttention (arXiv 2205.14135) in base 2. Of the keys so far `row_max` is the largest of `scores`,
`row_base` the same in base 2 and rounded, `row_sum` the sum of weights relative to 2^`row_base`, `acc` the
weighted values. A row that has seen nothing has `row_max` -inf; its weights are taken relative to 0, or they
would be NaN. `factor` brings scores to base 2 and is positive: without a score program the queries take the
sign of `scale`, exactly, and the product with `factor` joins the subtraction of the maximum in one
instruction. Where `scale` is known to be positive the queries stay untouched, for Hopper's matrix unit to
read from shared memory.

A row whose largest score is beyond `limit` either way, as -inf always is, is far from zero. There one digit
of a score decides between weights of 1 and of nothing, whatever the base is, while products with `factor`
overflow, or round by more than weights bear. So `coarse` takes the place of `factor`, a power of two, with
which products are exact and overflow nowhere: the largest score has a weight of exactly 1, any other one of
2^-32 at most.
"""

from __future__ import annotations

from typing import final

from saccade.codegen.program.which import Which
from saccade.codegen.triton.dropout import kept_pairs
from saccade.codegen.triton.key_tiles import KEYS, VALUES
from saccade.codegen.triton.poison import note
from saccade.codegen.triton.spec import TritonSpec, Walk
from saccade.codegen.triton.template import Lines, fill
from saccade.codegen.triton.tile_programs import TilePrograms
from saccade.codegen.triton.walk import Turn
from saccade.ir.dtype import DType

__all__ = ["OnlineSoftmax", "precision"]

_TURN = """\
<<columns>>
<<scores>>
<<visible>>
<<poison>>
<<hide>>
new_max = tl.maximum(row_max, tl.max(scores, 1))
is_far = tl.abs(new_max) > limit
row_factor = tl.where(is_far, coarse, factor)
new_base = new_max * row_factor
base = tl.where(new_max == float("-inf"), 0.0, new_base)
weights = tl.exp2(scores * row_factor[:, None] - base[:, None])
shrink = tl.where(is_far == (tl.abs(row_max) > limit), tl.exp2(row_base - base), 0.0)
row_sum = row_sum * shrink + tl.sum(weights, 1)
row_max = new_max
row_base = new_base
<<dropout>>
<<values>>
"""


def precision(spec: TritonSpec) -> str:
    """Return how products of matrices are computed, as a last argument of `tl.dot`."""
    return f', input_precision="{spec.precision}"' if spec.key.dtype is DType.FLOAT32 else ""


@final
class OnlineSoftmax:
    """The turns of a kernel that attends.

    Args:
        spec: The kernel.
        programs: Its SCORE, MASK and MASK_MOD.
    """

    def __init__(self, spec: TritonSpec, programs: TilePrograms) -> None:
        self._spec = spec
        self._programs = programs
        self._has_scores = programs.text(Which.SCORE, bounded=False) is not None

    @property
    def before(self) -> Lines:
        """Lines to stand before the loops, after the queries `q`."""
        spec = self._spec
        scaled: Lines = _IN_SCORES
        if not self._has_scores:
            scaled = _IN_QUERIES if spec.positive_scale else _SIGNED + _IN_QUERIES
        return (
            *scaled,
            *KEYS.before(spec, transposed=True),
            *VALUES.before(spec, transposed=False),
            *self._programs.before,
            *_NOTHING_YET,
        )

    @property
    def turn(self) -> Turn:
        """The lines of a turn."""
        return Turn(
            full=self._turn(bounded=False, asks_mask=False),
            partial=self._turn(bounded=True, asks_mask=True),
            rest=self._turn(bounded=True, asks_mask=False),
        )

    def _turn(self, *, bounded: bool, asks_mask: bool) -> Lines:
        spec = self._spec
        lines, visible = self._visible(bounded=bounded, asks_mask=asks_mask)
        hide = f'scores = tl.where({visible}, scores, float("-inf"))'
        return fill(
            _TURN,
            columns=self._columns(bounded=bounded),
            scores=self._scores(bounded=bounded),
            visible=lines,
            poison=self._note(Which.SCORE, visible, bounded=bounded),
            hide=(hide,) if visible else (),
            dropout=(f"weights = tl.where({kept_pairs(spec)}, weights, 0.0)",) if spec.key.dropout else (),
            values=(
                f"v = {VALUES.load(spec, transposed=False, bounded=bounded)}",
                f"acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None]{precision(spec)})",
            ),
        )

    def _columns(self, *, bounded: bool) -> Lines:
        """Lines that name the keys of a turn, and which of them are there."""
        keys = "kv_idx = (start_n + tl.arange(0, BLOCK_N))[None, :]"
        if bounded:
            return (keys, "inside = kv_idx < stop")
        return (keys,) if self._programs else ()

    def _scores(self, *, bounded: bool) -> Lines:
        """Lines that name `scores`, in natural units with a score program, else in those of q·k."""
        spec, text = self._spec, self._programs.text(Which.SCORE, bounded=bounded)
        keys = f"k = {KEYS.load(spec, transposed=True, bounded=bounded)}"
        product = f"tl.dot(q, k{precision(spec)})"
        if text is None:
            return (keys, f"scores = {product}")
        whole = "" if all(text.result_shape) else "tl.zeros([BLOCK_M, BLOCK_N], tl.float32) + "
        return (keys, f"score = {product} * scale", *text.inside, f"scores = {whole}({text.result})")

    def _visible(self, *, bounded: bool, asks_mask: bool) -> tuple[Lines, str]:
        """Lines that find which pairs are visible, and what names them; "" where all are."""
        lines: list[str] = []
        visible = "inside" if bounded else ""
        mask = self._programs.text(Which.MASK, bounded=bounded) if asks_mask else None
        if mask is not None:
            in_table = self._spec.walk is Walk.TABLE
            shown = f"whole | ({mask.result})" if in_table else mask.result
            lines += mask.inside
            lines += self._note(Which.MASK, "inside & ~whole" if in_table else "inside", bounded=bounded)
            lines.append(f"visible = inside & ({shown})")
            visible = "visible"
        mask_mod = self._programs.text(Which.MASK_MOD, bounded=bounded)
        if mask_mod is not None:
            lines += [*mask_mod.inside, *self._note(Which.MASK_MOD, visible, bounded=bounded)]
            lines.append(
                f"visible = {visible} & ({mask_mod.result})" if visible else f"visible = {mask_mod.result}"
            )
            visible = "visible"
        return tuple(lines), visible

    def _note(self, which: Which, asked: str, *, bounded: bool) -> Lines:
        """Lines that note where a program is poison, at the pairs that ask it."""
        text = self._programs.text(which, bounded=bounded)
        if text is None or text.poison is None:
            return ()
        return note(which, text.poison, f"{asked} & live[:, None]" if asked else "live[:, None]")


_SIGNED = ("q = tl.where(scale < 0, -q.to(tl.float32), q.to(tl.float32)).to(q.dtype)",)

_IN_QUERIES = (
    "size = tl.maximum(tl.abs(scale), 1e-36)  # above 0, so that -inf stays -inf",
    "factor = size * LOG2E",
    "coarse = (size.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)  # a power of two",
    "limit = tl.minimum(1073741824.0 / size, 3e38)  # digits of scores are 64 beyond it, or more",
)

_IN_SCORES = (
    "factor = LOG2E",
    "coarse = 1.0",
    "limit = 268435456.0  # digits are 32 beyond it, or more",
)

_NOTHING_YET = (
    'row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)',
    "row_base = row_max",
    "row_sum = tl.zeros([BLOCK_M], tl.float32)",
    "acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)",
)
