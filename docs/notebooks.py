"""The examples as notebooks: a hook of mkdocs.

Each `examples/r?_*.py` is a script in jupytext's percent format. It is run as a notebook, cell by cell in a
kernel of this environment, and becomes a page and a file to download. Owns `docs/notebooks/`, all of whose
files it writes. What a page shows was computed by the code above it; a cell that raises or warns stops the
build.

Running them takes the better part of a minute, so a notebook remembers what it was made from, and is run
again only when its script, the library or a package below it has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.exceptions import PluginError
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbformat import NotebookNode
from traitlets.config import Config

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
FOLDER = DOCS / "notebooks"

log = logging.getLogger("mkdocs.hooks.notebooks")

_SECONDS_A_CELL = 120
_PACKAGES = ("torch", "numpy", "llvmlite", "matplotlib", "rich", "jupytext", "nbclient", "ipykernel")
# Where an installed kernel and a user's own settings might interfere with a run.
_PRIVATE = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
_CONFIG = Config(
    {
        # The ports that kernel and client talk through are open to nobody else.
        "KernelManager": {"transport_encryption": "auto"},
        # No directory of kernels is searched, which leaves this interpreter's own.
        "KernelSpecManager": {"kernel_dirs": [], "ensure_native_kernel": True},
    }
)


def on_pre_build(config: Any) -> None:
    """Write every notebook and its page before mkdocs looks for files."""
    for script in scripts():
        publish(script, FOLDER)


def scripts() -> list[Path]:
    """List the examples that become notebooks, in the order of their names."""
    return sorted((ROOT / "examples").glob("r[0-9]_*.py"))


def publish(script: Path, folder: Path) -> None:
    """Write `NAME.ipynb`, `NAME.md` and the folder `NAME_files`, running the script only if it must be.

    Args:
        script: A script in percent format, its first cell a title in Markdown.
        folder: Where to write. A file that would not change keeps its date, so that `mkdocs serve` does not
            build for ever.

    Raises:
        PluginError: A cell raised, or wrote to stderr, as warnings do.
    """
    origin = digest(script)
    target = folder / f"{script.stem}.ipynb"
    notebook = nbformat.read(target, nbformat.NO_CONVERT) if target.exists() else None
    if notebook is None or notebook.metadata.get("made_from") != origin:
        log.info("Running %s as a notebook", script.name)
        notebook = executed(script)
        notebook.metadata["made_from"] = origin
    page, pictures = page_of(notebook, script)
    _write(target, nbformat.writes(notebook).encode())
    _write(folder / f"{script.stem}.md", page.encode())
    for name, content in pictures.items():
        _write(folder / name, content)
    for picture in folder.glob(f"{script.stem}_files/*"):
        if f"{script.stem}_files/{picture.name}" not in pictures:
            picture.unlink()


def digest(script: Path) -> str:
    """Return a name for all that decides what a notebook shows: script, library, packages, this file."""
    library = (path for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".html", ".css", ".js"})
    found = hashlib.sha256()
    for path in (script, Path(__file__), *sorted(library)):
        found.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in _PACKAGES:
        found.update(f"{package} {version(package)}\n".encode())
    found.update(platform.python_version().encode())
    return found.hexdigest()


def executed(script: Path) -> NotebookNode:
    """Run a script as a notebook, in an empty folder, and return it with its outputs."""
    notebook = jupytext.read(script)
    # Ids are random otherwise; what jupytext notes beside them no reader needs.
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    with _private_folder() as folder:
        client = NotebookClient(
            notebook,
            timeout=_SECONDS_A_CELL,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
            config=_CONFIG,
        )
        try:
            client.execute()
        except Exception as fault:
            raise PluginError(f"{script.name} does not run as a notebook: {fault}") from fault
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise PluginError(f"{script.name} warns where a page must not:\n{output.text}")
    return notebook


def page_of(notebook: NotebookNode, script: Path) -> tuple[str, dict[str, bytes]]:
    """Turn an executed notebook into a page in Markdown, and its pictures by their path beside it."""
    names = {"unique_key": script.stem, "output_files_dir": f"{script.stem}_files"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, names)
    title, _, rest = text.partition("\n")
    file = f"{script.stem}.ipynb"
    origin = f"*`examples/{script.name}`, run as a [notebook]({file}){{ download={file} }}.*"
    rest = rest.replace("![png](", "![Drawn by the cell above](")
    return f"{title}\n\n{origin}\n{rest}", resources["outputs"]


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder to run in, which also stands in for the user's own settings of Jupyter and IPython."""
    before = {name: os.environ.get(name) for name in _PRIVATE}
    folder = Path(tempfile.mkdtemp(prefix="nb-"))
    try:
        (folder / "work").mkdir()
        os.environ.update({name: str(folder / name.lower()) for name in _PRIVATE})
        yield folder / "work"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder)


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
