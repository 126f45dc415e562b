"""Kernels compile without a device, for every architecture, once; refusals tell what and where."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

import triton

from runtime.triton.kernels import (
    AXPY,
    AXPY_SIGNATURE,
    DESCRIBED,
    DESCRIBED_SIGNATURE,
    GRAM,
    GRAM_SIGNATURE,
    STAGED,
    STAGED_SIGNATURE,
    run_script,
)
from saccade.errors import CompilationError, OutOfResourcesError, UnsupportedError
from saccade.runtime.triton import Compiled, Resources, Target, compile_kernel, compiling
from saccade.runtime.triton.launching import DeviceKernel
from saccade.runtime.triton.resources import read_resources

SM80, SM90, SM100 = (Target.parse(f"cuda:{arch}") for arch in (80, 90, 100))
POINTERS = {"out": 16, "source": 16}


def compiled(
    text: str = GRAM,
    name: str = "gram",
    signature: Mapping[str, str] = GRAM_SIGNATURE,
    divisible: Mapping[str, int] = POINTERS,
    target: Target = SM80,
    warps: int = 4,
    stages: int = 2,
    mods: str = "",
) -> Compiled:
    return compile_kernel(
        text, name, signature, divisible, target=target, warps=warps, stages=stages, mods=mods
    )


def machine(kernel: Compiled) -> str:
    assert isinstance(kernel, DeviceKernel)
    ptx: str = kernel._kernel.asm["ptx"]
    return ptx


class TestArchitectures:
    @pytest.mark.parametrize("target", [SM80, SM90, SM100], ids=lambda target: target.name)
    def test_a_product_is_compiled_and_read(self, target: Target) -> None:
        kernel = compiled(target=target)
        assert (kernel.name, kernel.target) == ("gram", target)
        assert kernel.source.read_text() == GRAM
        assert re.search(rf"^\.target sm_{target.arch}a?$", machine(kernel), re.MULTILINE)
        resources = kernel.resources
        assert resources is not None
        assert 16 < resources.registers <= 255
        # The operand, 64 x 64 bfloat16, is there once at least.
        assert target.shared_limit is not None
        assert 64 * 64 * 2 <= resources.shared_bytes <= target.shared_limit
        assert resources.spills % 4 == 0

    @pytest.mark.parametrize("target", [SM80, SM90, SM100], ids=lambda target: target.name)
    def test_descriptors_are_hardware_where_the_target_says_so(self, target: Target) -> None:
        kernel = compiled(DESCRIBED, "described", DESCRIBED_SIGNATURE, {}, target)
        assert ("cp.async.bulk.tensor" in machine(kernel)) == target.has_descriptors

    def test_an_amd_kernel_is_read_too(self) -> None:
        kernel = compiled(target=Target.parse("hip:gfx942"))
        resources = kernel.resources
        assert resources is not None
        assert 16 < resources.registers <= 512
        assert 64 * 64 * 2 <= resources.shared_bytes <= 64 << 10

    def test_divisibility_is_what_makes_loads_wide(self) -> None:
        assert "ld.global.v4" not in machine(compiled(divisible={}))
        assert "ld.global.v4" in machine(compiled(divisible={**POINTERS, "row": 8}))

    def test_options_do_not_follow_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
        text = AXPY.replace("axpy", "axpy_fused")
        kernel = compiled(text, "axpy_fused", AXPY_SIGNATURE, {})
        assert isinstance(kernel, DeviceKernel)
        assert kernel._kernel.metadata.enable_fp_fusion
        assert not kernel._kernel.metadata.debug
        assert not kernel._kernel.metadata.sanitize_overflow
        assert kernel._kernel.metadata.default_dot_input_precision == "ieee"


class TestResources:
    def test_spills_are_bytes_of_the_stack(self) -> None:
        """The assembler's own log tells the same of a kernel that has half the registers it wants."""
        kernel = compiled(warps=1)
        assert isinstance(kernel, DeviceKernel)
        source = kernel._kernel.src
        options = {"num_warps": 1, "num_stages": 2, "maxnreg": 40}
        target = triton.backends.compiler.GPUTarget(*SM80)
        starved = triton.compile(source, target=target, options=options)
        found = read_resources(starved, SM80)
        assert found.registers == 40
        assert found.spills > 0
        log = run_assembler(starved.asm["ptx"])
        assert re.search(rf"\b{found.spills} bytes stack frame", log)
        assert f"Used {found.registers} registers" in log

    def test_other_machine_code_is_not_read(self) -> None:
        expected = "resources can be read from machine code for cuda and hip, but target='xpu:20'"
        with pytest.raises(UnsupportedError, match=re.escape(expected)):
            read_resources(None, Target("xpu", 20, 16))

    def test_a_resource_is_a_value(self) -> None:
        assert compiled().resources == compiled().resources
        assert isinstance(compiled().resources, Resources)


def run_assembler(ptx: str) -> str:
    tool = triton.knobs.nvidia.ptxas.path
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "kernel.ptx"
        source.write_text(ptx)
        done = subprocess.run(
            [
                tool,
                "-v",
                "-lineinfo",
                "--regAllocOptLevel=2",
                "--gpu-name=sm_80",
                source,
                "-o",
                source.with_suffix(".o"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stderr


class TestOnce:
    def test_what_was_compiled_is_returned(self) -> None:
        assert compiled() is compiled(mods="another mod, the same kernel")
        assert compiled() is not compiled(target=SM90)
        assert compiled() is not compiled(warps=8)
        assert compiled() is not compiled(divisible={})

    def test_threads_share_one_compilation(self, caplog: pytest.LogCaptureFixture) -> None:
        text = GRAM.replace("The product", "Once the product")
        with caplog.at_level(logging.DEBUG, "saccade"), ThreadPoolExecutor(4) as pool:
            kernels = set(pool.map(lambda _: compiled(text), range(4)))
        assert len(kernels) == 1
        told = [record.getMessage() for record in caplog.records if "compiled gram" in record.getMessage()]
        assert len(told) == 1
        assert re.match(
            r"compiled gram for cuda:80 in \d+ ms, 4 warps, 2 stages, \d+ bytes of shared", told[0]
        )


class TestRefusals:
    def test_a_text_that_triton_refuses_is_told_with_its_mod_and_its_file(self, tmp_path: Path) -> None:
        text = GRAM.replace("tl.trans(a)", "tl.transmogrify(a)")
        with pytest.raises(CompilationError) as caught:
            compiled(text, mods="mask mod:\n  q_idx >= kv_idx")
        message = str(caught.value)
        assert re.match(
            r"Triton \S+ cannot compile kernel 'gram' for cuda:80 with 4 warps and 2 stages: ", message
        )
        assert "transmogrify" in message
        assert "It was written for\n  mask mod:\n    q_idx >= kv_idx\n" in message
        assert "please report it with that file" in message
        named = re.search(r"^Its source is (.*\.py)\.$", message, re.MULTILINE)
        assert named is not None
        assert Path(named[1]).read_text() == text
        assert Path(named[1]).is_relative_to(tmp_path)

    def test_a_text_that_is_not_python_is_refused(self) -> None:
        with pytest.raises(CompilationError, match=r"SyntaxError: '\(' was never closed"):
            compiled("def gram(")

    def test_a_failure_is_not_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = GRAM.replace("The product", "Later the product")
        with monkeypatch.context() as broken:
            broken.setattr(compiling, "load_function", lambda *_: 1 // 0)
            with pytest.raises(CompilationError, match="ZeroDivisionError: "):
                compiled(text)
        assert compiled(text).name == "gram"

    def test_a_kernel_that_does_not_fit_is_refused_before_a_device_does(self) -> None:
        with pytest.raises(OutOfResourcesError) as caught:
            compiled(STAGED, "staged", STAGED_SIGNATURE, {"left": 16, "right": 16}, stages=12)
        fault = caught.value
        assert (fault.resource, fault.limit) == ("shared memory", 163 << 10)
        assert fault.required > fault.limit
        assert str(fault) == (
            f"kernel 'staged' needs {fault.required} bytes of shared memory, and a block of cuda:80 has "
            "166912; choose a smaller tile or fewer stages."
        )
        fewer = compiled(STAGED, "staged", STAGED_SIGNATURE, {"left": 16, "right": 16}, stages=3)
        assert fewer.resources is not None
        assert fewer.resources.shared_bytes < fault.limit

    def test_a_binary_that_cannot_be_kept_is_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
        text = GRAM.replace("The product", "Homeless, the product")
        with pytest.raises(CompilationError, match="Set TRITON_CACHE_DIR to a directory that can be written"):
            compiled(text)

    def test_what_triton_prints_goes_to_the_log(
        self,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The assembler refuses an instruction that does not exist; triton would print all of its input."""
        asm = 'tl.inline_asm_elementwise("no.such.instruction $0, $1;", "=f,f", [x], tl.float32, True, 1)'
        text = (
            "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef broken(out):\n"
            f"    x = tl.load(out + tl.arange(0, 32))\n    tl.store(out + tl.arange(0, 32), {asm})\n"
        )
        with (
            caplog.at_level(logging.DEBUG, "saccade"),
            pytest.raises(CompilationError, match="Unknown modifier"),
        ):
            compiled(text, "broken", {"out": "*fp32"}, {})
        assert capfd.readouterr().out == ""
        assert "no.such.instruction" in caplog.text

    def test_what_triton_prints_for_others_is_printed(self, capfd: pytest.CaptureFixture[str]) -> None:
        compiled()
        vars(triton.backends.nvidia.compiler)["print"]("for", "others", sep="-")
        assert capfd.readouterr().out == "for-others\n"


ELSEWHERE = """
import os
import triton
from runtime.triton.kernels import AXPY, AXPY_SIGNATURE
from saccade.errors import CompilationError
from saccade.runtime.triton import Target, compile_kernel

os.environ["TRITON_INTERPRET"] = "1"
try:
    compile_kernel(AXPY, "axpy", AXPY_SIGNATURE, {}, target=Target.parse("cuda:80"), warps=4, stages=1)
except CompilationError as fault:
    print(fault)
"""


def test_a_change_of_mind_about_interpreting_is_refused(tmp_path: Path) -> None:
    told = run_script(ELSEWHERE, tmp_path)
    assert "TRITON_INTERPRET was 0 when triton was imported, and is 1 now." in told
    assert told.endswith("Set it before the process starts, and leave it.\n")


def test_nothing_here_was_interpreted() -> None:
    assert os.environ.get("TRITON_INTERPRET", "0") == "0"
