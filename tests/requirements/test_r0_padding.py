"""R0, "Causal and padded self-attention in a module": an article on FlexAttention with padding."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

from requirements.agreement import ENGINES
from requirements.dense_modules import RATE, assert_float32_accuracy, float64_copy, multihead, step
from saccade import (
    AuxRequest,
    BlockMask,
    and_masks,
    causal,
    create_block_mask,
    create_mask,
    create_padding_mask,
    flex_attention,
)
from saccade.nn import MultiheadFlexAttention
from saccade.viz import plot_attention_scores, visualize_attention_scores

D, HEADS, LENGTH, REAL = 64, 8, 10, 7


def padded_tokens(lengths: list[int], length: int, d_in: int = D) -> Tensor:
    """[B, length, d_in] with a tail of zero vectors in each batch entry."""
    x = torch.randn(len(lengths), length, d_in, generator=torch.Generator().manual_seed(2))
    for entry, real in enumerate(lengths):
        x[entry, real:] = 0
    return x


def zero_vectors(x: Tensor) -> Tensor:
    """[B, S] bool: '`pads` found from zero vectors'."""
    return (x == 0).all(-1)


def causal_padding(pads: Tensor, n_heads: int | None = None, **options: object) -> BlockMask:
    batch, length = pads.shape
    mod = and_masks(causal, create_padding_mask(pads))
    return create_block_mask(mod, batch, n_heads, length, length, device="cpu", **options)  # type: ignore[arg-type]


def visible_pairs(pads: Tensor) -> Tensor:
    """[B, 1, S, S]: causal, and neither the query nor the key is padding."""
    real = ~pads
    lower = torch.ones(pads.shape[1], pads.shape[1], dtype=torch.bool).tril()
    return (lower & real[:, None, :] & real[:, :, None])[:, None]


class TestModule:
    """'`MultiheadFlexAttention(d_in, d_out, n_heads, bias=False)`'"""

    def test_its_signature(self) -> None:
        found = inspect.signature(MultiheadFlexAttention).parameters
        assert list(found)[:4] == ["d_in", "d_out", "n_heads", "bias"]
        assert found["bias"].default is False
        forward = inspect.signature(MultiheadFlexAttention.forward).parameters
        assert list(forward)[1:3] == ["x", "block_mask"]

    def test_it_has_one_input_and_one_output_projection(self) -> None:
        """'one input projection to 3·d_out (with `bias`), one output projection'; its attributes"""
        module = MultiheadFlexAttention(48, D, HEADS)
        assert isinstance(module, nn.Module)
        assert (module.n_heads, module.d_head) == (8, 8)
        shapes = {name: tuple(each.shape) for name, each in module.state_dict().items()}
        assert shapes == {"in_proj.weight": (192, 48), "out_proj.weight": (64, 64), "out_proj.bias": (64,)}
        assert isinstance(module.in_proj, nn.Linear)
        assert isinstance(module.out_proj, nn.Linear)

    def test_bias_is_that_of_the_input_projection(self) -> None:
        """'The output projection always has a bias'"""
        module = MultiheadFlexAttention(48, D, HEADS, True)
        assert module.in_proj.bias.shape == (192,)
        assert module.out_proj.bias.shape == (64,)
        assert MultiheadFlexAttention(48, D, HEADS, bias=False).in_proj.bias is None

    @pytest.mark.parametrize(("d_out", "n_heads"), [(65, 8), (64, 7), (4, 8)])
    def test_d_out_must_be_divisible_by_n_heads(self, d_out: int, n_heads: int) -> None:
        """'`d_out % n_heads != 0` → ValueError naming both'"""
        with pytest.raises(ValueError, match="d_out") as caught:
            MultiheadFlexAttention(64, d_out, n_heads)
        assert f"d_out={d_out}" in str(caught.value)
        assert f"n_heads={n_heads}" in str(caught.value)

    def test_the_texts_example(self) -> None:
        """'d_in = d_out = 64, 8 heads, B = 1, S = 10, a random tail of zero vectors as padding'"""
        x = padded_tokens([REAL], LENGTH)
        pads = zero_vectors(x)
        assert pads.tolist() == [[False] * 7 + [True] * 3]
        module = MultiheadFlexAttention(D, D, HEADS)
        attn, queries, keys = module(x, causal_padding(pads))
        assert attn.shape == (1, LENGTH, D)
        assert queries.shape == keys.shape == (1, HEADS, LENGTH, D // HEADS)
        exact, q, k = multihead(float64_copy(module.state_dict()), x, visible_pairs(pads), HEADS)
        for mine, theirs in ((attn, exact), (queries, q), (keys, k)):
            assert_float32_accuracy(mine, theirs)

    @pytest.mark.parametrize(
        ("lengths", "length"),
        [([1], 1), ([3, 17, 0], 17), ([129, 64], 129), ([5, 1, 6, 2, 4], 6), ([0], 4)],
        ids=str,
    )
    def test_any_batch_size_any_length(self, lengths: list[int], length: int) -> None:
        """'Any batch size, any length'"""
        x = padded_tokens(lengths, length, d_in=24)
        pads = zero_vectors(x)
        module = MultiheadFlexAttention(24, 32, 4, bias=True)
        attn, _, _ = module(x, causal_padding(pads))
        exact, _, _ = multihead(float64_copy(module.state_dict()), x, visible_pairs(pads), 4)
        assert_float32_accuracy(attn, exact)

    def test_a_mask_per_head_and_other_blocks_serve_too(self) -> None:
        """'`create_block_mask(mod, B, H, Q_LEN, KV_LEN, device=None, BLOCK_SIZE=128, _compile=...)`'"""
        x = padded_tokens([REAL, 4], LENGTH)
        pads = zero_vectors(x)
        module = MultiheadFlexAttention(D, D, HEADS)
        expected = module(x, causal_padding(pads))[0]
        for options in ({"n_heads": HEADS}, {"BLOCK_SIZE": 4}, {"_compile": True}, {"_compile": False}):
            found = module(x, causal_padding(pads, **options))[0]  # type: ignore[arg-type]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    def test_without_a_mask_every_token_sees_every_token(self) -> None:
        x = padded_tokens([LENGTH], LENGTH)
        module = MultiheadFlexAttention(D, D, HEADS)
        everything = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)
        exact, _, _ = multihead(float64_copy(module.state_dict()), x, everything, HEADS)
        assert_float32_accuracy(module(x)[0], exact)

    def test_state_dicts_carry_over(self) -> None:
        """'the projection's rows are laid out (3, n_heads, d_head), so state dicts carry over'"""
        module = MultiheadFlexAttention(8, 8, 2)
        weight = torch.arange(24.0)[:, None].expand(24, 8) / 8
        other = {"in_proj.weight": weight, "out_proj.weight": torch.eye(8), "out_proj.bias": torch.zeros(8)}
        module.load_state_dict(other)
        _, queries, keys = module(torch.ones(1, 1, 8))
        # Each row of the projection gives its own number: rows 0-7 are queries, 8-15 keys, of two heads each.
        assert queries.flatten().tolist() == list(range(8))
        assert keys.flatten().tolist() == list(range(8, 16))
        attn, _, _ = module(torch.ones(1, 1, 8))
        assert attn.flatten().tolist() == list(range(16, 24))


class TestPadding:
    def test_a_pair_is_visible_when_neither_is_padding(self) -> None:
        """'`create_padding_mask(pads)` ...: visible when neither the query nor the key is padding'"""
        pads = torch.tensor([[False, True, False, True], [False, False, False, True]])
        found = create_mask(create_padding_mask(pads), 2, None, 4, 4, "cpu")[:, 0].int().tolist()
        assert found == [
            [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]],
            [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
        ]

    def test_and_masks_of_causal_and_padding(self) -> None:
        """'`and_masks(causal, padding)`'"""
        pads = torch.tensor([[False, False, False, True]])
        mask = and_masks(causal, create_padding_mask(pads))
        found = create_mask(mask, 1, None, 4, 4, "cpu")[0, 0].int().tolist()
        assert found == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]

    @pytest.mark.parametrize("engine", ENGINES)
    def test_padded_query_rows_are_0_never_nan(self, engine: str) -> None:
        """'So padded query rows see nothing: their attention is 0, never NaN.'"""
        pads = torch.arange(LENGTH)[None] >= REAL
        query, key, value = (torch.randn(1, HEADS, LENGTH, 8, requires_grad=True) for _ in range(3))
        wanted = AuxRequest(weights=True) if engine == "eager" else None
        out = flex_attention(
            query, key, value, block_mask=causal_padding(pads), backend=engine, return_aux=wanted
        )
        out, weights = (out[0], out[1].weights) if wanted else (out, None)
        assert torch.equal(out[:, :, REAL:], torch.zeros(1, HEADS, 3, 8))
        assert out[:, :, :REAL].isfinite().all()
        assert weights is None or torch.equal(weights[:, :, REAL:], torch.zeros(1, HEADS, 3, LENGTH))
        for gradient in torch.autograd.grad(out.sum(), (query, key, value)):
            assert gradient.isfinite().all()
            assert torch.equal(gradient[:, :, REAL:], torch.zeros(1, HEADS, 3, 8))

    @pytest.mark.parametrize("engine", ENGINES)
    def test_the_modules_padded_rows_are_its_output_bias(self, engine: str) -> None:
        """The same in the module: 0 through the output projection, which has a bias."""
        module = MultiheadFlexAttention(D, D, HEADS, attn_implementation=engine)
        x = padded_tokens([REAL, 0], LENGTH)
        attn, _, _ = module(x, causal_padding(zero_vectors(x)))
        assert attn.isfinite().all()
        for rows in (attn[0, REAL:], attn[1]):
            assert torch.equal(rows, module.out_proj.bias.expand_as(rows))


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_training_step_matches_dense_torch_to_float32_accuracy(engine: str, bias: bool) -> None:
    """'Each module trains a step and matches dense torch to float32 accuracy, gradients included'"""
    torch.manual_seed(5)
    module = MultiheadFlexAttention(24, 32, 4, bias=bias, attn_implementation=engine)
    x, target = padded_tokens([13, 20, 6], 20, d_in=24), torch.randn(3, 20, 32)
    pads = zero_vectors(x)
    exact = float64_copy(dict(module.named_parameters()))

    def dense_loss() -> Tensor:
        attn, queries, keys = multihead(exact, x, visible_pairs(pads), 4)
        return (attn - target).pow(2).mean() + 0.1 * (queries * keys).mean()

    gradients, stepped = step(exact, dense_loss)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    attn, queries, keys = module(x, causal_padding(pads))
    loss = (attn - target).pow(2).mean() + 0.1 * (queries * keys).mean()
    loss.backward()
    torch.testing.assert_close(loss.double(), dense_loss(), rtol=1e-5, atol=0)
    optimizer.step()
    for name, parameter in module.named_parameters():
        assert_float32_accuracy(parameter.grad, gradients[name])
        assert_float32_accuracy(parameter, stepped[name])
        assert not torch.equal(parameter.double(), exact[name]), name


class TestPicture:
    """'`visualize_attention_scores(...)` writes a PNG'"""

    def mask(self):
        return and_masks(causal, create_padding_mask(torch.arange(LENGTH)[None] >= REAL))

    def triangle(self) -> np.ndarray:
        expected = np.zeros((LENGTH, LENGTH), dtype=bool)
        expected[:REAL, :REAL] = np.tril(np.ones((REAL, REAL), dtype=bool))
        return expected

    def inputs(self) -> tuple[Tensor, Tensor]:
        return torch.randn(1, HEADS, LENGTH, 8), torch.randn(1, HEADS, LENGTH, 8)

    def test_the_signature(self) -> None:
        """'(query, key, score_mod=None, mask_mod=None, device=..., name=..., path=..., batch_idx=0, ...)'"""
        found = inspect.signature(visualize_attention_scores).parameters
        names = list(found)[:10]
        assert " ".join(names) == "query key score_mod mask_mod device name path batch_idx head_idx scale"
        defaults = {name: found[name].default for name in names}
        assert defaults["score_mod"] is defaults["mask_mod"] is defaults["scale"] is None
        assert (defaults["batch_idx"], defaults["head_idx"]) == (0, 0)

    def test_it_shows_the_triangle_of_the_first_7_by_7_and_nothing_else(self, tmp_path: Path) -> None:
        """'the picture shows the lower triangle of the first 7×7 and nothing else', in the file's pixels"""
        query, key = self.inputs()
        arguments = {"mask_mod": self.mask(), "name": "padded"}
        path = visualize_attention_scores(query, key, path=tmp_path / "padded.png", **arguments)  # type: ignore[arg-type]
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        pixels = imread(path)[..., :3]
        twin = plot_attention_scores(query, key, **arguments)  # type: ignore[arg-type]
        drawn = twin.axes[0].images[0].get_array()
        assert np.array_equal(~np.ma.getmaskarray(drawn), self.triangle())
        assert np.array_equal(self.cells_of(pixels), self.triangle())

    def cells_of(self, pixels: np.ndarray) -> np.ndarray:
        """Which of the 10 × 10 cells are coloured: most is paper, whose bounds are the matrix's."""
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        is_paper = (pixels == colours[counts.argmax()]).all(-1)
        (top, bottom), (left, right) = (np.flatnonzero(is_paper.any(axis))[[0, -1]] for axis in (1, 0))
        y, x = (
            np.rint(first + (np.arange(LENGTH) + 0.5) * (last + 1 - first) / LENGTH).astype(int)
            for first, last in ((top, bottom), (left, right))
        )
        coloured: np.ndarray = ~is_paper[np.ix_(y, x)]
        return coloured

    def test_it_is_of_the_batch_and_head_asked_for(self) -> None:
        query, key = torch.randn(2, 3, LENGTH, 8), torch.randn(2, 3, LENGTH, 8)
        figure = plot_attention_scores(query, key, mask_mod=causal, batch_idx=1, head_idx=2, scale=0.25)
        drawn = figure.axes[0].images[0].get_array()
        expected = (query[1, 2] @ key[1, 2].T * 0.25).tril().numpy()
        np.testing.assert_allclose(drawn.filled(0), expected, atol=1e-5)

    def test_real_softmax_weights_are_an_option(self) -> None:
        """'Also `plot_attention_scores(...) -> Figure`, and real softmax weights as an option.'"""
        query, key = self.inputs()
        figure = plot_attention_scores(query, key, mask_mod=self.mask(), show="weights")
        drawn = figure.axes[0].images[0].get_array().filled(0)
        scores = (query[0, 0] @ key[0, 0].T / 8**0.5).masked_fill(~torch.tensor(self.triangle()), -torch.inf)
        np.testing.assert_allclose(drawn, scores.softmax(-1).nan_to_num(), atol=1e-5)
        np.testing.assert_allclose(drawn.sum(1), [1.0] * 7 + [0.0] * 3, atol=1e-6)

    def test_the_modules_queries_and_keys_are_what_it_takes(self) -> None:
        """`forward` returns them for this picture."""
        x = padded_tokens([REAL], LENGTH)
        _, queries, keys = MultiheadFlexAttention(D, D, HEADS)(x)
        drawn = plot_attention_scores(queries, keys, mask_mod=self.mask()).axes[0].images[0].get_array()
        assert np.array_equal(~np.ma.getmaskarray(drawn), self.triangle())
