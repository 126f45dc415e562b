"""What the functions around 4-D masks refuse, and how they say it."""

from __future__ import annotations

import pytest
import torch

from saccade import causal, create_block_mask, errors
from saccade.dense_masks import (
    AttentionMaskConverter,
    _create_4d_causal_attention_mask,
    _prepare_4d_attention_mask,
    _prepare_4d_attention_mask_for_sdpa,
    _prepare_4d_causal_attention_mask,
    _prepare_4d_causal_attention_mask_for_sdpa,
    additive_mask,
    mods_of_additive,
)
from saccade.dense_masks.tables import require_floating

CAUSAL, BOTH, WINDOW = AttentionMaskConverter(True), AttentionMaskConverter(False), AttentionMaskConverter
MASK, EMBEDS = torch.ones(2, 4), torch.zeros(2, 4, 8)
BLOCKS = create_block_mask(causal, None, None, 4, 4, device="cpu")


@pytest.mark.parametrize(
    ("call", "error", "builtin", "message"),
    [
        (
            lambda: AttentionMaskConverter(True, 0),
            *(errors.ArgumentError, ValueError, "sliding_window must be at least 1, got 0"),
        ),
        (
            lambda: _prepare_4d_causal_attention_mask(MASK, (2, 4), EMBEDS, 0, -3),
            *(errors.ArgumentError, ValueError, "sliding_window must be at least 1, got -3"),
        ),
        (
            lambda: AttentionMaskConverter(True, 2.5),
            *(errors.ArgumentTypeError, TypeError, "sliding_window must be an integer, got float 2.5"),
        ),
        (
            lambda: BOTH.to_causal_4d(2, 4, 4),
            *(errors.ArgumentError, ValueError, r"causal converter, got .*is_causal=False.*call to_4d\(\)"),
        ),
        (
            lambda: CAUSAL.to_4d(MASK, 4),
            *(errors.ArgumentError, ValueError, "got key_value_length=None; give key_value_length="),
        ),
        (
            lambda: CAUSAL.to_4d(MASK, 4, 4),
            *(
                errors.ArgumentTypeError,
                TypeError,
                r"to_4d\(\): dtype must be .*got int 4; .*, key_value_length=4$",
            ),
        ),
        (
            lambda: _prepare_4d_attention_mask(MASK, 7),
            *(errors.ArgumentTypeError, TypeError, "got int 7; give a length by its name, tgt_len=7$"),
        ),
        (
            lambda: CAUSAL.to_causal_4d(2, 4, 4, "float32"),
            *(errors.ArgumentTypeError, TypeError, r"to_causal_4d\(\): dtype must be .* got str 'float32'"),
        ),
        (
            lambda: AttentionMaskConverter._make_causal_mask((2, 4), torch.int64),
            *(errors.DTypeError, ValueError, r"_make_causal_mask\(\): dtype must be floating.*torch.int64"),
        ),
        (
            lambda: _prepare_4d_causal_attention_mask(MASK[:, None, None], (2, 1), EMBEDS.long(), 3),
            *(errors.DTypeError, ValueError, "dtype must be floating, .*got dtype=torch.int64"),
        ),
        (
            lambda: _prepare_4d_attention_mask(MASK, torch.bool),
            *(errors.DTypeError, ValueError, r"_expand_mask\(\): dtype must be floating"),
        ),
        (
            lambda: WINDOW(False, 2).to_4d(MASK, 4, key_value_length=4),
            *(
                errors.UnsupportedError,
                NotImplementedError,
                r"causal converters alone, .*sliding_window=2.*local\(",
            ),
        ),
        (
            lambda: WINDOW(False, 2).mask_mod(4, 4, MASK),
            *(errors.UnsupportedError, NotImplementedError, "a sliding window is offered for causal"),
        ),
        (
            lambda: _prepare_4d_causal_attention_mask(torch.ones(2, 1, 4, 5), (2, 4), EMBEDS, 0),
            *(errors.ShapeError, ValueError, r"\[2, 1, 4, 4\], got shape=\[2, 1, 4, 5\]"),
        ),
        (
            lambda: _prepare_4d_causal_attention_mask(torch.ones(2, 4, 4), (2, 4), EMBEDS, 0),
            *(errors.ShapeError, ValueError, r"must be \[B, K\], 1 = attend, got shape=\[2, 4, 4\]"),
        ),
        (
            lambda: _prepare_4d_causal_attention_mask_for_sdpa(torch.zeros(2, 4, 4), (2, 4), EMBEDS, 0),
            *(errors.ShapeError, ValueError, r"to_4d\(\): the attention mask must be \[B, K\]"),
        ),
        (
            lambda: _prepare_4d_attention_mask_for_sdpa(torch.ones(4)),
            *(errors.ShapeError, ValueError, r"_for_sdpa\(\): the attention mask must be .* got shape=\[4\]"),
        ),
        (
            lambda: BOTH.to_4d([[0, 1]], 2),
            *(
                errors.ArgumentTypeError,
                TypeError,
                r"to_4d\(\): the attention mask must be a torch tensor, got list",
            ),
        ),
        (
            lambda: CAUSAL.to_4d(MASK, 4, key_value_length=6),
            *(
                errors.ShapeError,
                ValueError,
                r"to_4d\(\).*\[B, 6\], got shape=\[2, 4\] and key_value_length=6",
            ),
        ),
        (
            lambda: BOTH.mask_mod(4, 6, MASK),
            *(errors.ShapeError, ValueError, r"mask_mod\(\).*\[B, 6\], got shape=\[2, 4\]"),
        ),
        (
            lambda: CAUSAL.block_mask(3, 4, 4, MASK),
            *(errors.ShapeError, ValueError, r"block_mask\(\).*got shape=\[2, 4\] and batch_size=3"),
        ),
        (
            lambda: CAUSAL.to_causal_4d(2, 4, 3),
            *(errors.ArgumentError, ValueError, "got query_length=4, key_value_length=3; count the cached"),
        ),
        (
            lambda: CAUSAL.mask_mod(4, 3),
            *(errors.ArgumentError, ValueError, "the queries of a causal mask are the last of the keys"),
        ),
        (
            lambda: _create_4d_causal_attention_mask((2, 4), past_key_values_length=-1),
            *(errors.ArgumentError, ValueError, "key_value_length must be at least query_length"),
        ),
        (
            lambda: AttentionMaskConverter._unmask_unattended(MASK.bool(), 0.0),
            *(errors.DTypeError, ValueError, "of a floating dtype, got expanded_mask.dtype=torch.bool"),
        ),
        (
            lambda: mods_of_additive([[0.0]]),
            *(errors.ArgumentTypeError, TypeError, "table must be a torch tensor, got list"),
        ),
        (
            lambda: mods_of_additive(MASK.bool()),
            *(
                errors.DTypeError,
                ValueError,
                r"table must be floating, got dtype=torch.bool;.*dense\(table\)",
            ),
        ),
        (
            lambda: mods_of_additive(MASK.long()),
            *(errors.DTypeError, ValueError, "table must be bool, True = attend, or additive"),
        ),
        (
            lambda: mods_of_additive(torch.zeros(4)),
            *(errors.ShapeError, ValueError, r"table must be \[Q, K\].*got shape=\[4\]"),
        ),
        (
            lambda: additive_mask(causal, None, None, 4, 4, torch.int32),
            *(errors.DTypeError, ValueError, r"additive_mask\(\): dtype must be floating"),
        ),
        (
            lambda: additive_mask(BLOCKS, None, None, 4, 5),
            *(errors.ShapeError, ValueError, "5"),
        ),
        (
            lambda: additive_mask(lambda b, h, q, k: b == k, None, None, 4, 4),
            *(errors.MaskAxisError, ValueError, "reads 'b'"),
        ),
    ],
)
def test_an_argument_is_refused(call, error, builtin, message):
    with pytest.raises(error, match=message) as refusal:
        call()
    assert isinstance(refusal.value, builtin)


def test_a_bool_in_place_of_a_dtype_is_no_length():
    with pytest.raises(errors.ArgumentTypeError, match=r"got bool True; give one such as"):
        require_floating(True, "to_4d()", length="key_value_length")
