"""What captured integers hold, as far as a pattern depends on it.

Tensors are read where they live, and one answer comes back for each. What a compiler only pretends is there
stays unknown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.backends.patterns.terms import terms_of
from saccade.ir.program import Array, Program
from saccade.problem import Contents

__all__ = ["can_look", "contents_of"]

_UNKNOWN = Contents()
_INT32 = torch.iinfo(torch.int32)
_PLAIN = Tensor.__torch_dispatch__


def can_look() -> bool:
    """Tell whether tensors can be read here and now.

    Not inside a transform of torch.func, a trace, or a capture of a graph of kernels.

    Example:
        >>> can_look(), torch.func.vmap(lambda x: x + can_look())(torch.zeros(1)).item()
        (True, 0.0)
    """
    if torch._C._functorch.peek_interpreter_stack() is not None or torch._C._is_tracing():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def contents_of(program: Program) -> tuple[Contents, ...]:
    """Return what is known of a mask's captured tensors, by slot; () where no pattern depends on it.

    Args:
        program: A mask.

    Example:
        >>> from saccade.masks import document
        >>> from saccade.tracing import trace
        >>> contents_of(trace(document(torch.tensor([7, 7, 3, 3, 3]))))
        (Contents(in_runs=True, fits_int32=True),)
        >>> contents_of(trace(document(torch.tensor([7, 3, 7]))))
        (Contents(in_runs=False, fits_int32=True),)
    """
    if not program.captures or not all(type(number) in (int, float, bool) for number in program.numbers):
        return ()
    terms = terms_of(program.structure, program.numbers)
    if terms is None:
        return ()
    slots = {lookup.slot for lookup in terms.documents + terms.lookups}
    return tuple(
        [_contents(each) if slot in slots else _UNKNOWN for slot, each in enumerate(program.captures)]
    )


def _contents(array: Array) -> Contents:
    tensor = array if isinstance(array, Tensor) else torch.as_tensor(array, device="cpu")
    if not _is_readable(tensor):
        return _UNKNOWN
    if tensor.numel() == 0:
        return Contents(in_runs=True, fits_int32=True)
    # Wide enough for the limits: a narrower tensor would wrap what it is compared with.
    low, high = (bound.long() for bound in torch.aminmax(tensor))
    facts = [(low >= _INT32.min) & (high <= _INT32.max)]
    if tensor.dim() > 0:
        # Sorted, each element has one run: those that stand in runs have as many before.
        facts.append((_changes(tensor) == _changes(tensor.sort(dim=-1).values)).all())
    fits, in_runs = [*torch.stack(facts).tolist(), False][:2]
    return Contents(in_runs, fits)


def _changes(rows: Tensor) -> Tensor:
    """How often each row changes its value: [..., S] -> [...]."""
    return (rows[..., 1:] != rows[..., :-1]).sum(dim=-1)


def _is_readable(tensor: Tensor) -> bool:
    """Whether a tensor is itself, not a stand-in that a compiler asks about."""
    return type(tensor).__torch_dispatch__ is _PLAIN and not tensor.is_meta
