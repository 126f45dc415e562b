"""The text of a kernel becomes a kernel: one compilation for all lengths, kept.

Owns what triton is told: types and divisibility come from the caller's own signature, never from values, and
every option that the result depends on is given here, whatever the environment says of its default. Triton
keeps its binaries where it keeps everyone's (`TRITON_CACHE_DIR`, else `~/.triton/cache`); the source is kept
in Saccade's own directory. Compiling needs no device.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from saccade.errors import CompilationError, OutOfResourcesError
from saccade.runtime.cache import KernelCache
from saccade.runtime.triton.compiled import Compiled
from saccade.runtime.triton.devices import INTERPRETER
from saccade.runtime.triton.installed import is_interpreted, triton_package
from saccade.runtime.triton.interpreted import InterpretedKernel
from saccade.runtime.triton.launching import DeviceKernel
from saccade.runtime.triton.silence import told_to_the_log
from saccade.runtime.triton.source import load_function, store_source
from saccade.runtime.triton.target import TENSOR_MEMORY_COLUMNS, Target

__all__ = ["compile_kernel"]

_log = logging.getLogger("saccade")

_kernels: KernelCache[Hashable, Compiled] = KernelCache(capacity=512)

_OPTIONS: dict[str, object] = {
    "num_ctas": 1,
    "enable_fp_fusion": True,  # a * b + c is one rounding; `TRITON_DEFAULT_FP_FUSION` has no say
    "default_dot_input_precision": "ieee",  # a float32 product that says nothing is one of float32
    "debug": False,  # no assertions on the device
    "sanitize_overflow": False,  # nor tests of integer overflow
    "instrumentation_mode": "",
    "launch_cooperative_grid": False,
    "launch_pdl": False,
}


def compile_kernel(
    text: str,
    name: str,
    signature: Mapping[str, str],
    divisible: Mapping[str, int],
    *,
    target: Target,
    warps: int,
    stages: int,
    mods: str = "",
) -> Compiled:
    """Compile a kernel, or return it as it was compiled before.

    Where triton interprets (`is_interpreted`), the text is loaded and nothing is compiled.

    Args:
        text: A Python module with a `triton.jit` function in it, without `tl.constexpr` parameters.
        name: The function.
        signature: Parameter to triton's type of it, in the function's order: `*bf16`, `i32`, `i64`, `fp32`,
            `tensordesc<bf16[1, 1, 64, 128]>`.
        divisible: Parameter to what its value is a multiple of: 16 for a pointer on 16 bytes. Parameters that
            are not there may have any value.
        target: What to compile for; it need not be here.
        warps: Warps of a block, a power of two.
        stages: How many iterations of a loop have their loads under way at once.
        mods: The programs that the kernel was written for, told in errors alone.

    Raises:
        CompilationError: Triton refuses the text, or cannot keep its binary.
        OutOfResourcesError: A block would need more memory than the target has: a smaller tile may do.
        SettingError: There is no directory that is safe to import the text from.
        MissingPackageError: Triton is not installed.
    """
    key = (text, name, tuple(signature.items()), tuple(divisible.items()), target, warps, stages)

    def build() -> Compiled:
        path = store_source(text, name)
        request = _Request(name, path, target, warps, stages, mods)
        return _compiled(request, text, signature, divisible)

    return _kernels.get(key, build)


class _Request:
    """What is being compiled, for messages."""

    def __init__(self, name: str, path: Path, target: Target, warps: int, stages: int, mods: str) -> None:
        self.name, self.path, self.target = name, path, target
        self.warps, self.stages, self.mods = warps, stages, mods

    def refused(self, complaint: str, remedy: str) -> CompilationError:
        version = triton_package().__version__
        written_for = f"\nIt was written for\n{textwrap.indent(self.mods, '  ')}" if self.mods else ""
        return CompilationError(
            f"Triton {version} cannot compile kernel {self.name!r} for {self.target.name} with {self.warps} "
            f"warps and {self.stages} stages: {complaint.strip()}\n"
            f"Its source is {self.path}.{written_for}\n{remedy}"
        )


_OUR_FAULT = (
    "Saccade writes its kernels, so the fault is its own: please report it with that file; another backend= "
    "may take the call meanwhile."
)


def _compiled(
    request: _Request, text: str, signature: Mapping[str, str], divisible: Mapping[str, int]
) -> Compiled:
    triton = triton_package()
    try:
        function = load_function(request.path, text, request.name)
    except Exception as fault:
        raise request.refused(_told(fault), _OUR_FAULT) from fault
    interpreted = isinstance(function, triton.runtime.interpreter.InterpretedFunction)
    if interpreted != is_interpreted():
        raise request.refused(
            f"TRITON_INTERPRET was {int(is_interpreted())} when triton was imported, "
            f"and is {int(interpreted)} now.",
            "Set it before the process starts, and leave it.",
        )
    assert list(signature) == function.arg_names, (list(signature), function.arg_names)
    if interpreted:
        return InterpretedKernel(request.name, request.path, function, list(signature.values()))
    assert request.target != INTERPRETER
    begun = perf_counter()
    kernel = _triton_compiled(request, function, signature, divisible)
    _check_memory(request, kernel)
    _log.debug(
        "compiled %s for %s in %.0f ms, %d warps, %d stages, %d bytes of shared memory: %s",
        request.name,
        request.target.name,
        1e3 * (perf_counter() - begun),
        request.warps,
        request.stages,
        kernel.metadata.shared,
        request.path,
    )
    return DeviceKernel(request.name, request.path, request.target, kernel)


def _triton_compiled(
    request: _Request, function: Any, signature: Mapping[str, str], divisible: Mapping[str, int]
) -> Any:
    triton = triton_package()
    places = {parameter: place for place, parameter in enumerate(signature)}
    attributes = {(places[parameter],): [["tt.divisibility", by]] for parameter, by in divisible.items()}
    source = triton.compiler.ASTSource(function, dict(signature), None, attributes)
    options = {"num_warps": request.warps, "num_stages": request.stages, **_OPTIONS}
    target = triton.backends.compiler.GPUTarget(*request.target)
    try:
        with told_to_the_log():
            return triton.compile(source, target=target, options=options)
    except OSError as fault:
        raise request.refused(
            f"its binary cannot be kept: {fault}",
            "Set TRITON_CACHE_DIR to a directory that can be written, and has room.",
        ) from fault
    except Exception as fault:
        raise request.refused(_told(fault), _OUR_FAULT) from fault


def _check_memory(request: _Request, kernel: Any) -> None:
    """Refuse what no block of the target can hold, before a device does."""
    needs = [
        ("shared memory", "bytes", kernel.metadata.shared, request.target.shared_limit),
        ("tensor memory", "columns", getattr(kernel.metadata, "tmem_size", None), TENSOR_MEMORY_COLUMNS),
    ]
    for resource, unit, required, limit in needs:
        if required is not None and limit is not None and required > limit:
            raise OutOfResourcesError(
                f"kernel {request.name!r} needs {required} {unit} of {resource}, and a block of "
                f"{request.target.name} has {limit}; choose a smaller tile or fewer stages.",
                resource=resource,
                required=required,
                limit=limit,
            )


def _told(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"
