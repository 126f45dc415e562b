"""Which backend computes the attention of a module: held by each module, switched for a whole model.

Owns the attribute `attn_implementation` and `set_attn_implementation`; what a backend can do is the planner's
to say, at the call. Invariant: a module always holds "auto" or the name of a backend, and a switch that
raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from torch import nn

from saccade.attention.validate import require_choice
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.planner import AUTO, backend_names

__all__ = ["AttentionModule", "set_attn_implementation"]

_SHOWN = 8  # module names that an error lists


class AttentionModule(nn.Module):
    """A module that computes attention by a backend of its own choice; the base of those here.

    Args:
        attn_implementation: "auto", or the name of a backend.

    Raises:
        ArgumentError: No backend has the name.
    """

    _attn_implementation: str

    def __init__(self, attn_implementation: str) -> None:
        super().__init__()
        self.attn_implementation = attn_implementation

    @property
    def attn_implementation(self) -> str:
        """Who computes the attention, "auto" or the name of a backend; may be assigned at any time."""
        return self._attn_implementation

    @attn_implementation.setter
    def attn_implementation(self, name: str) -> None:
        require_choice("attn_implementation", name, (AUTO, *backend_names()))
        self._attn_implementation = name


def set_attn_implementation(model: nn.Module, implementation: str | Mapping[str, str]) -> None:
    """Switch who computes the attention of a model's Saccade modules, without touching their parameters.

    It takes effect at the next call; a model may be switched between training and evaluation, or to "eager"
    for a comparison. When anything is wrong, nothing is switched.

    Args:
        model: A model with modules of `saccade.nn` inside, or such a module itself.
        implementation: "auto" or the name of a backend ("cpu", "sdpa", "flex_attention", "eager") for all; or
            a dictionary from the names of submodules, as in `named_modules()`, to such names. A key stands
            for all that is below it, "" for the whole model; of several keys the longest counts, and modules
            that no key stands for keep theirs.

    Raises:
        ArgumentTypeError: `model` is no module, or `implementation` neither text nor a dictionary.
        ArgumentError: There is no backend of a name, no submodule of a key, or no Saccade module in the model
            or below a key; the dictionary is empty; or a module that is reached by two names would get two
            backends.

    Example:
        >>> from saccade.nn import MultiheadFlexAttention
        >>> model = nn.ModuleDict({
        ...     "encoder": MultiheadFlexAttention(8, 8, 2), "decoder": MultiheadFlexAttention(8, 8, 2)
        ... })
        >>> set_attn_implementation(model, {"": "eager", "decoder": "cpu"})
        >>> model["encoder"].attn_implementation, model["decoder"].attn_implementation
        ('eager', 'cpu')
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    wanted = _backends_by_key(implementation)
    names = [name for name, module in _all_modules(model).items() if isinstance(module, AttentionModule)]
    if not names:
        raise ArgumentError(
            f"model must hold modules of saccade.nn, got a {type(model).__name__} without any; "
            "build its attention from them, or call it inside saccade.replace_sdpa(backend=...)"
        )
    for key in wanted:
        _require_reach(key, names, model)
    for module, backend in _choices(model, wanted):
        module.attn_implementation = backend


def _all_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by every name that leads to it; the model's own is empty."""
    return dict(model.named_modules(remove_duplicate=False))


def _backends_by_key(implementation: object) -> dict[str, str]:
    choices = (AUTO, *backend_names())
    if isinstance(implementation, str):
        require_choice("implementation", implementation, choices)
        return {"": implementation}
    if not isinstance(implementation, Mapping):
        raise ArgumentTypeError(
            "implementation must be the name of a backend, or a dictionary from names of submodules to such "
            f'names, got {type(implementation).__name__} {implementation!r}; "auto" leaves it to Saccade'
        )
    if not implementation:
        raise ArgumentError(
            "implementation must name a submodule at least, got {}, which switches nothing; "
            'give "auto" or the name of a backend for the whole model'
        )
    for key, backend in implementation.items():
        require_choice(f"implementation[{key!r}]", backend, choices)
    return dict(implementation)


def _require_reach(key: object, names: Collection[str], model: nn.Module) -> None:
    """Check that a key stands for at least one of the modules of these names."""
    if any(_stands_for(key, name) for name in names):
        return
    if key in _all_modules(model):
        fault = f"{key!r}, below which there is no module of saccade.nn"
    else:
        fault = f"{key!r}, which {type(model).__name__} does not have"
    near = get_close_matches(str(key).strip("."), {part for name in names for part in _prefixes(name)}, n=1)
    shown = ", ".join(repr(name) for name in list(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise ArgumentError(
        f"implementation must name submodules with attention of saccade.nn, got {fault}; "
        + (f"did you mean {near[0]!r}? " if near else "")
        + f'there are {shown}{more}, and "" stands for the whole model'
    )


def _choices(model: nn.Module, wanted: Mapping[str, str]) -> list[tuple[AttentionModule, str]]:
    """What each module is to get; those that keep what they have are left out."""
    chosen: dict[AttentionModule, tuple[str, str]] = {}
    for name, module in _all_modules(model).items():
        keys = [key for key in wanted if _stands_for(key, name)]
        if not keys or not isinstance(module, AttentionModule):
            continue
        backend = wanted[max(keys, key=len)]
        other_name, other = chosen.setdefault(module, (name, backend))
        if other != backend:
            raise ArgumentError(
                f"implementation must give a module one backend, got {other!r} for {other_name!r} and "
                f"{backend!r} for {name!r}, which are the same module; give both the same"
            )
    return [(module, backend) for module, (_, backend) in chosen.items()]


def _stands_for(key: object, name: str) -> bool:
    return key in ("", name) or name.startswith(f"{key}.")


def _prefixes(name: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]
