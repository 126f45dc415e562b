"""torch's `kernel_options`: tile sizes are hints, BACKEND names a backend, engines read the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

from saccade.attention.validate import require_choice
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.planner import AUTO, backend_names
from saccade.schedule import Schedule

__all__ = ["FlexKernelOptions", "KernelOptions", "read_options"]

_log = logging.getLogger("saccade")


class FlexKernelOptions(TypedDict, total=False):
    """The keys that `kernel_options` takes, each also after `fwd_` or `bwd_`: torch's own, and two more.

    Tile and launch keys are hints to the engine that runs. USE_TMA, SPLIT_KV and max_autotune are for
    `triton`; the other flags only reach torch's own kernels. None of them changes a result.

    Example:
        >>> FlexKernelOptions(BLOCK_M=64, BLOCK_N=64)
        {'BLOCK_M': 64, 'BLOCK_N': 64}
    """

    BLOCK_M: int  # queries a tile of the forward pass holds
    BLOCK_N: int  # keys a tile of the forward pass holds
    BLOCK_M1: int  # queries a tile holds where the backward pass computes dK and dV
    BLOCK_N1: int  # keys of that tile
    BLOCK_M2: int  # queries a tile holds where the backward pass computes dQ
    BLOCK_N2: int  # keys of that tile
    num_warps: int
    num_stages: int
    PRESCALE_QK: bool
    ROWS_GUARANTEED_SAFE: bool
    BLOCKS_ARE_CONTIGUOUS: bool
    WRITE_DQ: bool
    FORCE_USE_FLEX_ATTENTION: bool
    USE_TMA: bool
    kpack: int
    matrix_instr_nonkdim: int
    waves_per_eu: int
    SPLIT_KV: int  # among how many programs the keys of a tile are shared
    max_autotune: bool  # try a few tiles at the first call of a pattern, and remember the fastest
    BACKEND: str  # one of torch's four, or the name of a backend here


# The hint each key gives; keys of torch's kernels that no engine here can use have none.
_HINTS: dict[str, str | None] = {
    "BLOCK_M": "q_tile",
    "BLOCK_N": "kv_tile",
    "BLOCK_M1": "backward_q_tile",
    "BLOCK_N1": "backward_kv_tile",
    "BLOCK_M2": "backward_dq_q_tile",
    "BLOCK_N2": "backward_dq_kv_tile",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
    "PRESCALE_QK": None,
    "ROWS_GUARANTEED_SAFE": None,
    "BLOCKS_ARE_CONTIGUOUS": None,
    "WRITE_DQ": None,
    "FORCE_USE_FLEX_ATTENTION": None,
    "USE_TMA": None,
    "kpack": None,
    "matrix_instr_nonkdim": None,
    "waves_per_eu": None,
    "SPLIT_KV": None,
    "max_autotune": None,
}
_SWITCHES = ("USE_TMA", "max_autotune")  # keys that an engine reads by itself
_COUNTS = ("SPLIT_KV",)  # likewise, and numbers
_SCALARS = (bool, int, float, str)
_PREFIXES = ("fwd_", "bwd_")
_NO_HINTS = Schedule()

# torch's names for its own kernels, which are behind its own function.
_TORCH_NAMES = {
    "AUTO": AUTO,
    "TRITON": "flex_attention",
    "TRITON_DECODE": "flex_attention",
    "FLASH": "flex_attention",
}


class KernelOptions(NamedTuple):
    """What `kernel_options` and `backend` ask for together."""

    backend: str
    schedule: Schedule


def read_options(options: object, backend: str) -> KernelOptions:
    """Read `kernel_options`.

    Args:
        options: torch's dictionary of options, or None.
        backend: The argument of that name, already known to be one.

    Returns:
        The backend to ask, and hints for it.

    Raises:
        ArgumentTypeError: `options` is no dictionary.
        ArgumentError: A key or value is unknown, or BACKEND contradicts `backend` or
            FORCE_USE_FLEX_ATTENTION.

    Example:
        >>> read_options({"BLOCK_M": 64, "BACKEND": "TRITON"}, "auto").backend
        'flex_attention'
    """
    if options is None:
        return KernelOptions(backend, _NO_HINTS)
    if not isinstance(options, Mapping):
        raise ArgumentTypeError(
            f"kernel_options must be a dictionary, got {type(options).__name__} {options!r}; "
            'write kernel_options={"BLOCK_M": 64}'
        )
    # A key with its prefix says more than the same key without.
    keys = sorted(options, key=lambda key: str(key).startswith(_PREFIXES))
    hints: dict[str, Any] = {}
    unused: list[str] = []
    for key in keys:
        hint = _hint_of(key)
        if hint is not None:
            _require_size(key, options[key])
            hints[hint] = options[key]
        elif _base(key) in _COUNTS:
            _require_size(key, options[key])
        elif _base(key) in _SWITCHES:
            _require_bool(key, options[key])
        elif key != "BACKEND":
            _require_scalar(key, options[key])
            unused.append(key)
    if unused:
        _log.debug("kernel_options %s have no meaning to Saccade's own engines", ", ".join(unused))
    backend = _chosen_backend(options, backend)
    for_torch = tuple((key, options[key]) for key in keys if key != "BACKEND" or options[key] in _TORCH_NAMES)
    return KernelOptions(backend, Schedule(**hints, engine_options=for_torch))


def _hint_of(key: object) -> str | None:
    """The field of Schedule that a key sets; None where it sets none."""
    if key == "BACKEND":
        return None
    base = _base(key)
    if base not in _HINTS:
        known = ", ".join(_HINTS)
        raise ArgumentError(
            f"kernel_options has no key {key!r}; it takes BACKEND and, alone or after fwd_ or bwd_, {known}"
        )
    hint = _HINTS[base]
    # The forward pass has no use for a tile of the backward, nor the other way round.
    other_pass = hint is not None and key == ("fwd_" if hint.startswith("backward_") else "bwd_") + base
    return None if other_pass else hint


def _base(key: object) -> str:
    """A key without its prefix."""
    text = str(key)
    return text[4:] if text.startswith(_PREFIXES) else text


def _require_size(key: object, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"kernel_options[{key!r}] must be an integer of 1 or more, got {value!r}")


def _require_bool(key: object, value: object) -> None:
    if not isinstance(value, bool):
        raise ArgumentError(f"kernel_options[{key!r}] must be True or False, got {value!r}")


def _require_scalar(key: object, value: object) -> None:
    # A schedule is compared and hashed, and torch puts the value into a kernel's text.
    if value is not None and not isinstance(value, _SCALARS):
        raise ArgumentError(
            f"kernel_options[{key!r}] must be a bool, number or string, got {type(value).__name__} {value!r}"
        )


def _chosen_backend(options: Mapping[str, object], backend: str) -> str:
    if "BACKEND" not in options:
        return backend
    given = options["BACKEND"]
    if options.get("FORCE_USE_FLEX_ATTENTION"):
        raise ArgumentError(
            f"kernel_options takes BACKEND or FORCE_USE_FLEX_ATTENTION, got both: BACKEND={given!r}; "
            "BACKEND says more, so leave the other out"
        )
    require_choice('kernel_options["BACKEND"]', given, (*_TORCH_NAMES, *backend_names()))
    chosen = _TORCH_NAMES.get(str(given), str(given))
    if AUTO not in (backend, chosen) and chosen != backend:
        raise ArgumentError(
            'expected backend= and kernel_options["BACKEND"] to agree, got '
            f"backend={backend!r} and BACKEND={given!r}; leave one of them out"
        )
    return backend if chosen == AUTO else chosen
