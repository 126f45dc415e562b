"""The hook that makes notebooks and pages of examples: what it writes, when it runs, and what it refuses."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType

import jupytext
import nbformat
import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("r[0-9]_*.py"))
SCRIPT = '''# %% [markdown]
"""
# A title

What follows.
"""

# %%
from pathlib import Path

from saccade.viz.canvas import new_figure

Path("written").touch()
print(2 + 3)

# %% [markdown]
# ## A picture

# %%
figure = new_figure(1, 1)
axes = figure.subplots()
figure
'''


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dates(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_script_becomes_a_notebook_a_page_and_pictures(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, folder = tmp_path / "r9_tiny.py", tmp_path / "pages"
    script.write_text(SCRIPT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    hook.publish(script, folder)

    notebook = nbformat.read(folder / "r9_tiny.ipynb", nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    _, first, _, second = notebook.cells
    assert [cell.id for cell in notebook.cells] == ["cell-0", "cell-1", "cell-2", "cell-3"]
    assert first.outputs[0].text == "5\n"
    assert first.source.startswith("from pathlib")
    assert "image/png" in second.outputs[0].data

    page = (folder / "r9_tiny.md").read_text(encoding="utf-8")
    title, blank, origin = page.splitlines()[:3]
    assert (title, blank) == ("# A title", "")
    assert "[notebook](r9_tiny.ipynb)" in origin
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert "What follows." in page
    assert "    5\n" in page
    # It ran elsewhere, and left nothing behind.
    assert not (tmp_path / "written").exists()


def test_a_script_runs_again_only_when_something_changed(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, folder = tmp_path / "r9_tiny.py", tmp_path / "pages"
    script.write_text(SCRIPT, encoding="utf-8")
    runs = []
    executed = hook.executed
    monkeypatch.setattr(hook, "executed", lambda path: runs.append(path) or executed(path))
    hook.publish(script, folder)
    before = dates(folder)
    hook.publish(script, folder)
    assert len(runs) == 1
    assert dates(folder) == before

    script.write_text(SCRIPT.replace("2 + 3", "2 + 5").rpartition("# %%")[0], encoding="utf-8")
    hook.publish(script, folder)
    assert len(runs) == 2
    assert "    7\n" in (folder / "r9_tiny.md").read_text(encoding="utf-8")
    assert not list((folder / "r9_tiny_files").iterdir()), "a picture stayed that no page shows"


def test_the_library_and_the_packages_below_it_are_part_of_what_a_notebook_is_made_from(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "r9_tiny.py"
    script.write_text(SCRIPT, encoding="utf-8")
    module = tmp_path / "src" / "module.py"
    module.parent.mkdir()
    module.write_text("", encoding="utf-8")
    monkeypatch.setattr(hook, "ROOT", tmp_path)
    found = [hook.digest(script)]
    assert hook.digest(script) == found[0]
    module.write_text("changed = True\n", encoding="utf-8")
    found.append(hook.digest(script))
    monkeypatch.setattr(hook, "version", lambda package: "another")
    found.append(hook.digest(script))
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "(?s)r9_bad.py does not run as a notebook: .*ZeroDivisionError"),
        ("import warnings\nwarnings.warn('beware')", "(?s)r9_bad.py warns .*beware"),
    ],
)
def test_a_cell_that_raises_or_warns_stops_the_build(
    hook: ModuleType, tmp_path: Path, cell: str, message: str
) -> None:
    script = tmp_path / "r9_bad.py"
    script.write_text(f"# %% [markdown]\n# # Bad\n\n# %%\n{cell}\n", encoding="utf-8")
    with pytest.raises(PluginError, match=message):
        hook.publish(script, tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_reads_as_a_story_of_short_cells(script: Path, hook: ModuleType) -> None:
    assert hook.scripts() == EXAMPLES
    cells = jupytext.read(script).cells
    first = cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert f"python examples/{script.name}" in first.source
    for before, cell in itertools.pairwise(cells[1:]):
        assert "code" in (before.cell_type, cell.cell_type), "two texts in a row"
        assert len(cell.source.splitlines()) <= 50
    assert f"notebooks/{script.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
