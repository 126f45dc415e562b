"""Small kernels written by hand, and the targets they are compiled for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import saccade
from saccade.runtime.llvm import CompiledKernel, Target, compile_kernel, host_triple

AVX2 = Target("x86_64-unknown-linux-gnu", "x86-64-v3")
AVX512 = Target("x86_64-unknown-linux-gnu", "x86-64-v4", "-prefer-256-bit,+avx512bf16")
NEON = Target("aarch64-unknown-linux-gnu", "generic", "+neon")

ADD = """
define void @entry(ptr %arguments) {
  %left = load i64, ptr %arguments
  %right_at = getelementptr i64, ptr %arguments, i64 1
  %right = load i64, ptr %right_at
  %sum = add i64 %left, %right
  %sum_at = getelementptr i64, ptr %arguments, i64 2
  store i64 %sum, ptr %sum_at
  ret void
}
"""
"""arguments[2] = arguments[0] + arguments[1]"""

COUNT = """
define void @entry(ptr %arguments) {
start:
  %state = load ptr, ptr %arguments
  %counts_at = getelementptr i64, ptr %arguments, i64 1
  %counts = load ptr, ptr %counts_at
  %calls_at = getelementptr i64, ptr %arguments, i64 2
  %rounds_at = getelementptr i64, ptr %arguments, i64 3
  %rounds = load i64, ptr %rounds_at
  %stop_at = getelementptr i64, ptr %state, i64 1
  %stop = load i64, ptr %stop_at
  %slot_at = getelementptr i64, ptr %state, i64 2
  %slot = atomicrmw add ptr %slot_at, i64 1 monotonic
  %call = atomicrmw add ptr %calls_at, i64 1 monotonic
  br label %take
take:
  %item = atomicrmw add ptr %state, i64 1 monotonic
  %mine = icmp slt i64 %item, %stop
  br i1 %mine, label %work, label %done
work:
  %round = phi i64 [ 0, %take ], [ %next, %work ]
  %count_at = getelementptr i64, ptr %counts, i64 %item
  %old = load volatile i64, ptr %count_at
  %next = add i64 %round, 1
  %more = icmp slt i64 %next, %rounds
  br i1 %more, label %work, label %count
count:
  %new = add i64 %old, 1
  store volatile i64 %new, ptr %count_at
  br label %take
done:
  ret void
}
"""
"""Take items off arguments[0] (the state block) and add 1 to each item's count in arguments[1], after
arguments[3] rounds of doing nothing; arguments[2] counts the calls."""


def compiled(name: str, text: str) -> CompiledKernel:
    """Compile a text with one function, `entry`, for any processor of this architecture."""
    cpu = "x86-64" if host_triple().startswith("x86_64") else "generic"
    return compile_kernel(name, text, ["entry"], Target(host_triple(), cpu))


def run_script(text: str, timeout: float = 120) -> str:
    """Run a script in a process of its own, which may crash or hang, and return what it prints."""
    here = Path(__file__).parents[1]
    paths = [str(Path(saccade.__file__).parents[1]), str(here)]
    forking_is_meant = "-Wignore:This process:DeprecationWarning"
    done = subprocess.run(
        [
            sys.executable,
            forking_is_meant,
            "-c",
            f"import sys\nsys.path[:0] = {paths!r}\n{textwrap.dedent(text)}",
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout
