"""The GPU engine over the whole catalogue, interpreted: results and all gradients against float64."""

from __future__ import annotations

import pytest
import torch

from backends.triton.catalogue_call import CASES, check
from backends.triton.interpreted import interpreted


@pytest.mark.parametrize("name", CASES)
@interpreted
def test_results_and_gradients_are_the_oracles(name: str) -> None:
    """Through the blocks of a mask where there is one: FULL and PARTIAL ones, ragged at both ends."""
    check(name, (24, 72), torch.float32, "block_mask", {})
