"""The CPU engine's host side: from a problem and operands to arguments of a compiled kernel, and back.

`backend` says what the engine takes, `specialise` chooses kernel and tiles, `kernels` has it compiled. `call`
is the way of a call: `operands` says in which order its programs and blocks reach a kernel, `work` what is
visited, `walk` keeps how a kernel runs over it, `arguments` fills the argument block, `launch` lends memory
and threads, `pace` cuts the work for Ctrl-C, `poison` finds the user's error. `backward` is the same way for
gradients, its chunks cut by `backward_work`. `empty` is the engine where there is no pair.
"""

from saccade.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
