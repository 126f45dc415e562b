"""Every exception that Saccade raises, as one tree.

A class inherits `SaccadeError` and the builtin that PyTorch or Python raises in the same situation, so code
written for either keeps working:

    SaccadeError
    ├── ArgumentError              ValueError           an argument has a value that cannot be used
    │   ├── ShapeError             ValueError           a shape does not fit the others
    │   ├── DTypeError             ValueError           a dtype does not fit the others
    │   ├── MaskAxisError          ValueError           a mask reads b or h on an axis it was built without
    │   └── OperandError           + RuntimeError       operands clash, or one has no memory
    ├── ArgumentTypeError          TypeError            an argument is the wrong kind of object
    │   └── ModError               + RuntimeError       what was given as a mod is none
    ├── SettingError               ValueError           an environment variable holds a bad value
    ├── TraceError                 RuntimeError         a mod could not be read
    │   ├── ControlFlowError       + TypeError          it asks for the value of a traced number
    │   └── UnsupportedOpError     + NotImplementedError  it uses an operation without a rule
    ├── ProgramError               ValueError           a program is malformed, or its text does not parse
    ├── IndexOutOfRangeError       IndexError           a mod indexes a tensor out of range where it matters
    ├── DivisionByZeroError        ZeroDivisionError    a mod divides by integer zero where it matters
    ├── StaleMaskError             RuntimeError         a tensor changed after the mask was made from it
    ├── MaskMismatchError          AssertionError       two masks that should be the same differ
    ├── CheckError                 AssertionError       a benchmark found a wrong result, and timed nothing
    ├── CompilationError           RuntimeError         a compiler refused a kernel that Saccade wrote
    │   └── OutOfResourcesError    RuntimeError         a kernel needs more memory than the device has
    ├── MissingPackageError        ImportError          an optional package is not installed
    └── UnsupportedError           NotImplementedError  the request is valid, and not offered
        └── BackendError           NotImplementedError  no backend, or not the one named, accepts the call

A message says what was expected, what was given (`name=value`) and what to do. This module holds no wording
of single errors: that stands where the fault is found. Every instance survives pickling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "CheckError",
    "CompilationError",
    "ControlFlowError",
    "DTypeError",
    "DivisionByZeroError",
    "IndexOutOfRangeError",
    "MaskAxisError",
    "MaskMismatchError",
    "MissingPackageError",
    "ModError",
    "OperandError",
    "OutOfResourcesError",
    "ProgramError",
    "SaccadeError",
    "SettingError",
    "ShapeError",
    "StaleMaskError",
    "TraceError",
    "UnsupportedError",
    "UnsupportedOpError",
]


class SaccadeError(Exception):
    """The root of the tree: catch it to catch everything that Saccade raises on purpose."""


class ArgumentError(SaccadeError, ValueError):
    """An argument has a value that cannot be used.

    Raised before any work is done. The message names the argument, its value and the values that would do.
    """


class ShapeError(ArgumentError):
    """A tensor's shape does not fit the shapes it is used with.

    The message gives both shapes; transpose, slice or pad one of them as it says.
    """


class DTypeError(ArgumentError):
    """A tensor's dtype does not fit the dtypes it is used with, or an operation on it.

    The message names both dtypes; convert one with `.to(...)`.
    """


class MaskAxisError(ArgumentError):
    """A mask depends on the batch or the head, and was built for, or is used with, another number of them.

    Raised when a mod reads `b` with `B=None` (or `h` with `H=None`), and when a mask of one batch that reads
    `b` meets a larger batch. Build the mask with the B and H of the tensors it is used with.
    """


class OperandError(ArgumentError, RuntimeError):
    """The arguments of `scaled_dot_product_attention` do not fit each other, or a tensor cannot be read.

    It is a RuntimeError too because torch raises that there. The message gives the shapes, dtypes or values
    that clash, or the tensor whose storage was freed or resized.
    """


class ArgumentTypeError(SaccadeError, TypeError):
    """An argument is the wrong kind of object: a mod that cannot be called, a factory passed uncalled.

    The message shows what was given and, for a factory, the call that was meant.
    """


class ModError(ArgumentTypeError, RuntimeError):
    """What was given as a mask_mod or score_mod is none: not callable, or a factory passed uncalled.

    It is a RuntimeError too because torch's `and_masks` and `or_masks` raise that.
    """


class SettingError(SaccadeError, ValueError):
    """An environment variable of Saccade holds a value that its type does not admit.

    The message names the variable, its value and what it accepts; correct it, or unset it for the default.
    """


class TraceError(SaccadeError, RuntimeError):
    """A mask_mod or score_mod could not be read as a program.

    The message gives the file, line and source text of the user's function, and the form that can be read.
    """


class ControlFlowError(TraceError, TypeError):
    """A mod asks for the value of a traced number: `if`, `and`, `or`, `not`, `.item()`, `float()`, `int()`.

    A mod describes every pair at once, so no single value exists. Write `torch.where` for a choice and
    `&`, `|`, `~` for logic. It is a TypeError too because Python's own conversions raise that.
    """


class UnsupportedOpError(TraceError, NotImplementedError):
    """A mod uses an operation for which there is no rule.

    The message names the operation. Write it with supported ones, compute it outside the mod into a tensor
    that the mod indexes, or give it a rule with `saccade.register_rule`.
    """


class ProgramError(SaccadeError, ValueError):
    """A program breaks the rules of the intermediate representation, or its text does not parse.

    Raised by the verifier and the parser. A program that came from `saccade.trace` never raises it: if one
    does, that is a fault of Saccade worth reporting.
    """


class IndexOutOfRangeError(SaccadeError, IndexError):
    """A mod indexes a captured tensor out of range, and the outcome depends on what would be there.

    Hidden pairs have no say: the error means that a visible pair, or the mask of a pair in range, reads
    outside. The message names tensor, index and pair; guard the index with `torch.where` or `clamp`.
    Also raised by a BlockMask that is indexed beyond its batches, heads or query blocks.
    """


class DivisionByZeroError(SaccadeError, ZeroDivisionError):
    """A mod takes an integer quotient or remainder by zero, and the outcome depends on it.

    The message names the pair; guard the divisor with `torch.where` or `clamp`.
    """


class StaleMaskError(SaccadeError, RuntimeError):
    """A tensor that a BlockMask was made from has changed since.

    A BlockMask is a snapshot of its tensors. Call `mask.refreshed()` for a mask of their present values.
    """


class MaskMismatchError(SaccadeError, AssertionError):
    """Two masks that a test says are the same differ: `saccade.testing.assert_same_mask` found where.

    The message tells the first differing pair, how many there are, which mask shows what, and draws the pairs
    around the first.
    """


class CheckError(SaccadeError, AssertionError):
    """A benchmark checked a result before timing it, and it was wrong.

    That is a fault of Saccade worth reporting: the message names the case and the difference.
    """


class CompilationError(SaccadeError, RuntimeError):
    """A compiler, LLVM or Triton, refused a kernel that Saccade wrote.

    That is a fault of Saccade worth reporting: the message names the kernel and the compiler's complaint. The
    kernel's text is in the file that the message names, or went to the logger `saccade` at DEBUG. Another
    backend may take the call meanwhile.
    """


class OutOfResourcesError(CompilationError):
    """A kernel needs more shared memory, tensor memory or threads than a block of the device has.

    A smaller tile or fewer stages need less.

    Attributes:
        resource: What is short, in words; empty where several kernels lack various things.
        required: How much the kernel needs.
        limit: How much there is.
    """

    def __init__(self, message: str, *, resource: str = "", required: int = 0, limit: int = 0) -> None:
        self.resource = resource
        self.required = required
        self.limit = limit
        super().__init__(message)


class MissingPackageError(SaccadeError, ImportError):
    """An optional package is not installed. The message shows the command that installs it."""


class UnsupportedError(SaccadeError, NotImplementedError):
    """A request is valid but not offered. The message says what is, and how to reach the same end."""


class BackendError(UnsupportedError):
    """No backend accepts a call, or the one asked for by name does not.

    The text shows every candidate with every reason it gave. Change what one of them objects to, or name a
    backend that accepts the call.

    Args:
        summary: One sentence: what was asked, of which backends.
        reasons: Backend name to the reasons it gave for refusing, in the order the backends were tried.
        remedy: What the user can do; shown last. Empty when the reasons speak for themselves.

    Example:
        >>> print(BackendError("no backend accepts this call.", {"sdpa": ["it has a score_mod"]}))
        no backend accepts this call.
          sdpa: it has a score_mod
    """

    def __init__(self, summary: str, reasons: Mapping[str, Sequence[str]], remedy: str = "") -> None:
        self.summary = summary
        self.reasons: dict[str, list[str]] = {name: list(given) for name, given in reasons.items()}
        self.remedy = remedy
        super().__init__(summary, self.reasons, remedy)

    def __str__(self) -> str:
        lines = [self.summary]
        for name, given in self.reasons.items():
            if len(given) == 1:
                lines.append(f"  {name}: {given[0]}")
            else:
                lines.append(f"  {name}:")
                lines.extend(f"    - {reason}" for reason in given)
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)
