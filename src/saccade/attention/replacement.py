"""`replace_sdpa`: models that call torch's `scaled_dot_product_attention`, computed by Saccade.

Owns which of their calls are taken. Nothing of torch is patched: a mode on torch's own stack of modes sees
the calls of one thread, and leaves no trace when it ends. Invariant: each call that the mode sees is either
taken or passed on to torch as it came, and counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from saccade.attention.sdpa import SdpaCall, read_sdpa
from saccade.attention.validate import require_choice
from saccade.errors import BackendError, SaccadeError
from saccade.planner import AUTO, Plan, backend_names

__all__ = ["Replaced", "replace_sdpa"]

_TORCH_SDPA: Callable[..., Tensor] = functional.scaled_dot_product_attention

# Torch functions written in Python that a mode is shown as a whole, and not what they call in turn: that may
# be SDPA, in a backward pass where a checkpoint computes anew.
_SHOWN_WHOLE: frozenset[Callable[..., Any]] = frozenset(
    (functional.multi_head_attention_forward, Tensor.backward, torch.autograd.backward, torch.autograd.grad)
)

_PLAIN = frozenset((Tensor, torch.nn.Parameter))  # tensors without a meaning of their own for a function

# What "auto" may choose and is no gain over the call as it came.
_NO_GAIN: Mapping[str, str] = {
    "sdpa": "it is the function that was called",
    "flex_attention": "it is torch's too, and compiles each pattern for seconds",
    "eager": "it holds every score, and torch's own does not",
}
_SHOWN = 8  # reasons that a repr shows


@final
@dataclass(eq=False, repr=False)
class Replaced:
    """What became of the calls inside a `replace_sdpa` context; it stays readable afterwards.

    Attributes:
        backends: How many calls each backend computed, by its name.
        reasons: How many calls were passed on to torch, by the reason.

    Example:
        >>> replaced = Replaced()
        >>> replaced.backends["cpu"] += 12
        >>> replaced.reasons["a tensor is of the subclass DTensor"] += 1
        >>> replaced
        Replaced(taken=12, passed_on=1)
          12 taken by cpu
           1 passed on: a tensor is of the subclass DTensor
    """

    backends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def taken(self) -> int:
        """How many calls Saccade computed."""
        return sum(self.backends.values())

    @property
    def passed_on(self) -> int:
        """How many calls went to torch."""
        return sum(self.reasons.values())

    def __repr__(self) -> str:
        lines = [(count, f"taken by {name}") for name, count in self.backends.most_common()]
        lines += [(count, f"passed on: {reason}") for reason, count in self.reasons.most_common(_SHOWN)]
        width = max((len(str(count)) for count, _ in lines), default=0)
        shown = [f"Replaced(taken={self.taken}, passed_on={self.passed_on})"]
        shown += [f"  {count:>{width}} {text}" for count, text in lines]
        if len(self.reasons) > _SHOWN:
            shown.append(f"  ... {len(self.reasons) - _SHOWN} more reasons in .reasons")
        return "\n".join(shown)


@contextmanager
def replace_sdpa(backend: str = AUTO) -> Iterator[Replaced]:
    """Let Saccade compute the `scaled_dot_product_attention` calls of models that were written for torch.

    Inside the context, a call of `torch.nn.functional.scaled_dot_product_attention` goes to
    `saccade.scaled_dot_product_attention` wherever its caller got the name from: torch.nn.Transformer, timm,
    diffusers, transformers with `attn_implementation="sdpa"`. A call that Saccade does not take goes to torch
    as it came, and the object that the context gives counts it with the reason. Wrong arguments therefore
    raise torch's own error.

    Passed on are calls for which no engine of Saccade's own exists or accepts (with "auto": running torch's
    function by another way would gain nothing), nested tensors other than `[B, H, j, E]` of layout jagged,
    other tensor subclasses, and calls that are compiled, exported, traced or transformed (torch.compile,
    torch.jit, torch.func, dispatch modes). torch.nn.MultiheadAttention and TransformerEncoder keep off their
    fused inference path in the context, as under every mode, and reach the function instead; asked for
    attention weights (`need_weights=True`) they compute them without it. Calls from TorchScript and from C++
    are not seen.

    The context concerns the thread that enters it; enter it in each thread that calls the model. Contexts
    nest: what the innermost leaves to torch, passed on or by way of the backend "sdpa", the next one sees.
    With activation checkpointing, call `backward` inside the context too, or what is computed anew is
    torch's, and torch may refuse it. Each other torch call inside takes about a microsecond longer.

    Args:
        backend: "auto" for Saccade's own engines, in the planner's order; or the name of one backend, which
            takes what it can.

    Yields:
        A `Replaced`: the calls taken, those passed on, and why.

    Raises:
        ArgumentError: No backend has the name.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> with replace_sdpa(backend="eager") as replaced:
        ...     out = layer(torch.randn(3, 5, 16))
        >>> replaced
        Replaced(taken=1, passed_on=0)
          1 taken by eager
    """
    require_choice("backend", backend, (AUTO, *backend_names()))
    replaced = Replaced()
    with _Replacement(backend, replaced):
        yield replaced


@final
class _Replacement(TorchFunctionMode):
    """The mode: torch shows it every call, and takes it off the stack while it answers one."""

    def __init__(self, backend: str, replaced: Replaced) -> None:
        super().__init__()
        self._backend = backend
        self._replaced = replaced

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer a call of a torch function."""
        kwargs = kwargs or {}
        # Dynamo reads this method too; what it compiles is torch's call and the count.
        compiling = torch.compiler.is_compiling()
        if func is _TORCH_SDPA:
            if not compiling:
                return self._answer(args, kwargs)
            self._replaced.reasons["it is being compiled or exported"] += 1
        elif func in _SHOWN_WHOLE and not compiling and _PLAIN.issuperset(types):
            with self:
                return _opened(func)(*args, **kwargs)
        return func(*args, **kwargs)

    def _answer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        prepared = self._prepare(args, kwargs)
        if isinstance(prepared, str):
            self._replaced.reasons[prepared] += 1
            return _TORCH_SDPA(*args, **kwargs)
        call, chosen = prepared
        self._replaced.backends[chosen.backend] += 1
        return call.run(chosen)

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[SdpaCall, Plan] | str:
        """What to run, or why not."""
        reason = _transformed() or _subclassed((*args, *kwargs.values()))
        if reason is not None:
            return reason
        try:
            call = read_sdpa(*args, **kwargs, backend=self._backend)
            chosen = call.planned()
        except BackendError as fault:
            return self._told(fault.reasons) or "no engine of Saccade's own was there to ask"
        except SaccadeError as fault:
            return str(fault)
        if self._backend == AUTO and chosen.backend in _NO_GAIN:
            return self._told(chosen.refusals) or f"{chosen.backend}: {_NO_GAIN[chosen.backend]}"
        return call, chosen

    def _told(self, refusals: Mapping[str, Sequence[str]]) -> str:
        """The reasons of the backends that could have been a gain."""
        able = [name for name in refusals if self._backend != AUTO or name not in _NO_GAIN]
        return "; ".join(f"{name}: {', '.join(refusals[name])}" for name in able)


def _opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch's that goes to its work at once, not asking first whether a mode would answer."""
    assert isinstance(function, FunctionType), "what is shown whole is written in Python"
    names = dict(function.__globals__)
    names |= {name: _never for name in names if name.startswith("has_torch_function")}
    opened = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


def _never(*_: object) -> bool:
    return False


def _transformed() -> str | None:
    """What stands between the call and its computation here and now."""
    if torch._C._is_tracing():
        return "it is being traced by torch.jit"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "it is inside a transform of torch.func"
    if is_in_torch_dispatch_mode():
        return "a dispatch mode watches its operations"
    return None


def _subclassed(arguments: Sequence[object]) -> str | None:
    for argument in arguments:
        kind = type(argument)
        if isinstance(argument, Tensor) and kind not in _PLAIN and argument.layout is not torch.jagged:
            return f"a tensor is of the subclass {kind.__name__}"
    return None
