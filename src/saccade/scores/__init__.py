"""Ready-made scores: small frozen values, written in the index arithmetic a user would write.

Each tells how it changes a score and whether it can be learned. This package knows nothing of how a score is
read, differentiated or run.
"""

from saccade.scores.alibi import alibi
from saccade.scores.base import Score
from saccade.scores.bias import bias, relative_bias
from saccade.scores.checkerboard import checkerboard
from saccade.scores.decay import distance_decay
from saccade.scores.graphormer import graphormer_bias
from saccade.scores.head_scale import head_scale
from saccade.scores.softcap import softcap
from saccade.scores.t5 import t5_bias

__all__ = [
    "Score",
    "alibi",
    "bias",
    "checkerboard",
    "distance_decay",
    "graphormer_bias",
    "head_scale",
    "relative_bias",
    "softcap",
    "t5_bias",
]
