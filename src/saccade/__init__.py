"""Saccade: programmable attention.

Write which keys a query may see (`mask_mod`) and how a score is changed (`score_mod`) as two Python
functions; Saccade reads them, works out which blocks of the score matrix matter without evaluating every
element, and computes attention over what remains. This module holds public names and nothing else.
"""

from saccade.attention import AuxOutput, AuxRequest, FlexKernelOptions, explain, flex_attention
from saccade.block_mask import BlockMask, create_block_mask, create_mask
from saccade.block_mask.create import _DEFAULT_SPARSE_BLOCK_SIZE as _DEFAULT_SPARSE_BLOCK_SIZE
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    CheckError,
    ControlFlowError,
    DivisionByZeroError,
    DTypeError,
    IndexOutOfRangeError,
    MaskAxisError,
    ModError,
    ProgramError,
    SaccadeError,
    SettingError,
    ShapeError,
    StaleMaskError,
    TraceError,
    UnsupportedError,
    UnsupportedOpError,
)
from saccade.explanation import Explanation
from saccade.ir.program import Program
from saccade.masks import (
    Mask,
    and_masks,
    causal,
    create_padding_mask,
    dense,
    document,
    local,
    natten,
    noop_mask,
    not_mask,
    or_masks,
    padding,
    prefix_lm,
    shift,
    sliding_window,
    xor_masks,
)
from saccade.scores import Score, alibi, bias, relative_bias, softcap
from saccade.signatures import MaskMod, Mod, ScoreMod
from saccade.tracing import register_rule, trace

__version__ = "0.1.0.dev0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "AuxOutput",
    "AuxRequest",
    "BackendError",
    "BlockMask",
    "CheckError",
    "ControlFlowError",
    "DTypeError",
    "DivisionByZeroError",
    "Explanation",
    "FlexKernelOptions",
    "IndexOutOfRangeError",
    "Mask",
    "MaskAxisError",
    "MaskMod",
    "Mod",
    "ModError",
    "Program",
    "ProgramError",
    "SaccadeError",
    "Score",
    "ScoreMod",
    "SettingError",
    "ShapeError",
    "StaleMaskError",
    "TraceError",
    "UnsupportedError",
    "UnsupportedOpError",
    "__version__",
    "alibi",
    "and_masks",
    "bias",
    "causal",
    "create_block_mask",
    "create_mask",
    "create_padding_mask",
    "dense",
    "document",
    "explain",
    "flex_attention",
    "local",
    "natten",
    "noop_mask",
    "not_mask",
    "or_masks",
    "padding",
    "prefix_lm",
    "register_rule",
    "relative_bias",
    "shift",
    "sliding_window",
    "softcap",
    "trace",
    "xor_masks",
]
