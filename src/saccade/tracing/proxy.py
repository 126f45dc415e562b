"""The value a mod is called with: looks like a tensor without axes, and records what is done to it.

Not a Tensor subclass: a plain class with operators and `__torch_function__` costs a tenth of one, and torch
routes every use of it here, `tensor[value]` included. It has no number: whatever asks for one raises
`ControlFlowError`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NoReturn, final

import torch

from saccade.errors import ControlFlowError, TraceError
from saccade.ir.program import Program
from saccade.tracing import arithmetic, logic, reductions
from saccade.tracing.dtypes import TORCH
from saccade.tracing.indexing import getitem
from saccade.tracing.inline import inline
from saccade.tracing.origin import TRUTH
from saccade.tracing.registration import op_name
from saccade.tracing.rules import METHODS, refusal, rule_for
from saccade.tracing.value import Value

__all__ = ["Proxy"]


def _with_keywords(rule: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a rule, and explain if it has no such arguments."""
    try:
        return rule(*args, **kwargs)
    except TypeError as error:
        traceback = error.__traceback__
        if traceback is None or traceback.tb_next is not None:
            raise
        given = f"{len(args)} by position and the keywords ({', '.join(kwargs)})"
        raise TraceError(
            f"{op_name(func)} in a mod takes fewer arguments than in torch, got {given}; "
            "leave out those that choose memory, or compute it outside the mod"
        ) from error


def _method(rule: Any, name: str, value: Value, *args: Any, **kwargs: Any) -> Any:
    """A method of a traced value."""
    return _with_keywords(rule, getattr(torch.Tensor, name), (value, *args), kwargs)


@final
class Proxy(Value):
    """A traced tensor: what mods compute with."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy scalars and arrays leave operators to the methods below

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a torch function or a tensor's method that was given a traced value."""
        rule = rule_for(func)
        if kwargs:
            return _with_keywords(rule, func, args, kwargs)
        return rule(*args)

    def __getattr__(self, name: str) -> Any:
        rule = METHODS.get(name)
        if rule is not None:
            return partial(_method, rule, name, self)
        if name.startswith("__") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"a traced value has no attribute {name!r}, because a tensor has none")
        raise refusal(getattr(torch.Tensor, name))

    def __repr__(self) -> str:
        return f"<traced {str(self.dtype).removeprefix('torch.')}{list(self.shape)}: {self.expr!r}>"

    def __saccade_inline__(self, program: Program, args: tuple[Any, ...]) -> Value:
        """Answer a program that is called as a mod inside another mod."""
        return inline(program, args, self)

    # What a tensor tells of itself.

    @property
    def dtype(self) -> torch.dtype:
        """The type torch would give the value."""
        return TORCH[self.stored]

    @property
    def device(self) -> torch.device:
        """The device the trace was asked to name."""
        return self.recorder.device

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def requires_grad(self) -> bool:
        """Whether a derivative can flow through the value."""
        return self.stored.is_float

    @property
    def mT(self) -> Any:
        """The last two axes exchanged."""
        return METHODS["transpose"](self, -1, -2)

    def dim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one extent of it."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def is_floating_point(self) -> bool:
        """Whether the value is a float."""
        return self.stored.is_float

    # Operators.

    __add__ = arithmetic.add
    __sub__ = arithmetic.subtract
    __mul__ = arithmetic.multiply
    __truediv__ = arithmetic.divide
    __floordiv__ = arithmetic.floor_divide
    __mod__ = arithmetic.remainder
    __pow__ = arithmetic.power
    __neg__ = arithmetic.negative
    __pos__ = arithmetic.positive
    __abs__ = arithmetic.absolute
    __and__ = logic.bitwise_and
    __or__ = logic.bitwise_or
    __xor__ = logic.bitwise_xor
    __invert__ = logic.bitwise_not
    __lshift__ = logic.shift_left
    __rshift__ = logic.shift_right
    __eq__ = logic.equal  # type: ignore[assignment]
    __ne__ = logic.not_equal  # type: ignore[assignment]
    __lt__ = logic.less
    __le__ = logic.less_equal
    __gt__ = logic.greater
    __ge__ = logic.greater_equal
    __matmul__ = reductions.matmul
    __getitem__ = getitem

    def __radd__(self, other: Any) -> Value:
        return arithmetic.add(other, self)

    def __rsub__(self, other: Any) -> Value:
        return arithmetic.subtract(other, self)

    def __rmul__(self, other: Any) -> Value:
        return arithmetic.multiply(other, self)

    def __rtruediv__(self, other: Any) -> Value:
        return arithmetic.divide(other, self)

    def __rfloordiv__(self, other: Any) -> Value:
        return arithmetic.floor_divide(other, self)

    def __rmod__(self, other: Any) -> Value:
        return arithmetic.remainder(other, self)

    def __rpow__(self, other: Any) -> Value:
        return arithmetic.power(other, self)

    def __rand__(self, other: Any) -> Value:
        return logic.bitwise_and(other, self)

    def __ror__(self, other: Any) -> Value:
        return logic.bitwise_or(other, self)

    def __rxor__(self, other: Any) -> Value:
        return logic.bitwise_xor(other, self)

    def __rlshift__(self, other: Any) -> Value:
        return logic.shift_left(other, self)

    def __rrshift__(self, other: Any) -> Value:
        return logic.shift_right(other, self)

    # What has no answer, because the value stands for every pair at once.

    def __bool__(self) -> NoReturn:
        raise ControlFlowError(TRUTH)

    # Python wants one beside __eq__, which here compares numbers, as for tensors.
    def __hash__(self) -> NoReturn:
        raise ControlFlowError(
            "a traced value cannot be a key of a dict or set: it stands for every pair at once; "
            "make a tensor of the values with torch.tensor(...) outside the mod, and index or compare that"
        )

    def __index__(self) -> NoReturn:
        raise ControlFlowError(
            "a traced value cannot index a list or bound a range(): it stands for every pair at once; "
            "make a tensor of the list with torch.tensor(...) outside the mod, and index that"
        )

    def __int__(self) -> NoReturn:
        raise ControlFlowError(
            "int() needs a number, and a traced value stands for every pair at once; use .long()"
        )

    def __float__(self) -> NoReturn:
        raise ControlFlowError(
            "float() needs a number, and a traced value stands for every pair at once; use .float()"
        )

    def __complex__(self) -> NoReturn:
        raise ControlFlowError("complex() needs a number, and mods have no complex values; use two tensors")

    def __len__(self) -> int:
        if not self.shape:
            raise ControlFlowError(
                "len() of a traced value without axes; it is a single element of every pair"
            )
        return self.shape[0]

    def __iter__(self) -> Any:
        if not self.shape:
            raise ControlFlowError(
                "a traced value without axes cannot be iterated; it is a single element of every pair"
            )
        return (getitem(self, position) for position in range(self.shape[0]))

    def __contains__(self, item: object) -> NoReturn:
        raise ControlFlowError(
            "`in` needs numbers, and a traced value has none; write (values == item).any()"
        )

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        raise ControlFlowError(
            "numpy needs numbers, and a traced value stands for every pair at once; "
            "use torch functions, and tensors made with torch.from_numpy(...) outside the mod"
        )

    def item(self) -> NoReturn:
        """Refuse: there is no number to give."""
        raise ControlFlowError(
            ".item() needs a number, and a traced value stands for every pair at once; leave it out"
        )

    def tolist(self) -> NoReturn:
        """Refuse: there is no number to give."""
        raise ControlFlowError(
            ".tolist() needs numbers, and a traced value stands for every pair at once; leave it out"
        )

    def numpy(self) -> NoReturn:
        """Refuse: there is no array to give."""
        raise ControlFlowError(
            ".numpy() needs numbers, and a traced value stands for every pair at once; use torch functions"
        )

    def __setitem__(self, index: object, value: object) -> NoReturn:
        raise TraceError("a mod cannot write to a tensor; build the result with torch.where(condition, a, b)")
