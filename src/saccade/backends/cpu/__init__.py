"""The CPU engine's host side: from a problem and operands to arguments of a compiled kernel, and back.

`backend` says what the engine takes, `specialise` chooses kernel and tiles, `kernels` has it compiled. `call`
is the way of a call: `work` says what is visited, `arguments` fills the argument block, `launch` lends memory
and threads, `pace` cuts the work for Ctrl-C, `poison` finds the user's error. `empty` is the engine where
there is no pair. `backward` is the same way for gradients, its chunks cut by `backward_work`; nothing calls
it yet. `operands` says in which order a call's programs and blocks reach either.
"""

from saccade.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
