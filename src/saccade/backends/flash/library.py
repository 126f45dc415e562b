"""What differs between the flash-attn libraries: where they live, what they take, how they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, cast, final

import torch

__all__ = [
    "FLASH_ATTENTION_2",
    "FLASH_ATTENTION_3",
    "FLASH_ATTENTION_4",
    "Library",
    "any_is_installed",
    "capability",
]

_DENSE = ("softmax_scale", "causal", "window_size")
# softcap came with version 2.6, and with it lse of [H, tokens]: older ones pad it to the longest sequence.
_PACKED = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "softcap", *_DENSE)


@final
@dataclass(frozen=True)
class Library:
    """One library. Its functions take `[B, S, H, D]`, or `[tokens, H, D]` of sequences end to end.

    Attributes:
        module: Where its functions are.
        install: How to get it.
        lse_flag: The parameter that asks for lse.
        no_limit: What its `window_size` has for a side without a limit.
        majors: The major compute capabilities that its kernels are written for.
        gpus: Those in words.
        head_dims: The head dimensions it takes, the same for queries, keys and values.
        dims: Those in words.
        ordered_majors: The major compute capabilities where its backward can sum in a fixed order.
        ordered_dim: The largest head dimension for which it can.
        plain_gradients: Major compute capabilities where its backward takes neither windows nor sequences
            end to end.
    """

    module: str
    install: str
    lse_flag: str
    no_limit: int | None
    majors: range
    gpus: str
    head_dims: range
    dims: str
    ordered_majors: range
    ordered_dim: int
    plain_gradients: tuple[int, ...] = ()

    @property
    def package(self) -> str:
        """The name it is imported by."""
        return self.module.removesuffix(".flash_attn_interface")

    def is_installed(self) -> bool:
        """Tell whether its files are there; nothing is imported."""
        return _is_installed(self.module)

    def faults(self) -> list[str]:
        """Return why what is installed cannot be called, importing it the first time."""
        return list(_faults(self))

    def function(self, *, packed: bool) -> Callable[..., Any]:
        """Return its function for a batch, or for sequences end to end."""
        found: Callable[..., Any] = getattr(_imported(self.module), _name(packed))
        return found

    def takes_deterministic(self, *, packed: bool) -> bool:
        """Tell whether a function of it can be asked to sum gradients in a fixed order."""
        return "deterministic" in _parameters(self.function(packed=packed))


def capability() -> tuple[int, int] | None:
    """Return the compute capability of the current NVIDIA GPU; None without one.

    The tensors may be on another: a problem tells the type of its device alone.
    """
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability()


def any_is_installed() -> bool:
    """Tell whether some flash-attn library is installed.

    Example:
        >>> any_is_installed() == any(one.is_installed() for one in LIBRARIES)
        True
    """
    return any(library.is_installed() for library in LIBRARIES)


@cache
def _is_installed(module: str) -> bool:
    package, _, rest = module.partition(".")
    try:
        spec = find_spec(package)
    except ValueError:  # a module of that name was put into sys.modules and comes from no file
        return False
    if spec is None or not rest:
        return spec is not None
    # Looked for by its file: to ask for the spec of a submodule would import the package around it.
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest.split("."))
        if place.is_dir() or place.with_suffix(".py").is_file():
            return True
    return False


@cache
def _imported(module: str) -> ModuleType:
    return import_module(module)


@cache
def _faults(library: Library) -> tuple[str, ...]:
    try:
        module = _imported(library.module)
    except Exception as error:  # a build for another torch, or a broken one, raises whatever it meets
        what = f"{type(error).__name__}: {error}"
        reason = f"its package {library.package} is installed and cannot be imported ({what})"
        return (f"{reason}; reinstall it for this torch: {library.install}",)
    missing = []
    for packed, names in ((False, _DENSE), (True, _PACKED)):
        parameters = _parameters(getattr(module, _name(packed), None))
        missing += [
            f"{_name(packed)}({name}=)" for name in (*names, library.lse_flag) if name not in parameters
        ]
    if not missing:
        return ()
    lacking = " or ".join(missing)
    return (f"the installed {library.package} has no {lacking}; install a newer one: {library.install}",)


def _parameters(function: object) -> frozenset[str]:
    """The names of a function's parameters; none of what is no function, or keeps them to itself."""
    try:
        return frozenset(signature(cast("Callable[..., Any]", function)).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _name(packed: bool) -> str:
    return "flash_attn_varlen_func" if packed else "flash_attn_func"


FLASH_ATTENTION_2 = Library(
    module="flash_attn.flash_attn_interface",
    install="pip install flash-attn --no-build-isolation",
    lse_flag="return_attn_probs",
    no_limit=-1,
    majors=range(8, 13),
    gpus="8.0 to 12.x (Ampere and later)",
    head_dims=range(8, 257, 8),
    dims="multiples of 8 up to 256",
    ordered_majors=range(8, 13),
    ordered_dim=256,
)

FLASH_ATTENTION_3 = Library(
    module="flash_attn_interface",
    install="build the folder hopper of github.com/Dao-AILab/flash-attention",
    lse_flag="return_attn_probs",
    no_limit=-1,
    majors=range(9, 10),
    gpus="9.0 (Hopper)",
    head_dims=range(8, 257, 8),
    dims="multiples of 8 up to 256",
    ordered_majors=range(9, 10),
    ordered_dim=192,
)

FLASH_ATTENTION_4 = Library(
    module="flash_attn.cute",
    install="pip install flash-attn-4",
    lse_flag="return_lse",
    no_limit=None,
    majors=range(9, 12),
    gpus="9.0 to 11.x (Hopper and Blackwell)",
    head_dims=range(64, 129, 32),
    dims="64, 96 and 128",
    ordered_majors=range(10, 12),
    ordered_dim=128,
    plain_gradients=(9,),
)

LIBRARIES = (FLASH_ATTENTION_2, FLASH_ATTENTION_3, FLASH_ATTENTION_4)
