"""Saccade: programmable attention.

Write which keys a query may see (`mask_mod`) and how a score is changed (`score_mod`) as two Python
functions; Saccade reads them, works out which blocks of the score matrix matter without evaluating every
element, and computes attention over what remains. This module holds public names and nothing else.
"""

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
from saccade.signatures import MaskMod, Mod, ScoreMod

__version__ = "0.1.0.dev0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "CheckError",
    "ControlFlowError",
    "DTypeError",
    "DivisionByZeroError",
    "IndexOutOfRangeError",
    "MaskAxisError",
    "MaskMod",
    "Mod",
    "ModError",
    "ProgramError",
    "SaccadeError",
    "ScoreMod",
    "SettingError",
    "ShapeError",
    "StaleMaskError",
    "TraceError",
    "UnsupportedError",
    "UnsupportedOpError",
]
