"""A process of its own that runs modules of Triton text in its interpreter, or compiles them without a GPU.

The interpreter is chosen before triton is imported, so neither can happen in the process of the tests. Jobs
and answers are pickles on the standard streams; a job that fails answers with its traceback.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass
class Job:
    """A module of Triton text, and what is wanted of the function `kernel` in it.

    Attributes:
        text: The module.
        grid: How many programs; of a run.
        arguments: Of a run: numpy arrays, torch tensors by (array, torch type name), and numbers.
        results: The arguments to give back after a run.
        signature: Of a compilation: each parameter's Triton type.
        divisible: Of a compilation: what parameters are multiples of, where that is promised.
        stage: Of a compilation: "ttir" for types alone, "ptx" for what ptxas would get.
    """

    text: str
    grid: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    signature: dict[str, str] = field(default_factory=dict)
    divisible: dict[str, int] = field(default_factory=dict)
    stage: str = "ttir"


class KernelServer:
    """Sends jobs to a process that lives as long as it is open.

    Args:
        interpret: Whether jobs are run in the interpreter; else they are compiled.
        triton: A directory to import triton from before any other.
    """

    def __init__(self, *, interpret: bool, triton: str | None = None) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
        # A child that only compiles needs no device; hide any.
        environment["CUDA_VISIBLE_DEVICES"] = ""
        if triton is not None:
            environment["PYTHONPATH"] = triton
        self._process = subprocess.Popen(
            [sys.executable, __file__, "run" if interpret else "compile"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> KernelServer:
        return self

    def __exit__(self, *unused: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __call__(self, job: Job) -> Any:
        """Return the results of a run by name, or the text of a compilation."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(vars(job), self._process.stdin)
        self._process.stdin.flush()
        answer, failure = pickle.load(self._process.stdout)
        assert failure is None, f"{failure}\n{job.text}"
        return answer


def _serve(work: Any) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what triton prints is no answer
    with tempfile.TemporaryDirectory() as directory:
        for number in range(sys.maxsize):
            try:
                job = Job(**pickle.load(sys.stdin.buffer))
            except EOFError:
                return
            try:
                answer = work(job, _imported(Path(directory) / f"module_{number}.py", job.text)), None
            except Exception:
                answer = None, traceback.format_exc()
            pickle.dump(answer, answers)
            answers.flush()


def _imported(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(job: Job, module: ModuleType) -> dict[str, Any]:
    import numpy as np
    import torch

    def tensor(value: Any) -> Any:
        if isinstance(value, tuple):
            array, name = value
            # Strides of any sign are no tensor's; the parameters speak of the array as it stands.
            return torch.from_numpy(np.ascontiguousarray(array)).view(getattr(torch, name))
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    arguments = {name: tensor(value) for name, value in job.arguments.items()}
    with np.errstate(all="ignore"):
        module.kernel[(job.grid,)](**arguments)
    return {name: arguments[name].numpy() for name in job.results}


def _compile(job: Job, module: ModuleType) -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    target = GPUTarget("cuda", 90, 32)
    names = list(job.signature)
    attributes = {(names.index(name),): [["tt.divisibility", n]] for name, n in job.divisible.items()}
    source = ASTSource(module.kernel, job.signature, {}, attributes)
    if job.stage == "ttir":
        return _typed(source, target)
    compiled = triton.compile(source, target=target)
    return str(compiled.asm[job.stage])


def _typed(source: Any, target: Any) -> str:
    """The module as Triton's front end makes it: every type has been checked."""
    from triton._C.libtriton import ir
    from triton.compiler.compiler import make_backend

    backend = make_backend(target)
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    known = {
        "target": target,
        "options": options,
        "codegen_fns": backend.get_codegen_implementation(options),
        "module_map": backend.get_module_map(),
        "context": context,
    }
    wanted = list(inspect.signature(source.make_ir).parameters)
    return str(source.make_ir(*(known[name] for name in wanted)))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        _serve(_run if sys.argv[1] == "run" else _compile)
