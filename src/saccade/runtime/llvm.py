"""LLVM IR text becomes machine code: compiled in process and linked, or written out for any processor.

Owns every use of llvmlite outside code generation. Invariants:

- a kernel imports nothing: neither from the process (LLVM's linker would offer it libc and libm) nor from a
  runtime library. A text that would is refused before it is linked;
- each kernel is a library of its own, unloaded when its `CompiledKernel` is garbage. Whoever calls into a
  kernel holds that object until the call returns;
- all of LLVM's work happens under one lock, each text in a context of its own. A fork waits for that lock, so
  that a child never inherits a half-built state.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, TypeAlias, final

from llvmlite import binding

from saccade.errors import CompilationError
from saccade.runtime.elf import is_elf, undefined_symbols

__all__ = [
    "CompiledKernel",
    "Target",
    "compile_kernel",
    "emit_assembly",
    "emit_object",
    "host_features",
    "host_triple",
]

_log = logging.getLogger("saccade")

# llvmlite is not typed; these say which of its objects is meant.
_Module: TypeAlias = Any
_Machine: TypeAlias = Any
_Library: TypeAlias = Any

# Kernels arrive as vectors in final loops: nothing is left for LLVM to vectorise or unroll. Its -O2 takes as
# long again for the same code, and turns loops that store zeros into calls of memset.
_PASSES = ("sroa", "instruction_combine", "simplify_cfg")

_lock = threading.RLock()  # a finaliser may run while a compilation holds it
_library_numbers = itertools.count()
_discarded: deque[_Library] = deque()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@final
@dataclass(frozen=True)
class Target:
    """What machine code is for.

    Attributes:
        triple: LLVM's name of architecture and system, as `x86_64-unknown-linux-gnu`.
        cpu: The processor by LLVM's name; it brings its own features.
        features: Features beyond, in LLVM's spelling: `+avx512bf16,-prefer-256-bit`.
    """

    triple: str
    cpu: str
    features: str = ""


@final
class CompiledKernel:
    """Machine code in this process, as long as this object lives.

    Attributes:
        name: What the kernel is called in messages.
    """

    __slots__ = ("__weakref__", "_addresses", "name")

    def __init__(self, name: str, addresses: dict[str, int], library: _Library) -> None:
        self.name = name
        self._addresses = addresses
        # At exit the process takes the memory back; unloading then would outlive LLVM itself.
        weakref.finalize(self, _discard, library).atexit = False

    def __repr__(self) -> str:
        return f"<CompiledKernel {self.name}: {', '.join(self._addresses)}>"

    def address(self, entry: str) -> int:
        """Return where an entry begins. Hold the kernel while you call it."""
        return self._addresses[entry]


def compile_kernel(name: str, text: str, entries: Sequence[str], target: Target) -> CompiledKernel:
    """Compile LLVM IR for this processor.

    Args:
        name: What to call the kernel in messages and in the log.
        text: The kernel's module, without triple or data layout.
        entries: The functions to be called.
        target: The host's triple, and features that the host has.

    Raises:
        CompilationError: The text is not valid LLVM IR, calls something that it does not define, or lacks an
            entry. All three are faults of what wrote it.
    """
    assert target.triple == host_triple(), f"{name} is for {target.triple}, this is {host_triple()}"
    with _lock:
        _unload_discarded()
        begun = perf_counter()
        with _optimised(name, text, target) as (module, machine):
            optimised = perf_counter()
            code: bytes = machine.emit_object(module)
        emitted = perf_counter()
        missing = undefined_symbols(code) if is_elf(code) else set()
        if missing:
            called = ", ".join(sorted(missing))
            raise _refused(name, text, target, f"it would call {called}, not defined here")
        kernel = CompiledKernel(name, *_linked(name, text, code, entries, target))
        linked = perf_counter()
    seconds = (linked - begun, optimised - begun, emitted - optimised, linked - emitted)
    _log.debug(
        "compiled %s for %s in %.1f ms (optimising %.1f, machine code %.1f, linking %.1f), %d bytes",
        name,
        target.cpu,
        *(1e3 * each for each in seconds),
        len(code),
    )
    return kernel


def emit_object(text: str, target: Target, name: str = "kernel") -> bytes:
    """Compile LLVM IR to an object file for any processor that LLVM knows, and run nothing.

    Raises:
        CompilationError: The text is not valid LLVM IR, or the target is unknown.
    """
    with _lock, _optimised(name, text, target) as (module, machine):
        code: bytes = machine.emit_object(module)
        return code


def emit_assembly(text: str, target: Target, name: str = "kernel") -> str:
    """Compile LLVM IR to assembly text, for people to read.

    Raises:
        CompilationError: The text is not valid LLVM IR, or the target is unknown.
    """
    with _lock, _optimised(name, text, target) as (module, machine):
        assembly: str = machine.emit_assembly(module)
        return assembly


@cache
def host_triple() -> str:
    """Return the triple of this process."""
    with _lock:
        triple: str = binding.get_process_triple()
        return triple


def host_features() -> dict[str, bool]:
    """Return what LLVM finds this processor, and the system's support for it, to offer."""
    with _lock:
        return dict(binding.get_host_cpu_features())


@contextmanager
def _optimised(name: str, text: str, target: Target) -> Iterator[tuple[_Module, _Machine]]:
    """A verified, optimised module and the machine it is for; both are gone afterwards. Under the lock."""
    with ExitStack() as stack:
        try:
            machine = stack.enter_context(_target_machine(target))
            context = stack.enter_context(binding.create_context())
            module = stack.enter_context(binding.parse_assembly(text, context))
            module.triple = target.triple
            module.data_layout = str(machine.target_data)
            module.verify()
        except RuntimeError as fault:
            raise _refused(name, text, target, str(fault)) from None
        tuning = stack.enter_context(binding.create_pipeline_tuning_options())
        builder = stack.enter_context(binding.create_pass_builder(machine, tuning))
        passes = stack.enter_context(binding.create_new_module_pass_manager())
        for each in _PASSES:
            getattr(passes, f"add_{each}_pass")()
        passes.run(module, builder)
        yield module, machine


def _target_machine(target: Target) -> _Machine:
    _know_all_targets()
    # The small code model reaches constants relative to the instruction: the linker lays a library out in
    # one piece.
    return binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, reloc="pic", codemodel="small"
    )


def _linked(
    name: str, text: str, code: bytes, entries: Sequence[str], target: Target
) -> tuple[dict[str, int], _Library]:
    """The entries' addresses, and the library that holds them. Under the lock."""
    builder = binding.JITLibraryBuilder().add_object_img(code)
    for entry in entries:
        builder.export_symbol(entry)
    try:
        # A library's name cannot be used again, even once it is unloaded.
        library = builder.link(_jit(), f"{name}.{next(_library_numbers)}")
    except RuntimeError as fault:
        raise _refused(name, text, target, str(fault)) from None
    return {entry: library[entry] for entry in entries}, library


def _refused(name: str, text: str, target: Target, complaint: str) -> CompilationError:
    _log.debug("the text of %s, which LLVM refused:\n%s", name, text)
    version = ".".join(map(str, binding.llvm_version_info))
    return CompilationError(
        f"LLVM {version} cannot compile kernel {name!r} for {target}: {complaint.strip()}. Saccade writes "
        "its kernels, so the fault is its own: please report it with the kernel's text, which "
        "logging.getLogger('saccade') tells at DEBUG; another backend= may take the call meanwhile."
    )


@cache
def _know_all_targets() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


@cache
def _jit() -> Any:
    _know_all_targets()
    return binding.create_lljit_compiler(use_jit_link=True, suppress_errors=True)


def _discard(library: _Library) -> None:
    """Unload a library now, or with the next compilation if LLVM is busy: a finaliser must not wait."""
    _discarded.append(library)
    if _lock.acquire(blocking=False):
        try:
            _unload_discarded()
        finally:
            _lock.release()


def _unload_discarded() -> None:
    while True:
        try:
            library = _discarded.popleft()
        except IndexError:
            return
        library.close()
