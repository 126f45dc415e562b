"""A process of its own that runs written kernels on CPU tensors in Triton's interpreter, or compiles them.

The interpreter is chosen before triton is imported, so it cannot be in the process of the tests. Work and
answers are pickles on the standard streams; what fails answers with its traceback. A tensor travels with its
storage and strides, so that a view is a view there too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saccade.codegen.triton.source import TritonSource


@dataclass(frozen=True, eq=False)
class Described:
    """A tensor that a kernel gets a descriptor of."""

    tensor: Tensor
    block: tuple[int, ...]


@dataclass(frozen=True)
class Figures:
    """What a compiled kernel uses, and its text for the assembler.

    Attributes:
        registers: Of a thread.
        spilled: Bytes of a thread's stack.
        shared: Bytes of a block's shared memory.
        ptx: The text.
    """

    registers: int
    spilled: int
    shared: int
    ptx: str


class KernelProcess:
    """Sends work to a process that lives as long as it is open.

    Args:
        interpret: Whether kernels are run in the interpreter; else they are compiled.
        triton: A directory to import triton from before any other.
    """

    def __init__(self, *, interpret: bool, triton: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        roots = [triton, str(Path(__file__).parents[2]), *sys.path]
        environment = os.environ | {
            "TRITON_INTERPRET": "1" if interpret else "0",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(filter(None, roots)),
            "SACCADE_CACHE_DIR": f"{self._folder.name}/saccade",
            "TRITON_CACHE_DIR": f"{self._folder.name}/triton",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from codegen.triton.kernel_process import serve; serve()"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> KernelProcess:
        return self

    def __exit__(self, *unused: object) -> None:
        self._questions.close()
        self._process.wait()
        self._answers.close()
        self._folder.cleanup()

    def run(
        self, source: TritonSource, grid: int, values: Mapping[str, Any], results: Sequence[str]
    ) -> dict[str, Tensor]:
        """Run a kernel's programs one after another.

        Args:
            source: The kernel.
            grid: How many programs.
            values: Tensors, `Described` tensors and numbers by the parameters' names; those that the kernel
                does not have are left out.
            results: The tensors to give back, of those that the kernel has.
        """
        chosen = {parameter.name: values[parameter.name] for parameter in source.parameters}
        for parameter in source.parameters:
            assert_as_promised(parameter.name, chosen[parameter.name], parameter.divisible)
        answer: dict[str, Tensor] = self._ask("run", (source, grid, chosen, tuple(results)))
        return answer

    def compile(self, source: TritonSource, target: str = "cuda:90") -> Figures:
        """Compile a kernel for a GPU that need not be there."""
        figures: Figures = self._ask("compile", (source, target))
        return figures

    def _ask(self, verb: str, work: object) -> Any:
        pickle.dump((verb, work), self._questions)
        self._questions.flush()
        answer, failure = pickle.load(self._answers)
        assert failure is None, failure
        return answer


def assert_as_promised(name: str, value: Any, divisible: int) -> None:
    """Hold a value against what the signature promises of it."""
    if isinstance(value, Tensor):
        assert value.data_ptr() % divisible == 0, f"{name} is not on {divisible} bytes"
    elif isinstance(value, int):
        assert value % divisible == 0, f"{name}={value} is no multiple of {divisible}"


def _run(source: TritonSource, grid: int, values: dict[str, Any], results: tuple[str, ...]) -> Any:
    import numpy as np
    import torch

    from saccade.runtime.triton import INTERPRETER, compile_kernel, tensor_descriptor

    signature = {parameter.name: parameter.type for parameter in source.parameters}
    kernel = compile_kernel(
        source.text, source.name, signature, {}, target=INTERPRETER, warps=source.warps, stages=source.stages
    )
    arguments = []
    for name in signature:
        value = values[name]
        if isinstance(value, Described):
            tensor = value.tensor
            value = tensor_descriptor(tensor, tensor.shape, tensor.stride(), value.block)
        arguments.append(value)
    with np.errstate(all="ignore"):
        kernel.launch(grid, arguments, torch.device("cpu"))
    return {name: values[name] for name in results if name in values}


def _compile(source: TritonSource, target: str) -> Figures:
    from saccade.runtime.triton import Target, compile_kernel

    kernel: Any = compile_kernel(
        source.text,
        source.name,
        {parameter.name: parameter.type for parameter in source.parameters},
        {parameter.name: parameter.divisible for parameter in source.parameters if parameter.divisible > 1},
        target=Target.parse(target),
        warps=source.warps,
        stages=source.stages,
    )
    use = kernel.resources
    return Figures(use.registers, use.spills, use.shared_bytes, kernel._kernel.asm["ptx"])


def serve() -> None:
    """Answer what is sent until there is no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what triton prints is no answer
    verbs = {"run": _run, "compile": _compile}
    while True:
        try:
            verb, work = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = verbs[verb](*work), None
        except Exception:
            answer = None, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()
