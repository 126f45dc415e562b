"""Attention as a torch operator, for torch's compilers and everything else that works on its dispatcher.

`operator` registers it, `encoding` says what its arguments mean, `unpacking` makes their block mask whole
again, and `routing` decides which calls go through it.
"""

from saccade.torch_ops.operator import attention
from saccade.torch_ops.routing import goes_through_operator

__all__ = ["attention", "goes_through_operator"]
