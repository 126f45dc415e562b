"""LLVM IR becomes machine code that adds, imports nothing, and is unloaded when nobody holds it."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

from runtime.machine_code import ADD, AVX2, AVX512, COUNT, NEON, compiled, run_script
from saccade.errors import CompilationError
from saccade.runtime import llvm
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import Target, emit_assembly, emit_object, host_triple

CALLS_COS = """
declare double @cos(double)
define void @entry(ptr %arguments) {
  %x = load double, ptr %arguments
  %y = call double @cos(double %x)
  store double %y, ptr %arguments
  ret void
}
"""
ZEROES = """
define void @entry(ptr %arguments) {
start:
  %n = load i64, ptr %arguments
  %first = getelementptr i64, ptr %arguments, i64 1
  br label %loop
loop:
  %i = phi i64 [ 0, %start ], [ %next, %loop ]
  %at = getelementptr i64, ptr %first, i64 %i
  store i64 0, ptr %at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
FUSED = """
declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)
define void @entry(ptr %arguments) {
  %x = load <4 x float>, ptr %arguments
  %y = call <4 x float> @llvm.fma.v4f32(<4 x float> %x, <4 x float> %x, <4 x float> %x)
  store <4 x float> %y, ptr %arguments
  ret void
}
"""


def add(address: int, left: int, right: int) -> int:
    arguments = numpy.array([left, right, 0])
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(arguments.ctypes.data)
    return int(arguments[2])


def test_a_kernel_runs() -> None:
    kernel = compiled("adder", ADD)
    assert add(kernel.address("entry"), 40, 2) == 42
    assert repr(kernel) == "<CompiledKernel adder: entry>"


def test_kernels_of_one_name_stand_beside_each_other() -> None:
    adder, subtracter = compiled("same", ADD), compiled("same", ADD.replace("add i64", "sub i64"))
    assert [add(kernel.address("entry"), 40, 2) for kernel in (adder, subtracter)] == [42, 38]


def test_threads_compile_at_once() -> None:
    together = threading.Barrier(4)

    def work(addend: int) -> list[int]:
        text = ADD.replace("add i64 %left, %right", f"add i64 %left, {addend}")
        together.wait()
        kernels = [compiled(f"adder {addend}", text) for _ in range(5)]
        return [add(kernel.address("entry"), 100, 0) for kernel in kernels]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [[100 + addend] * 5 for addend in range(4)]


def test_a_kernel_nobody_holds_is_unloaded() -> None:
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("the system does not list the memory of a process")
    kernel = compiled("short-lived", ADD)
    page = kernel.address("entry") & ~0xFFF
    assert f"{page:x}-" in mapped.read_text()
    del kernel
    gc.collect()
    assert f"{page:x}-" not in mapped.read_text()


def test_a_kernel_dropped_while_llvm_is_busy_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = compiled("dropped", ADD)
    with ThreadPoolExecutor(1) as pool, llvm._lock:
        dropped = [kernel]
        del kernel
        pool.submit(dropped.clear).result(timeout=10)  # another thread's finaliser does not wait for the lock
        assert len(llvm._discarded) == 1
    compiled("next", ADD)
    assert len(llvm._discarded) == 0


class TestRefusals:
    def test_what_the_process_offers_is_not_taken(self) -> None:
        with pytest.raises(
            CompilationError, match=r"cannot compile kernel 'cosine' .* it would call cos, not"
        ):
            compiled("cosine", CALLS_COS)

    def test_a_missing_symbol_does_not_crash(self) -> None:
        printed = run_script(
            f"""
            from runtime.machine_code import ADD, compiled
            from saccade.errors import CompilationError
            try:
                compiled("lost", {CALLS_COS.replace("cos", "no_such_function")!r})
            except CompilationError as fault:
                print("it would call no_such_function" in str(fault))
            compiled("after", ADD)
            print("compiled")
            """
        )
        assert printed.split() == ["True", "compiled"]

    def test_the_linker_itself_refuses_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(llvm, "is_elf", lambda code: False)  # as where objects are of another format
        with pytest.raises(CompilationError, match=r"kernel 'lost' .* Failed to materialize symbols"):
            compiled("lost", CALLS_COS.replace("cos", "no_such_function"))

    def test_a_text_that_does_not_parse(self, caplog: pytest.LogCaptureFixture) -> None:
        with (
            caplog.at_level(logging.DEBUG, "saccade"),
            pytest.raises(CompilationError, match=r"(?s)kernel 'garbled' .*expected.*the fault is its own"),
        ):
            compiled("garbled", "define void @entry(")
        assert "define void @entry(" in caplog.text

    def test_a_text_that_does_not_verify(self) -> None:
        # The value is used where its definition does not dominate.
        text = ADD.replace("%sum = add i64 %left, %right", "%sum = add i64 %late, %right").replace(
            "ret void", "%late = add i64 %left, 1\n  ret void"
        )
        with pytest.raises(CompilationError, match=r"(?s)kernel 'early' .*does not dominate"):
            compiled("early", text)

    def test_an_entry_that_is_not_there(self) -> None:
        with pytest.raises(CompilationError, match="kernel 'nameless'"):
            compiled("nameless", ADD.replace("@entry", "@other"))

    def test_an_unknown_target(self) -> None:
        with pytest.raises(CompilationError, match=r"kernel 'abroad' for .*nowhere"):
            emit_object(ADD, Target("nowhere-unknown-linux-gnu", ""), name="abroad")

    def test_code_for_another_system_is_not_loaded(self) -> None:
        other = NEON if host_triple().startswith("x86_64") else AVX2
        with pytest.raises(AssertionError, match="adder is for"):
            llvm.compile_kernel("adder", ADD, ["entry"], other)


class TestOtherProcessors:
    @pytest.mark.parametrize("target", [AVX2, AVX512, NEON])
    @pytest.mark.parametrize("text", [ADD, COUNT, ZEROES, FUSED])
    def test_objects_import_nothing(self, text: str, target: Target) -> None:
        assert undefined_symbols(emit_object(text, target)) == set()

    def test_an_import_is_seen(self) -> None:
        assert undefined_symbols(emit_object(CALLS_COS, NEON)) == {"cos"}
        # No such instruction below AVX2, so LLVM falls back on the C library: what kernels must not ask for.
        baseline = Target("x86_64-unknown-linux-gnu", "x86-64")
        assert undefined_symbols(emit_object(FUSED, baseline)) == {"fmaf"}

    def test_assembly_is_the_targets(self) -> None:
        assert "vfmadd" in emit_assembly(FUSED, AVX2)
        assert "fmla" in emit_assembly(FUSED, NEON)


def test_a_compilation_is_logged_with_its_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "saccade"):
        compiled("adder", ADD)
    (record,) = caplog.records
    assert record.name == "saccade"
    assert record.getMessage().startswith("compiled adder for ")
    assert " ms (optimising " in record.getMessage()


def test_the_host_reports_its_features() -> None:
    features = llvm.host_features()
    assert features
    assert set(map(type, features.values())) == {bool}


def test_compilations_leave_little_behind() -> None:
    printed = run_script(
        """
        from pathlib import Path
        from runtime.machine_code import COUNT, compiled

        def resident() -> int:
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        if not Path("/proc/self/statm").exists():
            print(0)
        else:
            for _ in range(100):
                compiled("warm", COUNT)
            before = resident()
            for _ in range(300):
                compiled("again", COUNT)
            print((resident() - before) // 300)
        """
    )
    assert int(printed) < 32 << 10
