"""The vocabulary: every operation an expression may hold, as one table.

`OPS` gives each `Op` its name in program text, its arity, how its type follows from its arguments, and its
meaning. Layers that need more (an interval, a derivative, a line of LLVM) keep a table of their own keyed by
`Op`; a test walks `Op` and demands a row or a reasoned refusal in each.

Poison, in every meaning below: an index out of range or an integer division by zero has no value. Poison
spreads through every op except `AND`, `OR` and `WHERE`, which follow Kleene: `False & poison = False`, `True
| poison = True`, and `where` drops the side not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from saccade.ir.dtype import DType


class Op(Enum):
    """An operation. See `OPS` for its arity, type rule and meaning."""

    # Members are singletons, so identity hashing is right, and much faster than Enum's.
    __hash__ = object.__hash__

    # leaves
    VAR = auto()
    CONST = auto()
    NUMBER = auto()
    AXIS = auto()
    LOAD = auto()
    # arithmetic
    ADD = auto()
    SUB = auto()
    MUL = auto()
    DIV = auto()
    FLOOR_DIV = auto()
    REMAINDER = auto()
    POW = auto()
    NEG = auto()
    ABS = auto()
    MINIMUM = auto()
    MAXIMUM = auto()
    # logic and bits
    AND = auto()
    OR = auto()
    XOR = auto()
    NOT = auto()
    SHL = auto()
    SHR = auto()
    # comparison and choice
    EQ = auto()
    NE = auto()
    LT = auto()
    LE = auto()
    WHERE = auto()
    # elementary functions
    EXP = auto()
    EXP2 = auto()
    EXPM1 = auto()
    LOG = auto()
    LOG2 = auto()
    LOG1P = auto()
    SQRT = auto()
    RSQRT = auto()
    SIN = auto()
    COS = auto()
    TAN = auto()
    ATAN = auto()
    TANH = auto()
    SIGMOID = auto()
    ERF = auto()
    FLOOR = auto()
    CEIL = auto()
    TRUNC = auto()
    ROUND = auto()
    # types, reductions, derivatives given by the user
    CAST = auto()
    SUM = auto()
    MAX = auto()
    MIN = auto()
    CUSTOM = auto()

    def __repr__(self) -> str:
        return f"Op.{self.name}"


class TypeRule(Enum):
    """How an op's type follows from its arguments' types."""

    GIVEN = "stated by the node"
    NUMERIC = "all arguments of one INT64 or float type, and so is the result"
    FLOAT = "all arguments of one float type, and so is the result"
    INTEGER = "all arguments INT64, and so is the result"
    LOGIC = "all arguments BOOL or all INT64, and so is the result"
    COMPARE = "all arguments of one type; the result is BOOL"
    CHOICE = "a BOOL, then two arguments of one type, which is the result's"
    CAST = "the value type of the target"
    FIRST = "the type of the first argument"


@dataclass(frozen=True)
class OpInfo:
    """What every layer may know of an op."""

    text: str  # its name in program text
    arity: int | None  # None: any number of arguments
    rule: TypeRule
    meaning: str


OPS: dict[Op, OpInfo] = {
    Op.VAR: OpInfo("var", 0, TypeRule.GIVEN, "an input of the mod: attr is its name, one of VARIABLES"),
    Op.CONST: OpInfo(
        "const", 0, TypeRule.GIVEN, "attr, a Python bool, int or float that code is specialised on"
    ),
    Op.NUMBER: OpInfo("number", 0, TypeRule.GIVEN, "run-time number: attr is its slot in Program.numbers"),
    Op.AXIS: OpInfo(
        "axis", 0, TypeRule.GIVEN, "the index of a reduction: attr k names the axis a reduction binds"
    ),
    Op.LOAD: OpInfo(
        "load",
        None,
        TypeRule.GIVEN,
        "capture[i0, i1, ...]; attr is the slot; -n <= i < n, negative from the end, else poison",
    ),
    Op.ADD: OpInfo("add", 2, TypeRule.NUMERIC, "a + b"),
    Op.SUB: OpInfo("sub", 2, TypeRule.NUMERIC, "a - b"),
    Op.MUL: OpInfo("mul", 2, TypeRule.NUMERIC, "a * b"),
    Op.DIV: OpInfo("div", 2, TypeRule.FLOAT, "a / b, IEEE: x / 0 is an infinity or NaN"),
    Op.FLOOR_DIV: OpInfo("floordiv", 2, TypeRule.INTEGER, "floor(a / b); b = 0 is poison"),
    Op.REMAINDER: OpInfo(
        "remainder",
        2,
        TypeRule.NUMERIC,
        "a - floor(a / b) * b, the sign of b; integer b = 0 is poison, float b = 0 NaN",
    ),
    Op.POW: OpInfo("pow", 2, TypeRule.FLOAT, "a ** b, IEEE"),
    Op.NEG: OpInfo("neg", 1, TypeRule.NUMERIC, "-a"),
    Op.ABS: OpInfo("abs", 1, TypeRule.NUMERIC, "|a|"),
    Op.MINIMUM: OpInfo("minimum", 2, TypeRule.NUMERIC, "the smaller; NaN if either is"),
    Op.MAXIMUM: OpInfo("maximum", 2, TypeRule.NUMERIC, "the larger; NaN if either is"),
    Op.AND: OpInfo("and", 2, TypeRule.LOGIC, "a & b; on BOOL, False & poison = False"),
    Op.OR: OpInfo("or", 2, TypeRule.LOGIC, "a | b; on BOOL, True | poison = True"),
    Op.XOR: OpInfo("xor", 2, TypeRule.LOGIC, "a ^ b"),
    Op.NOT: OpInfo("not", 1, TypeRule.LOGIC, "~a"),
    Op.SHL: OpInfo("shl", 2, TypeRule.INTEGER, "a << b, modulo 2**64; b outside 0..63 gives 0"),
    Op.SHR: OpInfo(
        "shr", 2, TypeRule.INTEGER, "floor(a / 2**b); b outside 0..63 gives 0 or -1, the sign of a"
    ),
    Op.EQ: OpInfo("eq", 2, TypeRule.COMPARE, "a == b"),
    Op.NE: OpInfo("ne", 2, TypeRule.COMPARE, "a != b"),
    Op.LT: OpInfo("lt", 2, TypeRule.COMPARE, "a < b"),
    Op.LE: OpInfo("le", 2, TypeRule.COMPARE, "a <= b"),
    Op.WHERE: OpInfo("where", 3, TypeRule.CHOICE, "b if a else c; poison in the side not taken is dropped"),
    Op.EXP: OpInfo("exp", 1, TypeRule.FLOAT, "e ** a"),
    Op.EXP2: OpInfo("exp2", 1, TypeRule.FLOAT, "2 ** a"),
    Op.EXPM1: OpInfo("expm1", 1, TypeRule.FLOAT, "e ** a - 1"),
    Op.LOG: OpInfo("log", 1, TypeRule.FLOAT, "ln a"),
    Op.LOG2: OpInfo("log2", 1, TypeRule.FLOAT, "ln a / ln 2"),
    Op.LOG1P: OpInfo("log1p", 1, TypeRule.FLOAT, "ln(1 + a)"),
    Op.SQRT: OpInfo("sqrt", 1, TypeRule.FLOAT, "the square root"),
    Op.RSQRT: OpInfo("rsqrt", 1, TypeRule.FLOAT, "1 / sqrt(a)"),
    Op.SIN: OpInfo("sin", 1, TypeRule.FLOAT, "sin a, radians"),
    Op.COS: OpInfo("cos", 1, TypeRule.FLOAT, "cos a, radians"),
    Op.TAN: OpInfo("tan", 1, TypeRule.FLOAT, "tan a, radians"),
    Op.ATAN: OpInfo("atan", 1, TypeRule.FLOAT, "arctan a, radians"),
    Op.TANH: OpInfo("tanh", 1, TypeRule.FLOAT, "tanh a"),
    Op.SIGMOID: OpInfo("sigmoid", 1, TypeRule.FLOAT, "1 / (1 + e ** -a)"),
    Op.ERF: OpInfo("erf", 1, TypeRule.FLOAT, "the error function"),
    Op.FLOOR: OpInfo("floor", 1, TypeRule.FLOAT, "the largest integer <= a"),
    Op.CEIL: OpInfo("ceil", 1, TypeRule.FLOAT, "the smallest integer >= a"),
    Op.TRUNC: OpInfo("trunc", 1, TypeRule.FLOAT, "a rounded toward zero"),
    Op.ROUND: OpInfo("round", 1, TypeRule.FLOAT, "the nearest integer, halves to even"),
    Op.CAST: OpInfo(
        "cast",
        1,
        TypeRule.CAST,
        "attr is the target DType: floats truncate toward zero, narrow integers wrap, half types round, "
        "BOOL is a != 0",
    ),
    Op.SUM: OpInfo(
        "sum", 1, TypeRule.NUMERIC, "sum of a over axis k in 0..n-1; attr is (k, n); 0 when n = 0"
    ),
    Op.MAX: OpInfo(
        "max",
        1,
        TypeRule.NUMERIC,
        "largest of a over axis k in 0..n-1; attr is (k, n), n >= 1; NaN if any is",
    ),
    Op.MIN: OpInfo(
        "min",
        1,
        TypeRule.NUMERIC,
        "smallest of a over axis k in 0..n-1; attr is (k, n), n >= 1; NaN if any is",
    ),
    Op.CUSTOM: OpInfo(
        "custom",
        None,
        TypeRule.FIRST,
        "value y, inputs x1..xn, gradients g1..gn (attr is n): evaluates to y; its derivative to xi is gi "
        "with the variable `cotangent` standing for the gradient of y",
    ),
}

VARIABLES: dict[str, str] = {
    "score": "q·k * scale, before any mod; FLOAT32, or FLOAT64 for float64 inputs",
    "b": "batch index, INT64",
    "h": "query head index, INT64",
    "q_idx": "query position, INT64",
    "kv_idx": "key position, INT64",
    "grad": "gradient of the modified score, in a derivative; the score's type",
    "cotangent": "gradient of a CUSTOM node's value, bound by that node; the type of its value",
}

REDUCTIONS = frozenset({Op.SUM, Op.MAX, Op.MIN})

INDEX_VARIABLES = ("b", "h", "q_idx", "kv_idx")

VALUE_TYPES = (DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64)
