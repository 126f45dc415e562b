"""The GPU engine's host side: from a problem and operands to arguments of a Triton kernel, and back.

`backend` says what the engine takes, `specialise` chooses kernel and tile, `kernels` has it compiled. `call`
is the way of a call: `operands` and `arguments` name what a kernel is given, `blocks` says which blocks it
walks, `ranges` how it walks them and `tables` keeps that on the device. `backward` is the same way for
gradients.
"""

from saccade.backends.triton.backend import TritonBackend

__all__ = ["TritonBackend"]
