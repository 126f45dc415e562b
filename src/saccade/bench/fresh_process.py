"""Functions called in a process of their own: nothing is compiled or cached there, and what it held is gone.

Owns both sides: `ask` starts `python -m saccade.bench.fresh_process MODULE FUNCTION OPTIONS`, which calls the
function and prints its answer as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from saccade.errors import BackendError

__all__ = ["Answer", "ask"]

Answer: TypeAlias = dict[str, float | int | str | None]


def ask(
    task: Callable[..., Answer], environment: Mapping[str, str] | None = None, /, **options: str | int
) -> Answer:
    """Call a function in a process of its own.

    Args:
        task: A function of a module, which the process imports.
        environment: Variables to set there.
        options: What the function takes.

    Returns:
        Its answer; the entry "refusal" says why there is no other.
    """
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", __name__, task.__module__, task.__name__, json.dumps(options)],
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        return {"refusal": f"its process ended with code {done.returncode}: {last}"}
    answer: Answer = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Call the function that the arguments name, and print its answer."""
    module, name, options = sys.argv[1:]
    task: Callable[..., Answer] = getattr(import_module(module), name)
    try:
        answer = task(**json.loads(options))
    except BackendError as fault:
        answer = {"refusal": " ".join(str(fault).split())}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
