"""Reading program text, as `text` writes it.

Python's own parser makes the syntax tree; this module turns it into expressions and never evaluates anything.
Each line is checked as it is read, so that an error shows the line.
"""

from __future__ import annotations

import ast

from saccade.errors import ProgramError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, const, load, make, number, var
from saccade.ir.ops import INDEX_VARIABLES, OPS, VARIABLES, Op
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.ir.syntax import AXIS_NAME, CALLS, DTYPE_NAMES, LITERALS, REDUCTION_NAMES, RESERVED, float_type
from saccade.ir.verify import check_node, verify


def parse_structure(text: str) -> Structure:
    r"""Read what `format_structure` wrote.

    Args:
        text: A header line, lines that name subexpressions, and a result line.

    Returns:
        The structure, verified.

    Raises:
        ProgramError: If the text is not of that form or breaks a rule of the representation; the message
            shows the line.

    Example:
        >>> structure = parse_structure("mask(n0: i64) -> bool\nq_idx - kv_idx < n0")
        >>> structure.kind, structure.numbers
        (<ModKind.MASK: 'mask'>, (DType.INT64,))
    """
    lines = [(row, line.strip()) for row, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if len(lines) < 2:
        raise ProgramError(f"program text has a header and a result line; got {text!r}")
    reader = _Reader(*lines[0])
    for row, line in lines[1:-1]:
        reader.define(row, line)
    structure = Structure(reader.kind, reader.result(*lines[-1]), reader.captures, reader.numbers)
    verify(structure)
    return structure


_BINARY_NODES: dict[type[ast.AST], Op] = {
    ast.Add: Op.ADD,
    ast.Sub: Op.SUB,
    ast.Mult: Op.MUL,
    ast.Div: Op.DIV,
    ast.FloorDiv: Op.FLOOR_DIV,
    ast.Mod: Op.REMAINDER,
    ast.Pow: Op.POW,
    ast.BitAnd: Op.AND,
    ast.BitOr: Op.OR,
    ast.BitXor: Op.XOR,
    ast.LShift: Op.SHL,
    ast.RShift: Op.SHR,
    ast.Eq: Op.EQ,
    ast.NotEq: Op.NE,
    ast.Lt: Op.LT,
    ast.LtE: Op.LE,
}


class _Reader:
    """Reads one program text, line by line; holds what the lines so far have named."""

    def __init__(self, row: int, header: str) -> None:
        self._row, self._line = row, header
        self._names: dict[str, Expr] = {}
        self._slots: dict[str, int] = {}
        tree = self._parse(f"def {header}: ...")
        definition = tree.body[0]
        if not isinstance(definition, ast.FunctionDef) or definition.name not in ("mask", "score"):
            raise self._fault("expected a header such as 'mask(c0: i64[1], n0: i64) -> bool'")
        self.kind = ModKind(definition.name)
        self._result_type = self._dtype(definition.returns)
        self._float_type = float_type(self._result_type)
        captures: list[CaptureType] = []
        numbers: list[DType] = []
        for argument in definition.args.args:
            if argument.arg in self._names or argument.arg in self._slots or argument.arg in RESERVED:
                raise self._fault(f"expected a new name for a slot, got {argument.arg!r}")
            if isinstance(argument.annotation, ast.Subscript):
                self._slots[argument.arg] = len(captures)
                rank = self._count(argument.annotation.slice)
                captures.append(CaptureType(self._dtype(argument.annotation.value), rank))
            else:
                dtype = self._dtype(argument.annotation)
                self._names[argument.arg] = number(len(numbers), dtype)
                numbers.append(dtype)
        self.captures = tuple(captures)
        self.numbers = tuple(numbers)

    def define(self, row: int, line: str) -> None:
        """Read a line that names a subexpression."""
        self._row, self._line = row, line
        statement = self._parse(line).body[0]
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            raise self._fault("expected a line such as 'v0 = q_idx - kv_idx'")
        name = statement.targets[0].id
        if name in self._names or name in self._slots or name in RESERVED or AXIS_NAME.fullmatch(name):
            raise self._fault(f"expected a new name, got {name!r}")
        self._names[name] = self._read(statement.value)

    def result(self, row: int, line: str) -> Expr:
        """Read the last line."""
        self._row, self._line = row, line
        statement = self._parse(line).body[0]
        if not isinstance(statement, ast.Expr):
            raise self._fault("expected the result expression as the last line")
        root = self._read(statement.value)
        if root.dtype is not self._result_type:
            raise self._fault(
                f"expected the header's result type {self._result_type.value}, got {root.dtype.value}"
            )
        return root

    def _parse(self, source: str) -> ast.Module:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise self._fault(f"expected Python syntax, got {error.args[0]}") from None
        except (RecursionError, MemoryError):
            raise self._fault("expected fewer nested parts: give some a line of their own") from None
        if len(tree.body) != 1:
            raise self._fault("expected one statement a line")
        return tree

    def _fault(self, fault: str) -> ProgramError:
        return ProgramError(f"program text, line {self._row}: {fault}\n    {self._line}")

    def _read(self, tree: ast.expr) -> Expr:
        try:
            return self._expression(tree)
        except RecursionError:
            raise self._fault("expected fewer nested parts: give some a line of their own") from None

    def _expression(self, tree: ast.expr) -> Expr:
        if isinstance(tree, ast.Constant):
            return self._constant(tree.value, None)
        if isinstance(tree, ast.Name):
            return self._name(tree.id)
        if isinstance(tree, ast.UnaryOp):
            return self._unary(tree)
        if isinstance(tree, ast.BinOp):
            op = _BINARY_NODES.get(type(tree.op))
            if op is not None:
                return self._make(op, (self._expression(tree.left), self._expression(tree.right)))
        if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
            op = _BINARY_NODES.get(type(tree.ops[0]))
            if op is not None:
                return self._make(op, (self._expression(tree.left), self._expression(tree.comparators[0])))
        if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name):
            return self._load(tree.value.id, tree.slice)
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.keywords:
            return self._call(tree.func.id, tree.args)
        raise self._fault(f"expected an operator or call of program text, got {ast.unparse(tree)!r}")

    def _make(self, op: Op, args: tuple[Expr, ...], attr: object = None, dtype: DType | None = None) -> Expr:
        arity = OPS[op].arity
        if arity is not None and len(args) != arity:
            raise self._fault(f"expected {arity} arguments of {OPS[op].text}, got {len(args)}")
        node = make(op, args, attr, dtype)
        try:
            check_node(node, self.captures, self.numbers)
        except ProgramError as error:
            raise self._fault(str(error)) from None
        return node

    def _constant(self, value: object, dtype: DType | None) -> Expr:
        if isinstance(value, bool):
            usual = DType.BOOL
        elif isinstance(value, int):
            usual = DType.INT64
        elif isinstance(value, float):
            usual = self._float_type
        else:
            raise self._fault(f"expected a bool, int or float literal, got {value!r}")
        if (dtype or usual).is_float != usual.is_float or (dtype or usual) is not (dtype or usual).value_type:
            raise self._fault(
                f"expected a literal that fits its type, got const({value!r}, {(dtype or usual).value})"
            )
        node = const(value, dtype or usual)
        if node.op is Op.CONST:
            self._make(Op.CONST, (), node.attr, node.dtype)  # checks its range
        return node

    def _name(self, name: str) -> Expr:
        if name in self._names:
            return self._names[name]
        if name in INDEX_VARIABLES:
            return var(name)
        if name in VARIABLES:
            return var(name, self._float_type)
        if name in LITERALS:
            return const(LITERALS[name], self._float_type)
        found = AXIS_NAME.fullmatch(name)
        if found is not None:
            return axis(int(found[1]))
        raise self._fault(f"expected a variable, slot or earlier line, got {name!r}")

    def _unary(self, tree: ast.UnaryOp) -> Expr:
        negative = isinstance(tree.op, ast.USub)
        value = _literal_value(tree.operand)
        if negative and value is not None:
            return self._constant(-value, None)
        if negative or isinstance(tree.op, ast.Invert):
            return self._make(Op.NEG if negative else Op.NOT, (self._expression(tree.operand),))
        raise self._fault(f"expected '-' or '~', got {ast.unparse(tree)!r}")

    def _load(self, name: str, index: ast.expr) -> Expr:
        if name not in self._slots:
            raise self._fault(f"expected a capture of the header before '[', got {name!r}")
        indices = index.elts if isinstance(index, ast.Tuple) else [index]
        slot = self._slots[name]
        node = load(slot, [self._expression(part) for part in indices], self.captures[slot].dtype.value_type)
        return self._make(Op.LOAD, node.args, slot, node.dtype)

    def _call(self, name: str, args: list[ast.expr]) -> Expr:
        if name in DTYPE_NAMES:
            if len(args) != 1:
                raise self._fault(f"expected one argument of the cast {name}, got {len(args)}")
            return self._make(Op.CAST, (self._expression(args[0]),), DTYPE_NAMES[name])
        if name in REDUCTION_NAMES:
            return self._reduction(REDUCTION_NAMES[name], args)
        if name in ("const", "var"):
            return self._typed(name, args)
        if name not in CALLS:
            raise self._fault(f"expected one of {', '.join(sorted(CALLS))}, got {name!r}")
        op = CALLS[name]
        values = tuple(self._expression(arg) for arg in args)
        return self._make(op, values, (len(values) - 1) // 2 if op is Op.CUSTOM else None)

    def _reduction(self, op: Op, args: list[ast.expr]) -> Expr:
        bound = args[0] if len(args) == 2 else None
        if not (
            isinstance(bound, ast.Compare)
            and isinstance(bound.left, ast.Name)
            and isinstance(bound.ops[0], ast.Lt)
        ):
            raise self._fault(f"expected a reduction such as '{OPS[op].text}(axis0 < 64, ...)'")
        found = AXIS_NAME.fullmatch(bound.left.id)
        if found is None:
            raise self._fault(f"expected an axis such as 'axis0', got {bound.left.id!r}")
        return self._make(
            op, (self._expression(args[1]),), (int(found[1]), self._count(bound.comparators[0]))
        )

    def _typed(self, name: str, args: list[ast.expr]) -> Expr:
        if len(args) != 2:
            raise self._fault(f"expected {name}(..., type), got {len(args)} arguments")
        dtype = self._dtype(args[1])
        if name == "const":
            negative = isinstance(args[0], ast.UnaryOp) and isinstance(args[0].op, ast.USub)
            value = _literal_value(args[0].operand if isinstance(args[0], ast.UnaryOp) else args[0])
            if value is None:
                raise self._fault(f"expected a number in const(), got {ast.unparse(args[0])!r}")
            return self._constant(-value if negative else value, dtype)
        if not (isinstance(args[0], ast.Name) and args[0].id in VARIABLES):
            raise self._fault(
                f"expected one of {', '.join(VARIABLES)} in var(), got {ast.unparse(args[0])!r}"
            )
        return self._make(Op.VAR, (), args[0].id, dtype)

    def _dtype(self, tree: ast.expr | None) -> DType:
        if isinstance(tree, ast.Name) and tree.id in DTYPE_NAMES:
            return DTYPE_NAMES[tree.id]
        given = "nothing" if tree is None else repr(ast.unparse(tree))
        raise self._fault(f"expected a type ({', '.join(DTYPE_NAMES)}), got {given}")

    def _count(self, tree: ast.expr) -> int:
        if isinstance(tree, ast.Constant) and type(tree.value) is int and tree.value >= 0:
            return tree.value
        raise self._fault(f"expected an int of 0 or more, got {ast.unparse(tree)!r}")


def _literal_value(tree: ast.expr) -> int | float | None:
    """The number that an unsigned literal stands for."""
    if isinstance(tree, ast.Name):
        return LITERALS.get(tree.id)
    if (
        isinstance(tree, ast.Constant)
        and isinstance(tree.value, (int, float))
        and not isinstance(tree.value, bool)
    ):
        return tree.value
    return None
