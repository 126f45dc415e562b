"""Ready-made scores: small frozen values, written in the index arithmetic a user would write.

Each tells how it changes a score and whether it can be learned. This package knows nothing of how a score is
read, differentiated or run.
"""

from saccade.scores.alibi import alibi
from saccade.scores.base import Score
from saccade.scores.bias import bias, relative_bias
from saccade.scores.softcap import softcap

__all__ = ["Score", "alibi", "bias", "relative_bias", "softcap"]
