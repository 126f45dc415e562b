"""Whether contributions at different places reach different elements of a captured tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from saccade.codegen.program.contributions import Contribution
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["names_apart"]


def names_apart(name: str, found: Sequence[Contribution], numbers: tuple[int | float, ...]) -> bool:
    """Return whether two values of a variable never name one element.

    That is so where one dimension is, in every contribution, the variable and the same offset.

    Args:
        name: The variable.
        found: All contributions to one captured tensor.
        numbers: The program's run-time numbers.
    """
    places = [
        {(dim, _offset(index, name, numbers)) for dim, index in enumerate(each.element.args)}
        for each in found
    ]
    return not places or any(offset is not None for _, offset in set.intersection(*places))


@lru_cache(maxsize=1024)
def _offset(index: Expr, name: str, numbers: tuple[int | float, ...]) -> int | None:
    """What is added to a variable to give an index, if that is all and not negative; else None.

    A negative one would count some elements from the end.
    """
    offset, variables = 0, 0
    stack = [(1, index)]
    while stack:
        sign, node = stack.pop()
        if node.op is Op.VAR and node.attr == name and sign > 0:
            variables += 1
        elif node.op is Op.CONST:
            offset += sign * int(node.attr)
        elif node.op is Op.NUMBER:
            offset += sign * int(numbers[node.attr])
        elif node.op in _SIGNS:
            stack.extend((sign * own, arg) for own, arg in zip(_SIGNS[node.op], node.args, strict=True))
        else:
            return None
    return offset if variables == 1 and 0 <= offset < 2**62 else None


_SIGNS = {Op.ADD: (1, 1), Op.SUB: (1, -1)}
