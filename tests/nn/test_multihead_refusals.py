"""What MultiheadAttention refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from saccade import causal, create_block_mask
from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ModError, ShapeError
from saccade.nn import MultiheadAttention


class TestSizes:
    @pytest.mark.parametrize(
        ("sizes", "text"),
        [
            (
                {"embed_dim": 0, "num_heads": 1},
                r"MultiheadAttention\(\): embed_dim must be at least 1, got 0",
            ),
            ({"embed_dim": 16, "num_heads": 0}, "num_heads must be at least 1, got 0"),
            ({"embed_dim": 16, "num_heads": 4, "kdim": 0}, "kdim must be at least 1, got 0"),
            ({"embed_dim": 16, "num_heads": 4, "num_kv_heads": 0}, "num_kv_heads must be at least 1, got 0"),
            (
                {"embed_dim": 16, "num_heads": 3},
                "embed_dim must be a multiple of num_heads, got embed_dim=16 and",
            ),
            (
                {"embed_dim": 16, "num_heads": 4, "num_kv_heads": 3},
                "num_heads must be a multiple of num_kv_heads, got num_heads=4 and num_kv_heads=3",
            ),
            (
                {"embed_dim": 16, "num_heads": 4, "dropout": -0.1},
                r"dropout must be in \[0, 1\], .*dropout=-0.1",
            ),
        ],
    )
    def test_a_size_that_cannot_be(self, sizes: dict[str, Any], text: str) -> None:
        with pytest.raises(ArgumentError, match=text):
            MultiheadAttention(**sizes)

    def test_a_size_that_is_no_integer(self) -> None:
        with pytest.raises(ArgumentTypeError, match="num_heads must be an integer, got str '4'"):
            MultiheadAttention(16, "4")  # type: ignore[arg-type]

    def test_something_else_given_to_from_torch(self) -> None:
        with pytest.raises(ArgumentTypeError, match=r"takes a torch\.nn\.MultiheadAttention, got Linear"):
            MultiheadAttention.from_torch(nn.Linear(2, 2))  # type: ignore[arg-type]

    def test_a_module_whose_parameters_are_computed(self) -> None:
        theirs = nn.MultiheadAttention(16, 4)
        nn.utils.parametrizations.weight_norm(theirs.out_proj)
        text = (
            r"plain torch\.nn\.MultiheadAttention, got a module without \['out_proj\.weight'\] and with "
            r"\['out_proj\.parametrizations\.weight\.original0', .*remove_parametrizations"
        )
        with pytest.raises(ArgumentError, match=text):
            MultiheadAttention.from_torch(theirs)
        nn.utils.parametrize.remove_parametrizations(theirs.out_proj, "weight")
        assert torch.equal(MultiheadAttention.from_torch(theirs).out_proj.weight, theirs.out_proj.weight)


class TestTensors:
    @pytest.fixture
    def module(self) -> MultiheadAttention:
        return MultiheadAttention(16, 4, kdim=6, vdim=10, batch_first=True)

    @pytest.mark.parametrize(
        ("shapes", "text"),
        [
            (((2, 5, 8), (2, 7, 6), (2, 7, 10)), r"query must be 16 wide, .* query.shape=\[2, 5, 8\]"),
            (((2, 5, 16), (2, 7, 10), (2, 7, 10)), r"key must be 6 wide, .* key.shape=\[2, 7, 10\]"),
            (((2, 5, 16), (2, 7, 6), (2, 7, 6)), r"value must be 10 wide, .* value.shape=\[2, 7, 6\]"),
            (
                ((2, 5, 16), (7, 6), (7, 10)),
                r"all have three dimensions, .*\[2, 5, 16\], \[7, 6\], \[7, 10\]",
            ),
            (((2, 1, 5, 16),) * 3, "all have three dimensions, or two without a batch"),
            (((2, 5, 16), (2, 7, 6), (2, 8, 10)), "key and value must agree in length and batch"),
            (
                ((2, 5, 16), (3, 7, 6), (3, 7, 10)),
                r"their batch be the query's or 1, .* of order \[N, L, E\]$",
            ),
        ],
    )
    def test_shapes_that_do_not_fit(
        self, module: MultiheadAttention, shapes: tuple[tuple[int, ...], ...], text: str
    ) -> None:
        with pytest.raises(ShapeError, match=text):
            module(*(torch.randn(shape) for shape in shapes))

    def test_the_batch_taken_for_the_length(self) -> None:
        module = MultiheadAttention(16, 4)
        text = r"of order \[L, N, E\]; for \[N, L, E\], make the module with batch_first=True"
        with pytest.raises(ShapeError, match=text):
            module(torch.randn(2, 5, 16), *torch.randn(2, 2, 7, 16))

    def test_something_that_is_no_tensor(self, module: MultiheadAttention) -> None:
        with pytest.raises(ArgumentTypeError, match="key must be a torch tensor, got NoneType"):
            module(torch.randn(2, 5, 16), None, None)
        with pytest.raises(ArgumentTypeError, match="query must be a torch tensor, got list"):
            module([1.0], None, None)


class TestMasks:
    def call(self, **masks: Any) -> None:
        tokens = torch.randn(2, 5, 16)
        MultiheadAttention(16, 4, batch_first=True)(tokens, tokens, tokens, **masks)

    @pytest.mark.parametrize("shape", [(5,), (2, 6), (3, 5), (2, 1, 5)])
    def test_a_key_padding_mask_of_another_shape(self, shape: tuple[int, ...]) -> None:
        text = r"key_padding_mask must have one entry for each key, shape \[2, 5\], got shape=.*attn_mask"
        with pytest.raises(ShapeError, match=text):
            self.call(key_padding_mask=torch.zeros(shape, dtype=torch.bool))

    def test_a_key_padding_mask_of_a_batch_that_was_meant_to_be_first(self) -> None:
        tokens = torch.randn(2, 5, 16)
        text = r"shape \[5, 2\], got shape=\[2, 5\] beside tokens of order \[L, N, E\]; .* batch_first=True$"
        with pytest.raises(ShapeError, match=text):
            MultiheadAttention(16, 4)(tokens, tokens, tokens, key_padding_mask=torch.zeros(5, 2).mT)

    def test_a_key_padding_mask_of_tokens_without_a_batch(self) -> None:
        tokens = torch.randn(5, 16)
        with pytest.raises(
            ShapeError, match=r"one entry for each key, shape \[5\], got shape=\[1, 5\] beside"
        ):
            MultiheadAttention(16, 4)(tokens, tokens, tokens, key_padding_mask=torch.zeros(1, 5))

    @pytest.mark.parametrize("shape", [(5,), (5, 6), (2, 5, 5), (4, 5, 5)])
    @pytest.mark.parametrize("is_causal", [False, True])
    def test_an_attn_mask_of_another_shape(self, shape: tuple[int, ...], is_causal: bool) -> None:
        text = r"must be .* = \[5, 5\] or \[batch·heads, queries, keys\] = \[8, 5, 5\], got .*mask_mod$"
        with pytest.raises(ShapeError, match=text):
            self.call(attn_mask=torch.zeros(shape), is_causal=is_causal)

    def test_an_attn_mask_of_four_dimensions(self) -> None:
        with pytest.raises(ShapeError, match=r"becomes the second by \.flatten\(0, 1\)"):
            self.call(attn_mask=torch.zeros(2, 4, 5, 5))

    @pytest.mark.parametrize("name", ["key_padding_mask", "attn_mask"])
    def test_integers(self, name: str) -> None:
        shape = (2, 5) if name == "key_padding_mask" else (5, 5)
        text = rf"{name} must be bool \(True = hidden\) or floating .* pass table == 0"
        with pytest.raises(DTypeError, match=text):
            self.call(**{name: torch.ones(shape, dtype=torch.int64)})

    @pytest.mark.parametrize("name", ["key_padding_mask", "attn_mask"])
    def test_something_that_is_no_tensor(self, name: str) -> None:
        with pytest.raises(ArgumentTypeError, match=f"{name} must be a torch tensor, got list"):
            self.call(**{name: [True]})

    @pytest.mark.parametrize("name", ["mask_mod", "score_mod"])
    @pytest.mark.parametrize("beside", [{}, {"key_padding_mask": torch.zeros(2, 5)}], ids=["alone", "beside"])
    def test_something_that_is_no_function(self, name: str, beside: dict[str, Any]) -> None:
        with pytest.raises(ModError, match=f"MultiheadAttention: {name} expects mods, functions of index"):
            self.call(**{name: torch.zeros(5, 5)}, **beside)

    def test_a_function_in_place_of_a_block_mask(self) -> None:
        tokens = torch.randn(2, 5, 16)
        module = MultiheadAttention(16, 4, batch_first=True, add_zero_attn=True)
        text = "block_mask must be a BlockMask or None, got _Causal; pass a function as mask_mod="
        with pytest.raises(ArgumentTypeError, match=text):
            module(tokens, tokens, tokens, block_mask=causal)
        with pytest.raises(ArgumentTypeError, match=text):
            self.call(block_mask=causal)

    def test_a_block_mask_in_place_of_a_function(self) -> None:
        blocks = create_block_mask(causal, None, None, 5, 5, device="cpu")
        with pytest.raises(
            ModError, match=r"mask_mod expects mods, .* got a BlockMask: pass it as block_mask="
        ):
            self.call(mask_mod=blocks)

    @pytest.mark.parametrize("name", ["key_padding_mask", "attn_mask"])
    def test_a_function_in_place_of_a_table(self, name: str) -> None:
        text = f"{name} must be a torch tensor, got _Causal; a function .* pass it as mask_mod="
        with pytest.raises(ArgumentTypeError, match=text):
            self.call(**{name: causal})

    def test_a_block_mask_of_other_lengths(self) -> None:
        with pytest.raises(ShapeError, match="the block_mask is for q_len=8 and kv_len=8"):
            self.call(block_mask=create_block_mask(causal, None, None, 8, 8, device="cpu"))
