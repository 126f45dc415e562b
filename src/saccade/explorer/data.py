"""What the page knows: a mask, perhaps a score, and their programs, as one JSON value.

Owns the checks of what a page is asked for and the outline of its data; the parts are made beside it.
Invariant: the value says everything, so that the page needs neither Python nor a network.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.moves import mod_name
from saccade.block_mask.slicing import folded
from saccade.block_mask.snapshot import mask_program
from saccade.errors import ArgumentError, ArgumentTypeError, ModError, ShapeError
from saccade.explorer.block_data import block_counts, blocks_data, visible_share
from saccade.explorer.overview_data import overview_data
from saccade.explorer.program_data import ProgramData
from saccade.explorer.terms import Term, joined, mask_terms, mod_terms, terms_data
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.masks.base import and_masks
from saccade.mod_value import require_mod
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

__all__ = ["page_data"]


def page_data(
    block_mask: BlockMask,
    mask_mod: MaskMod | None = None,
    score_mod: ScoreMod | None = None,
    *,
    tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
    title: str | None = None,
) -> dict[str, object]:
    """Describe a mask and a score for the page that explains them.

    Args:
        block_mask: The mask. Its batches and heads are those that the page can show.
        mask_mod: A further mask; a pair is visible where both show it, as in `flex_attention`.
        score_mod: What becomes of a score, shown beside the mask.
        tokens: A label for each query; None for none.
        kv_tokens: A label for each key; None for those of the queries where there are as many keys.
        title: The page's title; None for the name of the mask.

    Returns:
        What `json.dumps` takes, and `evaluate.js` reads.

    Raises:
        ArgumentTypeError: `block_mask` is no BlockMask, or the title or a label is no text.
        ModError: A mod is no mod, or one of the other kind.
        TraceError: A mod cannot be read as a program.
        ArgumentError: The mask has no pairs, or its data are too large for a page.
        ShapeError: There are not as many labels as queries or keys.
        IndexOutOfRangeError: `mask_mod` indexes a tensor out of range where that decides a pair.
        StaleMaskError: A tensor that the mask was made from has changed.

    Example:
        >>> from saccade.masks import causal, sliding_window
        >>> window = causal & sliding_window(2)
        >>> data = page_data(create_block_mask(window, None, None, 4, 4, device="cpu"))
        >>> data["title"], data["blocks"]["shape"], len(data["programs"])
        ('causal & sliding_window(2)', [1, 1], 3)
    """
    if not isinstance(block_mask, BlockMask):
        raise ArgumentTypeError(
            f"mask_html() expects a BlockMask, got {type(block_mask).__name__}; "
            "make one with create_block_mask"
        )
    if title is not None and not isinstance(title, str):
        raise ArgumentTypeError(f"title must be a text, got title={title!r}; write str(...) of it")
    block_mask.check_fresh()
    if 0 in block_mask.shape:
        raise ArgumentError(
            f"a mask without pairs has no page, got shape={block_mask.shape}; give it queries and keys"
        )
    mask = folded(block_mask)
    name = mod_name(block_mask.mask_mod)
    terms = mask_terms(mask)
    if mask_mod is not None:
        mask, name, terms = _with_mod(mask, mask_mod, name, terms)
    programs = ProgramData(mask.shape)
    mask_index = programs.add(mask.program)
    score_index = None if score_mod is None else programs.add(_score_program(score_mod))
    query_labels, key_labels = _labels(mask, tokens, kv_tokens)
    return {
        "title": name if title is None else title,
        "batch": mask.batch,
        "heads": mask.heads,
        "q_len": mask.q_len,
        "kv_len": mask.kv_len,
        "density": visible_share(mask),
        "counts": block_counts(mask),
        "blocks": blocks_data(mask),
        "overview": overview_data(mask),
        "terms": terms_data(terms, programs),
        "programs": programs.entries,
        "captures": programs.captured.entries,
        "mask": mask_index,
        "score": score_index,
        "tokens": query_labels,
        "kv_tokens": key_labels,
    }


def _with_mod(mask: BlockMask, mask_mod: MaskMod, name: str, terms: Term) -> tuple[BlockMask, str, Term]:
    """The mask that shows what both do, its name and its terms."""
    # The mask's program, not its function: a mask is a snapshot.
    both = and_masks(mask.program, mask_program(mask_mod, "mask_html()"))
    joint = create_block_mask(both, *mask.shape, device=mask.device, BLOCK_SIZE=mask.BLOCK_SIZE)
    label = f"{name} & {mod_name(mask_mod)}"
    return joint, label, joined(label, [terms, mod_terms(mask_mod)])


def _score_program(score_mod: ScoreMod) -> Program:
    require_mod(score_mod, "mask_html()")
    program = trace(score_mod)
    if program.kind is not ModKind.SCORE:
        raise ModError(
            "mask_html() expects score_mod to be a function of (score, b, h, q_idx, kv_idx); "
            f"got the mask_mod {getattr(score_mod, '__name__', score_mod)!r}; give it as mask_mod"
        )
    return program


def _labels(
    mask: BlockMask, tokens: Sequence[str] | None, kv_tokens: Sequence[str] | None
) -> tuple[list[str] | None, list[str] | None]:
    """The labels of queries and keys, checked."""
    if kv_tokens is None and mask.q_len == mask.kv_len:
        kv_tokens = tokens
    return (
        _checked_labels("tokens", tokens, mask.q_len, "query"),
        _checked_labels("kv_tokens", kv_tokens, mask.kv_len, "key"),
    )


def _checked_labels(name: str, labels: object, length: int, noun: str) -> list[str] | None:
    if labels is None:
        return None
    found = list(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else None
    if found is None or not all(isinstance(label, str) for label in found):
        raise ArgumentTypeError(
            f"{name} must be a list of texts, one a {noun}, got {name}={reprlib.repr(labels)}; "
            "write list(...) of what makes them, str(...) of each, and split a text into its words"
        )
    if len(found) != length:
        raise ShapeError(
            f"{name} must hold one text a {noun}, got {len(found)} for {length}; "
            "cut the list, or make the mask as long"
        )
    return found
