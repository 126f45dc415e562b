"""ARCHITECTURE.md is true: every import, confinement, size and name in `src/saccade` is held against it."""

from __future__ import annotations

from pathlib import Path

import pytest

import layering
from layering import Row

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
SOURCES = layering.read_sources(ROOT / "src" / "saccade")
ROWS = layering.read_layers(PAGE)


class TestTheTree:
    def test_every_module_has_a_row_and_every_row_its_module(self) -> None:
        assert layering.misplaced_modules(ROWS, SOURCES) == []

    def test_imports_go_only_downward(self) -> None:
        assert layering.upward_imports(ROWS, SOURCES) == []

    def test_no_imports_run_in_a_ring(self) -> None:
        assert layering.import_cycles(SOURCES) == []

    def test_packages_stay_in_their_rooms(self) -> None:
        assert layering.unconfined_imports(layering.read_table(PAGE, "confined"), SOURCES) == []

    def test_the_language_and_the_code_generators_never_reach_torch(self) -> None:
        assert layering.forbidden_reaches(layering.read_table(PAGE, "forbidden"), SOURCES) == []

    def test_an_import_inside_a_function_says_why(self) -> None:
        assert layering.unexplained_deferrals(SOURCES) == []

    def test_files_and_functions_stay_short(self) -> None:
        assert layering.oversized(SOURCES) == []

    def test_nothing_is_named_after_nothing(self) -> None:
        assert layering.vague_names(SOURCES) == []

    def test_the_page_stays_readable(self) -> None:
        assert len(PAGE.splitlines()) <= 200

    def test_all_five_floors_are_there(self) -> None:
        assert {row.floor for row in ROWS} == set(layering.FLOORS)


# The rules themselves, on a house small enough to see through.

HOUSE = [
    Row("language", 0, "errors.py", "built", "errors"),
    Row("language", 1, "ir/", "built", "meaning"),
    Row("language", 2, "trace/", "built", "reading"),
    Row("analysis", 2, "analysis/", "built", "facts"),
    Row("uses", 9, "__init__.py", "built", "names"),
]
SOUND = {
    "__init__.py": "from saccade.trace.proxy import trace\n",
    "errors.py": "",
    "ir/__init__.py": "from saccade.ir.expr import Expr\n",
    "ir/expr.py": "from saccade import errors\nfrom . import ops\n",
    "ir/ops.py": "import numpy\n",
    "trace/proxy.py": "import torch\nfrom saccade.ir import Expr\nfrom ..errors import SaccadeError\n",
    "analysis/interval.py": "from saccade.ir.expr import Expr\n",
}


def changed(**files: str) -> dict[str, str]:
    """The sound house with some files replaced; `ir__expr` stands for `ir/expr.py`."""
    return SOUND | {name.replace("__", "/") + ".py": source for name, source in files.items()}


def test_a_sound_house_has_no_complaints() -> None:
    assert layering.misplaced_modules(HOUSE, SOUND) == []
    assert layering.upward_imports(HOUSE, SOUND) == []
    assert layering.import_cycles(SOUND) == []
    assert layering.forbidden_reaches([{"module": "ir", "never reaches": "torch"}], SOUND) == []
    assert layering.unexplained_deferrals(SOUND) == []
    assert layering.oversized(SOUND) == []
    assert layering.vague_names(SOUND) == []


@pytest.mark.parametrize(
    "source",
    [
        "import saccade.trace.proxy",
        "from saccade.trace import proxy",
        "from saccade.trace.proxy import trace",
        "from ..trace.proxy import trace",
        "from ..trace import proxy",
        "def late():\n    from saccade.trace import proxy",
        "async def late():\n    from saccade.trace import proxy",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from saccade.trace import proxy",
        "try:\n    import saccade.trace.proxy\nexcept ImportError:\n    pass",
        "import saccade",
        "from saccade import trace_everything",
    ],
)
def test_an_upward_import_is_seen_wherever_it_stands(source: str) -> None:
    (complaint,) = layering.upward_imports(HOUSE, changed(ir__expr=source))
    assert complaint.startswith("ir/expr.py:")
    assert "layer 1 imports saccade" in complaint


def test_siblings_of_one_layer_do_not_know_each_other() -> None:
    (complaint,) = layering.upward_imports(HOUSE, changed(analysis__interval="import saccade.trace.proxy"))
    assert "layer 2 imports saccade.trace.proxy of layer 2" in complaint


def test_files_side_by_side_know_each_other_but_directories_do_not() -> None:
    rows = [Row("language", 0, name, "built", "") for name in ("errors.py", "settings.py", "kit/")]
    sources = {"errors.py": "", "settings.py": "import saccade.errors", "kit/nut.py": ""}
    assert layering.upward_imports(rows, sources) == []
    assert layering.upward_imports(rows, sources | {"kit/nut.py": "import saccade.errors"})
    assert layering.upward_imports(rows, sources | {"errors.py": "import saccade.kit.nut"})


def test_a_ring_of_imports_is_seen_once() -> None:
    assert layering.import_cycles(changed(ir__ops="import saccade.ir.expr")) == [
        "ir/expr.py -> ir/ops.py -> ir/expr.py: an import cycle"
    ]
    deferred = "def f():\n    import saccade.ir.expr\nif TYPE_CHECKING:\n    import saccade.ir.expr"
    assert layering.import_cycles(changed(ir__ops=deferred)) == []


def test_a_reason_excuses_only_what_the_type_checker_sees() -> None:
    excused = "if TYPE_CHECKING:\n    from saccade.trace import proxy  # upward: names the caller"
    assert layering.upward_imports(HOUSE, changed(ir__expr=excused)) == []
    bare = "if TYPE_CHECKING:\n    from saccade.trace import proxy  # upward:"
    assert layering.upward_imports(HOUSE, changed(ir__expr=bare))
    at_run_time = "from saccade.trace import proxy  # upward: names the caller"
    assert layering.upward_imports(HOUSE, changed(ir__expr=at_run_time))
    in_the_else = "if TYPE_CHECKING:\n    pass\nelse:\n    from saccade.trace import proxy  # upward: why"
    assert layering.upward_imports(HOUSE, changed(ir__expr=in_the_else))


def test_a_file_that_only_makes_a_package_of_its_rooms_needs_no_row() -> None:
    rooms = [*HOUSE, Row("uses", 9, "codegen/cpu/", "built", "")]
    sources = {**SOUND, "codegen/__init__.py": '"""Two rooms."""', "codegen/cpu/emit.py": ""}
    assert layering.misplaced_modules(rooms, sources) == []
    furnished = {**sources, "codegen/__init__.py": "x = 1"}
    complaint = "codegen/__init__.py: has no row in the layer table"
    assert layering.misplaced_modules(rooms, furnished) == [complaint]


@pytest.mark.parametrize(
    ("rows", "sources", "complaint"),
    [
        (HOUSE, changed(stray=""), "stray.py: has no row in the layer table"),
        ([*HOUSE, Row("uses", 9, "viz/", "built", "")], SOUND, "viz/: is built in the table but is absent"),
        (
            [*HOUSE, Row("uses", 9, "viz/", "planned", "")],
            changed(viz__plot=""),
            "viz/: is planned in the table but exists",
        ),
        (
            [*HOUSE, Row("uses", 9, "viz/", "soon", "")],
            SOUND,
            "viz/: state must be built or planned, not 'soon'",
        ),
        ([*HOUSE, Row("cellar", 9, "viz/", "planned", "")], SOUND, "viz/: unknown floor 'cellar'"),
        (HOUSE[::-1], SOUND, "the rows are not in the order of layers and floors"),
    ],
)
def test_the_table_must_tell_the_truth(rows: list[Row], sources: dict[str, str], complaint: str) -> None:
    assert layering.misplaced_modules(rows, sources) == [complaint]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("runtime/llvm.py", True),
        ("runtime/llvm/jit.py", True),
        ("codegen/cpu/emit.py", True),
        ("codegen/cpu_notes.py", False),
        ("runtime/cache.py", False),
    ],
)
def test_a_confined_package_is_seen_outside_its_rooms(path: str, allowed: bool) -> None:
    table = [{"package": "llvmlite", "only in": "codegen/cpu, runtime/llvm"}]
    complaints = layering.unconfined_imports(table, {path: "def f():\n    from llvmlite import binding\n"})
    expected = [] if allowed else [f"{path}:2: llvmlite belongs to codegen/cpu and runtime/llvm"]
    assert complaints == expected


@pytest.mark.parametrize(
    ("sources", "chain"),
    [
        (changed(ir__ops="import torch.nn"), "ir/ops.py -> torch.nn"),
        (changed(errors="import torch"), "ir/expr.py -> errors.py -> torch"),
        (changed(ir__ops="if TYPE_CHECKING:\n    from torch import Tensor"), "ir/ops.py -> torch"),
        (
            changed(ir__ops="import saccade.kit.nut", kit__nut="") | {"kit/__init__.py": "import torch"},
            "ir/ops.py -> kit/__init__.py -> torch",
        ),
    ],
)
def test_a_forbidden_package_is_seen_through_others(sources: dict[str, str], chain: str) -> None:
    complaints = layering.forbidden_reaches([{"module": "ir", "never reaches": "torch"}], sources)
    assert f"{chain}: ir must never reach torch" in complaints


def test_what_only_the_type_checker_sees_is_no_way_to_torch() -> None:
    sources = changed(errors="if TYPE_CHECKING:\n    from torch import Tensor")
    assert layering.forbidden_reaches([{"module": "ir", "never reaches": "torch"}], sources) == []


def test_a_deferred_import_needs_its_reason() -> None:
    assert layering.unexplained_deferrals(changed(errors="def f():\n    import json")) == [
        "errors.py:2: an import of json inside a function needs '# deferred: <reason>'"
    ]
    assert (
        layering.unexplained_deferrals(changed(errors="def f():\n    import json  # deferred: it is heavy"))
        == []
    )


def test_long_files_and_functions_are_seen() -> None:
    body = "    pass\n" * layering.MAX_FUNCTION_LINES
    documented = f'def f():\n    """One.\n\n    Two.\n    """\n{body[:-9]}'
    assert layering.oversized({"a.py": documented}) == []
    assert layering.oversized({"a.py": f"def f():\n{body}"}) == ["a.py:1: f has 71 lines of 70"]
    assert layering.oversized({"a.py": "\n" * 451}) == ["a.py: 451 lines; split it at 450"]


@pytest.mark.parametrize("path", ["utils.py", "ir/helpers.py", "common/mask.py", "shape_utils.py"])
def test_vague_names_are_seen(path: str) -> None:
    assert layering.vague_names({path: ""}) == [f"{path}: name it by the idea it holds"]


def test_a_page_without_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no block ```layers in the text"):
        layering.read_layers("# Architecture\n")
