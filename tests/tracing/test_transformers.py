"""The mask functions of transformers' `masking_utils`, as its models build them."""

from __future__ import annotations

import pytest
import torch

from pairwise import all_pairs, check
from saccade.ir.structure import ModKind

masking_utils = pytest.importorskip("transformers.masking_utils", reason="transformers is missing")

KEEP = torch.tensor([[True, True, True, False, False], [True] * 5])
POSITIONS = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]])
SEQUENCES = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
BLOCKS = torch.tensor([[-1, 0, 0, 1, 1], [0, 0, -1, -1, 1]])
CAUSAL = masking_utils.causal_mask_function

MASKS = {
    "causal": CAUSAL,
    "bidirectional": masking_utils.bidirectional_mask_function,
    "window": masking_utils.sliding_window_causal_mask_function(3),
    "window overlay": masking_utils.sliding_window_overlay(2),
    "window both ways": masking_utils.sliding_window_bidirectional_mask_function(1),
    "chunked": masking_utils.chunked_causal_mask_function(2, torch.tensor([1, 0])),
    "chunked overlay": masking_utils.chunked_overlay(3, torch.tensor([0, 2])),
    "blocks": masking_utils.or_masks(CAUSAL, masking_utils.blockwise_overlay(BLOCKS)),
    "padding": masking_utils.padding_mask_function(KEEP),
    "padded": masking_utils.padding_mask_function(masking_utils.prepare_padding_mask(KEEP[:, :3], 5, 0)),
    "causal and padding": masking_utils.and_masks(CAUSAL, masking_utils.padding_mask_function(KEEP)),
    "packed": masking_utils.packed_sequence_mask_function(SEQUENCES),
    "causal packed": masking_utils.and_masks(CAUSAL, masking_utils.packed_sequence_mask_function(SEQUENCES)),
    "remapped": masking_utils.packed_sequence_compatibility_function(
        masking_utils.sliding_window_causal_mask_function(2), POSITIONS, SEQUENCES
    ),
    "offsets": masking_utils.add_offsets_to_mask_function(CAUSAL, 3, 1),
    "tensor offset": masking_utils.add_offsets_to_mask_function(CAUSAL, torch.tensor(3), 0),
    "or": masking_utils.or_masks(masking_utils.sliding_window_overlay(1), lambda *pair: pair[3] < 2),
    "and of nothing": masking_utils.and_masks(),
    "or of nothing": masking_utils.or_masks(),
}


@pytest.mark.parametrize("name", MASKS)
def test_mask_functions_as_in_torch(name: str) -> None:
    check(MASKS[name], ModKind.MASK, all_pairs((2, 2, 5, 5)))
