"""MASK and SCORE on the command line: an expression over the ready-made mods, read without evaluating code.

The language is what the library's mods print as: names of `saccade.masks` and `saccade.scores`, calls with
literal arguments (numbers, True, False, None, lists, `tensor([...])` and other mods), and `& | ^ ~`. It is
parsed by `ast` and walked node by node; whatever has no row in the tables below is refused where it stands.
Invariant: reading a text calls nothing but the library's own factories.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from saccade import masks, scores
from saccade.errors import ArgumentError, SaccadeError
from saccade.masks import Mask
from saccade.scores import Score

__all__ = ["VOCABULARY", "parse_expression"]

Literal: TypeAlias = "bool | int | float | str | torch.Tensor | list[Literal] | tuple[Literal, ...] | None"
Value: TypeAlias = "Mask | Score | Literal"

_KINDS = (Mask, Score)  # the two bases are in __all__, and are not themselves words of the language

VOCABULARY: Mapping[str, object] = {
    name: getattr(module, name)
    for module in (masks, scores)
    for name in module.__all__
    if getattr(module, name) not in _KINDS
}
"""Every word of the language except `tensor`: mods without parameters, factories and combinators."""

_COMBINE: Mapping[type[ast.operator], Callable[[Mask, Mask], Mask]] = {
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}

_HINTS: Mapping[type[ast.AST], str] = {
    ast.BoolOp: "masks combine with & and |, not with `and` and `or`",
    ast.Not: "a mask is inverted with ~, not with `not`",
    ast.BinOp: "masks combine with & | ^ ~ only",
    ast.Compare: "ready-made mods only; put index arithmetic into a file and give FILE.py:FUNCTION",
    ast.Lambda: "a function cannot be written here; put it into a file and give FILE.py:FUNCTION",
    ast.Attribute: "write the bare name, without a module before it",
    ast.Starred: "give the arguments one by one",
}


def parse_expression(text: str) -> Mask | Score:
    """Read an expression over the library's mods.

    Args:
        text: The expression, such as ``causal & sliding_window(256)``.

    Returns:
        The mod it describes; its repr parses back to an equal one unless it holds tensors or long lists.

    Raises:
        ArgumentError: The text is no expression of this language. The message shows the place.

    Example:
        >>> parse_expression("causal & ~local(left=4, right=0) | shift(causal, q=16)")
        (causal & ~local(left=4, right=0)) | shift(causal, q=16)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as fault:
        reason = fault.msg if isinstance(fault, SyntaxError) else str(fault)
        raise ArgumentError(
            f"expected an expression such as `causal & sliding_window(256)`, got {text!r}: {reason}"
        ) from fault
    reader = _Reader(text.strip())
    try:
        value = reader.read(tree.body)
    except RecursionError as fault:
        raise ArgumentError(
            f"an expression may be nested a few hundred levels deep, got one of {len(text):,} characters "
            "that is nested deeper; put the mask into a file and give FILE.py:FUNCTION"
        ) from fault
    if not isinstance(value, (Mask, Score)):
        raise reader.refusal(tree.body, f"expected a mask or a score, got the literal {value!r}")
    return value


class _Reader:
    """Walks one expression; holds its text for the messages."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self, node: ast.expr) -> Value:
        """The value of a node: a mod, or a literal to pass to a factory."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as literal):
                return literal
            case ast.List(elts=elements):
                return [self._literal(element) for element in elements]
            case ast.Tuple(elts=elements):
                return tuple(self._literal(element) for element in elements)
            case ast.Name():
                return self._named_mod(node)
            case ast.Call():
                return self._call(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self._signed(node)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self._mask(operand)
            case ast.UnaryOp(op=ast.Not()):
                raise self.refusal(node, _HINTS[ast.Not])
            case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _COMBINE:
                return _COMBINE[type(symbol)](self._mask(left), self._mask(right))
        raise self.refusal(node, _HINTS.get(type(node), f"{type(node).__name__} has no meaning here"))

    def _mask(self, node: ast.expr) -> Mask:
        """The value of an operand of `& | ^ ~`."""
        value = self.read(node)
        if isinstance(value, Score):
            raise self.refusal(
                node, f"only masks combine with & | ^ ~, and {value!r} is a score; pass it as --score"
            )
        if not isinstance(value, Mask):
            raise self.refusal(node, f"only masks combine with & | ^ ~, got the literal {value!r}")
        return value

    def _literal(self, node: ast.expr) -> Literal:
        """The value of an element of a list."""
        value = self.read(node)
        if isinstance(value, (Mask, Score)):
            raise self.refusal(node, f"a list holds literals, got the mod {value!r}")
        return value

    def _signed(self, node: ast.UnaryOp) -> Literal:
        value = self.read(node.operand)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refusal(node, "a sign belongs before a number; a mask is inverted with ~")
        return -value if isinstance(node.op, ast.USub) else value

    def _named_mod(self, node: ast.Name) -> Mask | Score:
        """A name that stands alone: a mod without parameters."""
        word = self._word(node)
        if isinstance(word, (Mask, Score)):
            return word
        raise self.refusal(node, f"{node.id} needs its arguments, for example {_usage(node.id)}")

    def _word(self, node: ast.Name) -> object:
        """What a name means; `tensor` is torch's."""
        if node.id == "tensor":
            return torch.tensor
        if node.id in VOCABULARY:
            return VOCABULARY[node.id]
        near = difflib.get_close_matches(node.id, VOCABULARY, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else f"the names are {', '.join(sorted(VOCABULARY))}"
        raise self.refusal(node, f"there is no mask or score called {node.id}; {remedy}")

    def _call(self, node: ast.Call) -> Value:
        """A factory, a combinator or `tensor`, called."""
        if not isinstance(node.func, ast.Name):
            raise self.refusal(node.func, _HINTS.get(type(node.func), "only a name can be called"))
        name, word = node.func.id, self._word(node.func)
        if isinstance(word, (Mask, Score)):
            raise self.refusal(node, f"{name} is a mod already and takes no arguments; write {name}")
        positional = [self.read(argument) for argument in node.args]
        named: dict[str, Value] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self.refusal(keyword.value, _HINTS[ast.Starred])
            named[keyword.arg] = self.read(keyword.value)
        assert callable(word), "the vocabulary holds mods and functions that return them"
        if word is not torch.tensor:
            self._check_signature(node, name, word, positional, named)
        try:
            made = word(*positional, **named)
        except SaccadeError as fault:
            raise self.refusal(node, str(fault)) from fault
        except (AttributeError, RuntimeError, TypeError, ValueError) as fault:
            remedy = "write a tensor as tensor([...])" if name != "tensor" else "give it one list of numbers"
            raise self.refusal(node, f"{name}() cannot use these arguments ({fault}); {remedy}") from fault
        assert isinstance(made, (Mask, Score, torch.Tensor)), "factories return mods"
        return made

    def _check_signature(
        self,
        node: ast.Call,
        name: str,
        factory: Callable[..., object],
        positional: list[Value],
        named: dict[str, Value],
    ) -> None:
        signature = inspect.signature(factory)
        try:
            signature.bind(*positional, **named)
        except TypeError as fault:
            names = ", ".join(
                f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name for p in signature.parameters.values()
            )
            raise self.refusal(node, f"{name}({names}): {fault}; write for example {_usage(name)}") from fault

    def refusal(self, node: ast.expr, reason: str) -> ArgumentError:
        """The error for a node: the reason, and the text with the node underlined where it fits one line."""
        line = self.text.splitlines()[node.lineno - 1]
        # Positions in ast count UTF-8 bytes.
        before = line.encode()[: node.col_offset].decode()
        part = (ast.get_source_segment(self.text, node) or "").splitlines() or [""]
        return ArgumentError(f"{reason}\n  {line}\n  {' ' * len(before)}{'^' * max(1, len(part[0]))}")


_COMBINATOR_USAGE = {"not_mask": "not_mask(causal)", "create_padding_mask": "padding(lengths=[1024, 700])"}


def _usage(name: str) -> str:
    """A call of a factory or combinator, as an example."""
    usage = getattr(VOCABULARY.get(name), "usage", None)
    return (
        usage
        if isinstance(usage, str)
        else _COMBINATOR_USAGE.get(name, f"{name}(causal, local(left=0, right=64))")
    )
