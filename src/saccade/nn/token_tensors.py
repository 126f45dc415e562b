"""What a module of three inputs may be given as query, key and value, and how they lie."""

from __future__ import annotations

from torch import Tensor

from saccade.errors import ArgumentError, ShapeError
from saccade.mod_value import require_tensor
from saccade.nn.layout import Layout

__all__ = ["read_layout"]


def read_layout(
    query: Tensor, key: Tensor, value: Tensor, widths: tuple[int, int, int], batch_first: bool
) -> Layout:
    """Check query, key and value against each other and the module, and tell how they lie.

    Args:
        query: `[N, L, E]` or `[L, N, E]`, or `[L, E]` without a batch; or nested `[N, j, E]`.
        key: The same with its own length and width; its batch may be 1, to serve every batch entry.
        value: As many as keys, with its own width.
        widths: What the widths must be.
        batch_first: Whether the batch stands first where there is one.

    Raises:
        ArgumentTypeError: One is no tensor.
        ShapeError: Their shapes do not fit.
        ArgumentError: One is nested, and the batch stands second or another is not nested.
    """
    given = (("query", query, widths[0]), ("key", key, widths[1]), ("value", value, widths[2]))
    for name, tensor, width in given:
        require_tensor(tensor, name)
        if tensor.dim() != query.dim() or tensor.dim() not in (2, 3):
            raise ShapeError(
                "query, key and value must all have three dimensions, or two without a batch, got shapes "
                + ", ".join(str(list(each.shape)) for _, each, _ in given)
            )
        if tensor.shape[-1] != width:
            raise ShapeError(
                f"{name} must be {width} wide, as the module was made, got {name}.shape={list(tensor.shape)}"
            )
    if query.is_nested or key.is_nested or value.is_nested:
        return _nested_layout(query, key, value, batch_first)
    if query.dim() == 2:
        batches, layout = (1, 1, 1), Layout.UNBATCHED
    else:
        axis = 0 if batch_first else 1
        batches = (query.shape[axis], key.shape[axis], value.shape[axis])
        layout = Layout.BATCH_FIRST if batch_first else Layout.BATCH_SECOND
    if key.shape[:-1] != value.shape[:-1] or batches[1] not in (batches[0], 1):
        raise ShapeError(
            "key and value must agree in length and batch, and their batch be the query's or 1, got "
            f"query.shape={list(query.shape)}, key.shape={list(key.shape)}, value.shape={list(value.shape)} "
            f"of order {layout.value}"
            + (
                ""
                if batch_first or query.dim() == 2
                else "; for [N, L, E], make the module with batch_first=True"
            )
        )
    return layout


def _nested_layout(query: Tensor, key: Tensor, value: Tensor, batch_first: bool) -> Layout:
    if not batch_first:
        raise ArgumentError(
            "nested tensors have their batch first, got batch_first=False; make the module with "
            "batch_first=True"
        )
    if not (query.is_nested and key.is_nested and value.is_nested):
        raise ArgumentError(
            "query, key and value must all be nested, or none, got "
            f"query.is_nested={query.is_nested}, key.is_nested={key.is_nested}, "
            f"value.is_nested={value.is_nested}; nest the others with torch.nested.nested_tensor"
        )
    return Layout.BATCH_FIRST
