"""Nested tensors in modules: the older layout, torch.strided, as torch.jagged and back, and what does not go.

torch.nn.TransformerEncoder makes strided ones of padded tokens when it evaluates. Only the form is changed
here; attention over jagged ones is `flex_attention`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.errors import UnsupportedError

__all__ = ["as_jagged", "as_strided", "is_strided_nested", "require_functions"]


def is_strided_nested(given: object) -> bool:
    """Whether an argument is a tensor that is nested in the layout torch.strided."""
    return isinstance(given, Tensor) and given.is_nested and given.layout is torch.strided


def as_jagged(*tensors: Tensor) -> list[Tensor]:
    """Return tensors, of which those nested as torch.strided `[N, j, E]` are so as torch.jagged.

    Those that are one object stay one.
    """
    made = {
        id(tensor): torch.nested.as_nested_tensor(list(tensor.unbind()), layout=torch.jagged)
        for tensor in tensors
        if is_strided_nested(tensor)
    }
    return [made.get(id(tensor), tensor) for tensor in tensors]


def as_strided(tensor: Tensor) -> Tensor:
    """Return a nested tensor `[N, j, E]` or `[N, H, j, D]` in the layout torch.strided."""
    return torch.nested.as_nested_tensor(list(tensor.unbind()), layout=torch.strided)


def require_functions(adds_keys: bool, **tables: Tensor | None) -> None:
    """Check that nothing but functions restricts a call on nested tensors, and that no key is added to them.

    Raises:
        UnsupportedError: A table is given, or keys are added.
    """
    for name, table in tables.items():
        if table is not None:
            raise UnsupportedError(
                f"nested tensors take their masks as functions, got {name} of shape {list(table.shape)}; "
                "they have no padding to hide, and mask_mod= counts positions within each sequence"
            )
    if adds_keys:
        raise UnsupportedError(
            "nested tensors take no added keys, got some for a module with add_bias_kv or add_zero_attn; pad "
            "them with torch.nested.to_padded_tensor and hide the padding with key_padding_mask"
        )
