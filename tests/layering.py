"""Reads the tables of ARCHITECTURE.md and finds what in a source tree breaks them.

A source tree is a mapping from path (`ir/expr.py`, relative to the package) to source text, so that the
rules can be tried on a few synthetic lines. Every check returns complaints that name the file; none asserts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "saccade"
FLOORS = ("language", "analysis", "engines", "API", "uses")
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70
VAGUE_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "misc"})

Sources = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One row of the layer table; `module` is a file (`planner.py`) or a directory (`ir/`)."""

    floor: str
    layer: int
    module: str
    state: str
    owns: str

    def holds(self, path: str) -> bool:
        return path.startswith(self.module) if self.module.endswith("/") else path == self.module


@dataclass(frozen=True)
class Import:
    """One imported module: `name` is dotted and absolute, `comment` the rest of its line after `#`."""

    name: str
    line: int
    in_function: bool
    type_checking: bool
    comment: str

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def read_table(markdown: str, fence: str) -> list[dict[str, str]]:
    """The rows of the fenced block that opens with ```fence, keyed by its heading line."""
    found = re.search(rf"^```{fence}\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"there is no block ```{fence} in the text")
    heading, *lines = [[cell.strip() for cell in line.split("|")] for line in found[1].splitlines()]
    return [dict(zip(heading, cells, strict=True)) for cells in lines]


def read_layers(markdown: str) -> list[Row]:
    rows = read_table(markdown, "layers")
    return [Row(**{**row, "layer": int(row["layer"])}) for row in rows]  # type: ignore[arg-type]


def read_sources(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*.py"))
    }


def imports_of(path: str, sources: Sources) -> list[Import]:
    """Every import of a file, wherever it stands, with names inside the package resolved to modules."""
    source = sources[path]
    lines = source.splitlines()
    found = []
    for node, in_function, type_checking in _walk(ast.parse(source), False, False):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path)
            names = [_module_named(base, alias.name, sources) for alias in node.names]
        else:
            continue
        comment = " ".join(
            line.partition("#")[2] for line in lines[node.lineno - 1 : node.end_lineno]
        ).strip()
        found += [Import(name, node.lineno, in_function, type_checking, comment) for name in names]
    return found


def _walk(node: ast.AST, in_function: bool, type_checking: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            # The `else` of `if TYPE_CHECKING:` runs.
            guarded = type_checking or (
                isinstance(node, ast.If) and field == "body" and "TYPE_CHECKING" in ast.dump(node.test)
            )
            yield child, in_function, guarded
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _walk(child, in_function or is_function, guarded)


def _absolute(node: ast.ImportFrom, path: str) -> str:
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *path.removesuffix(".py").split("/")][: -node.level]
    return ".".join([*parts, node.module] if node.module else parts)


def _module_named(base: str, name: str, sources: Sources) -> str:
    """`from base import name`: the submodule of that name if there is one, else `base`."""
    return f"{base}.{name}" if _file_of(f"{base}.{name}", sources) else base


def _file_of(module: str, sources: Sources) -> str | None:
    """The file of a module of the package; None for any other module."""
    if module.partition(".")[0] != PACKAGE:
        return None
    stem = module.replace(".", "/").removeprefix(PACKAGE).lstrip("/")
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")) if path in sources), None)


def _row_of(path: str, rows: list[Row]) -> Row | None:
    return next((row for row in rows if row.holds(path)), None)


def misplaced_modules(rows: list[Row], sources: Sources) -> list[str]:
    """Files without a row, rows without a file, floors out of order."""
    complaints = [
        f"{path}: has no row in the layer table"
        for path, source in sources.items()
        if not _row_of(path, rows) and not _is_landing(path, source, rows)
    ]
    for row in rows:
        exists = any(row.holds(path) for path in sources)
        if row.state not in ("built", "planned"):
            complaints.append(f"{row.module}: state must be built or planned, not {row.state!r}")
        elif exists != (row.state == "built"):
            complaints.append(
                f"{row.module}: is {row.state} in the table but {'exists' if exists else 'is absent'}"
            )
        if row.floor not in FLOORS:
            complaints.append(f"{row.module}: unknown floor {row.floor!r}")
    order = [(row.layer, FLOORS.index(row.floor)) for row in rows if row.floor in FLOORS]
    if order != sorted(order) or [floor for _, floor in order] != sorted(floor for _, floor in order):
        complaints.append("the rows are not in the order of layers and floors")
    return complaints


def _is_landing(path: str, source: str, rows: list[Row]) -> bool:
    """Whether a file only makes a package of a directory whose own directories have the rows."""
    directory = path.removesuffix("__init__.py")
    has_rooms = directory.endswith("/") and any(row.module.startswith(directory) for row in rows)
    return has_rooms and all(isinstance(node, ast.Expr) for node in ast.parse(source).body)


def upward_imports(rows: list[Row], sources: Sources) -> list[str]:
    """Imports that reach the same layer elsewhere, or a higher one."""
    complaints = []
    for path in sources:
        here = _row_of(path, rows)
        for item in imports_of(path, sources):
            target = _file_of(item.name, sources)
            there = _row_of(target, rows) if target else None
            if here is None or there is None or _may_know(here, there):
                continue
            if item.type_checking and re.search(r"\bupward: \S", item.comment):
                continue
            complaints.append(
                f"{path}:{item.line}: layer {here.layer} imports {item.name} of layer {there.layer}"
            )
    return complaints


def _may_know(here: Row, there: Row) -> bool:
    files = not (here.module.endswith("/") or there.module.endswith("/"))
    return here == there or there.layer < here.layer or (files and there.layer == here.layer)


def import_cycles(sources: Sources) -> list[str]:
    """Files that import each other in a ring at import time; each ring once, from its first file."""
    graph = {
        path: sorted(
            target
            for item in imports_of(path, sources)
            if not (item.in_function or item.type_checking)
            if (target := _file_of(item.name, sources)) and target != path
        )
        for path in sources
    }
    rings: dict[frozenset[str], list[str]] = {}
    finished: set[str] = set()

    def visit(path: str, trail: list[str]) -> None:
        if path in trail:
            ring = trail[trail.index(path) :]
            first = ring.index(min(ring))
            rings[frozenset(ring)] = [*ring[first:], *ring[:first], min(ring)]
        elif path not in finished:
            for target in graph[path]:
                visit(target, [*trail, path])
            finished.add(path)

    for path in graph:
        visit(path, [])
    return [f"{' -> '.join(ring)}: an import cycle" for ring in rings.values()]


def unconfined_imports(table: list[dict[str, str]], sources: Sources) -> list[str]:
    """Packages imported outside the rooms they are confined to."""
    rooms = {row["package"]: [room.strip() for room in row["only in"].split(",")] for row in table}
    return [
        f"{path}:{item.line}: {item.package} belongs to {' and '.join(rooms[item.package])}"
        for path in sources
        for item in imports_of(path, sources)
        if item.package in rooms
        and not any(
            path.removesuffix(".py") == room or path == room or path.startswith(f"{room}/")
            for room in rooms[item.package]
        )
    ]


def forbidden_reaches(table: list[dict[str, str]], sources: Sources) -> list[str]:
    """Modules that import a package they must not see, directly or through others of this package."""
    complaints = []
    for row in table:
        room, package = row["module"], row["never reaches"]
        for start in (path for path in sources if path.startswith(f"{room}/")):
            chain = _chain_to(package, start, sources)
            if chain:
                complaints.append(f"{' -> '.join(chain)}: {room} must never reach {package}")
    return complaints


def _chain_to(package: str, start: str, sources: Sources) -> list[str] | None:
    """The shortest chain of files by which importing `start` imports `package`.

    Importing a module runs the `__init__` of every directory above it; the package's own is left out, for it
    only gathers public names and nothing below it depends on them. What only a type checker sees counts in
    `start` itself, and not on the way, where it would never run.
    """
    queue: list[list[str]] = [[start]]
    seen = {start}
    while queue:
        chain = queue.pop(0)
        for item in imports_of(chain[-1], sources):
            if item.type_checking and chain[-1] != start:
                continue
            if item.package == package:
                return [*chain, item.name]
            target = None if item.type_checking else _file_of(item.name, sources)
            for path in _run_by_importing(target, sources) if target else ():
                if path not in seen:
                    seen.add(path)
                    queue.append([*chain, path])
    return None


def _run_by_importing(path: str, sources: Sources) -> list[str]:
    folders = path.split("/")[:-1]
    parents = ["/".join([*folders[: depth + 1], "__init__.py"]) for depth in range(len(folders))]
    return [path, *(parent for parent in parents if parent in sources)]


def unexplained_deferrals(sources: Sources) -> list[str]:
    """Imports inside a function that do not say why: `# deferred: <reason>`."""
    return [
        f"{path}:{item.line}: an import of {item.name} inside a function needs '# deferred: <reason>'"
        for path in sources
        for item in imports_of(path, sources)
        if item.in_function and not re.search(r"\bdeferred: \S", item.comment)
    ]


def oversized(sources: Sources) -> list[str]:
    """Files and functions beyond their length."""
    complaints = []
    for path, source in sources.items():
        length = len(source.splitlines())
        if length > MAX_FILE_LINES:
            complaints.append(f"{path}: {length} lines; split it at {MAX_FILE_LINES}")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = _code_lines(node)
                if length > MAX_FUNCTION_LINES:
                    complaints.append(
                        f"{path}:{node.lineno}: {node.name} has {length} lines of {MAX_FUNCTION_LINES}"
                    )
    return complaints


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which may be as long as it is useful."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return total
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1)


def vague_names(sources: Sources) -> list[str]:
    """Files and directories named after nothing in particular."""
    return [
        f"{path}: name it by the idea it holds"
        for path in sources
        if VAGUE_NAMES & set(re.split(r"[/_.]", path))
    ]
