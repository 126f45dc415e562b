"""The catalogue again: in 16 bits, without blocks, decoded, through descriptors; most under --thorough."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backends.triton.catalogue_call import CASES, check
from backends.triton.interpreted import interpreted

VARIANTS: dict[str, tuple[tuple[int, int], torch.dtype, str, dict[str, Any]]] = {
    "bfloat16": ((40, 24), torch.bfloat16, "block_mask", {}),
    "float16": ((24, 72), torch.float16, "mask_mod", {}),
    "float32 without blocks": ((72, 24), torch.float32, "mask_mod", {}),
    "few queries": ((5, 72), torch.float32, "block_mask", {"SPLIT_KV": 3}),
    "few queries without blocks": ((3, 72), torch.bfloat16, "mask_mod", {"SPLIT_KV": 2}),
    "descriptors": ((24, 72), torch.float16, "block_mask", {"USE_TMA": True}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
@interpreted
def test_results_and_gradients_are_the_oracles(name: str, variant: str) -> None:
    lengths, dtype, form, options = VARIANTS[variant]
    check(name, lengths, dtype, form, options)
