"""Pages in Markdown as programs: their code is run in order, and what they say it prints is compared.

A page's ```python blocks share one namespace. A ```text block right after one is its output, trailing blanks
aside; ```pycon blocks are doctests in the same namespace, where errors are shown as Python shows them.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import Any

_BLOCK = re.compile(
    r"^```(?P<language>python|pycon)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```$)?", re.M | re.S
)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)


def run_page(path: Path) -> dict[str, Any]:
    """Run a page's code.

    Returns:
        The names that its code defined.

    Raises:
        AssertionError: Something was printed other than the page says.
    """
    names: dict[str, Any] = {"__name__": path.stem}
    text = path.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        if block["language"] == "pycon":
            _run_session(block["code"], names, path, line)
            continue
        printed = io.StringIO()
        # Empty lines put the code where it stands on the page, for tracebacks.
        code = compile("\n" * line + block["code"], str(path), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if block["output"] is not None or printed.getvalue():
            assert _trimmed(printed.getvalue()) == _trimmed(block["output"] or ""), f"{path}:{line}"
    return names


def commands_of(path: Path) -> list[str]:
    """List the lines of a page's ```sh blocks."""
    return [
        line for block in _COMMANDS.findall(path.read_text(encoding="utf-8")) for line in block.splitlines()
    ]


def _run_session(session: str, names: dict[str, Any], path: Path, line: int) -> None:
    test = doctest.DocTestParser().get_doctest(session, names, path.name, str(path), line)
    test.globs = names  # the parser copies them
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.write, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, report.getvalue()


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]
