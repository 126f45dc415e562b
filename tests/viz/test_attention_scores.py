"""Pictures of scores: the numbers behind them, the pixels of the file, and what is refused."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.image import imread

import saccade
from saccade.attention import AuxRequest, flex_attention
from saccade.block_mask import create_block_mask
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    IndexOutOfRangeError,
    MissingPackageError,
    ModError,
    ShapeError,
)
from saccade.masks import and_masks, causal, create_padding_mask, sliding_window
from saccade.scores import alibi
from saccade.viz import plot_attention_scores, save_figure, visualize_attention_scores
from saccade.viz.canvas import PAPER

LENGTH, REAL = 10, 7
PADS = torch.arange(LENGTH)[None] >= REAL
CAUSAL_PADDED = and_masks(causal, create_padding_mask(PADS))


def inputs(heads: int = 1, kv_heads: int = 1, kv_len: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, heads, LENGTH, 8), torch.randn(1, kv_heads, kv_len, 8)


def values(figure: object, panel: int = 0) -> np.ma.MaskedArray:
    return figure.axes[panel].images[0].get_array()  # type: ignore[attr-defined]


def expected_triangle() -> np.ndarray:
    expected = np.zeros((LENGTH, LENGTH), dtype=bool)
    expected[:REAL, :REAL] = np.tril(np.ones((REAL, REAL), dtype=bool))
    return expected


class TestR0:
    """A sequence of 10 tokens, 3 of them padding: the lower triangle of the first 7×7 and nothing else."""

    def test_the_array(self) -> None:
        figure = plot_attention_scores(*inputs(), mask_mod=CAUSAL_PADDED)
        shown = ~np.ma.getmaskarray(values(figure))
        assert np.array_equal(shown, expected_triangle())

    @pytest.mark.parametrize("show", ["modified", "weights"])
    def test_the_pixels_of_the_png(self, tmp_path: Path, show: str) -> None:
        query, key = inputs()
        path = visualize_attention_scores(
            query,
            key,
            mask_mod=CAUSAL_PADDED,
            name="padded",
            path=tmp_path,
            show=show,  # type: ignore[arg-type]
        )
        assert path == tmp_path / "padded.png"
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        pixels = (imread(path)[..., :3] * 255).round().astype(int)
        twin = plot_attention_scores(
            query,
            key,
            mask_mod=CAUSAL_PADDED,
            name="padded",
            show=show,  # type: ignore[arg-type]
        )
        save_figure(twin, tmp_path / "twin.png")  # lays it out
        paper = [int(PAPER[place : place + 2], 16) for place in (1, 3, 5)]
        coloured = np.empty((LENGTH, LENGTH), dtype=bool)
        for q in range(LENGTH):
            for kv in range(LENGTH):
                x, y = twin.axes[0].transData.transform((kv, q))
                coloured[q, kv] = pixels[pixels.shape[0] - 1 - int(y), int(x)].tolist() != paper
        assert np.array_equal(coloured, expected_triangle())

    def test_a_block_mask_gives_the_same_picture(self) -> None:
        query, key = inputs()
        blocks = create_block_mask(CAUSAL_PADDED, 1, None, LENGTH, LENGTH, device="cpu")
        by_blocks = values(plot_attention_scores(query, key, mask_mod=blocks))
        by_mod = values(plot_attention_scores(query, key, mask_mod=CAUSAL_PADDED))
        assert np.array_equal(by_blocks.filled(9), by_mod.filled(9))


class TestNumbers:
    def test_raw_scores_are_of_all_pairs(self) -> None:
        query, key = inputs()
        shown = values(plot_attention_scores(query, key, alibi(n_heads=1), causal, show="raw", scale=0.5))
        assert not np.ma.getmaskarray(shown).any()
        assert np.allclose(shown, 0.5 * (query[0, 0] @ key[0, 0].T), atol=1e-5)

    def test_modified_scores(self) -> None:
        query, key = inputs()
        shown = values(plot_attention_scores(query, key, alibi(n_heads=1), sliding_window(3)))
        distance = torch.arange(LENGTH) - torch.arange(LENGTH)[:, None]
        expected = query[0, 0] @ key[0, 0].T / math.sqrt(8) + distance * 2.0**-8
        visible = (distance <= 0) & (distance > -3)
        assert np.array_equal(~np.ma.getmaskarray(shown), visible.numpy())
        assert np.allclose(shown.data[visible], expected[visible], atol=1e-5)

    def test_weights_are_those_of_attention_with_shared_heads(self) -> None:
        query, key = inputs(heads=4, kv_heads=2)
        figure = plot_attention_scores(
            query, key, alibi(n_heads=4), CAUSAL_PADDED, show="weights", head_idx=None
        )
        _, aux = flex_attention(
            query, key, key, alibi(n_heads=4), mask_mod=CAUSAL_PADDED, enable_gqa=True,
            return_aux=AuxRequest(weights=True),
        )  # fmt: skip
        assert aux.weights is not None
        for head in range(4):
            assert np.allclose(values(figure, head).filled(0), aux.weights[0, head], atol=1e-5)
        assert [axes.get_title() for axes in figure.axes[:4]] == [f"head {head}" for head in range(4)]

    def test_a_mod_has_no_say_on_hidden_pairs(self) -> None:
        table = torch.zeros(3)
        shown = values(
            plot_attention_scores(
                *inputs(),
                lambda score, b, h, q_idx, kv_idx: score + table[kv_idx],
                lambda b, h, q_idx, kv_idx: kv_idx < 3,
            )
        )
        assert shown.count() == 3 * LENGTH

    def test_a_score_of_minus_infinity_hides(self) -> None:
        shown = values(
            plot_attention_scores(
                *inputs(),
                lambda score, b, h, q_idx, kv_idx: torch.where(q_idx >= kv_idx, score, -torch.inf),
            )
        )
        assert np.array_equal(np.ma.getmaskarray(shown), ~np.tril(np.ones((LENGTH, LENGTH), dtype=bool)))

    def test_nothing_visible_is_a_blank_picture(self) -> None:
        figure = plot_attention_scores(*inputs(), mask_mod=lambda b, h, q_idx, kv_idx: kv_idx < 0)
        assert values(figure).count() == 0

    def test_the_batch_asked_for_and_a_key_shared_by_batches(self) -> None:
        query, key = torch.randn(2, 1, 4, 8), torch.randn(1, 1, 5, 8)
        shown = values(plot_attention_scores(query, key, batch_idx=1, show="raw", device="cpu"))
        assert np.allclose(shown, query[1, 0] @ key[0, 0].T / math.sqrt(8), atol=1e-5)


class TestLabels:
    def test_tokens_label_both_axes_as_they_are(self, tmp_path: Path) -> None:
        words = ["a", "$x^$", "_", "<eos>", "é", "f", "g", "h", "i", "j"]
        figure = plot_attention_scores(*inputs(), tokens=words)
        save_figure(figure, tmp_path / "words.svg")  # a bad formula would raise here
        axes = figure.axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == words
        assert [label.get_text() for label in axes.get_xticklabels()] == words

    def test_keys_of_another_length_have_their_own(self) -> None:
        words = [f"k{place}" for place in range(4)]
        figure = plot_attention_scores(*inputs(kv_len=4), kv_tokens=words)
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == words

    def test_their_number_must_fit(self) -> None:
        with pytest.raises(ShapeError, match="tokens must label every position, 10 of them, got 2"):
            plot_attention_scores(*inputs(), tokens=["a", "b"])
        with pytest.raises(ShapeError, match="kv_tokens must label every position, 10 of them, got 1"):
            plot_attention_scores(*inputs(), kv_tokens=["a"])


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "start"), [("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("new/c.pdf", b"%PDF")]
    )
    def test_the_ending_says_what_is_written(self, tmp_path: Path, name: str, start: bytes) -> None:
        path = visualize_attention_scores(*inputs(), path=tmp_path / name)
        assert path == tmp_path / name
        assert path.read_bytes().startswith(start)

    def test_without_a_path_it_is_named_after_the_picture(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert visualize_attention_scores(*inputs(), name="layer 0/3") == Path("layer 0-3.png")
        assert (tmp_path / "layer 0-3.png").is_file()

    def test_other_endings_and_places_are_refused(self, tmp_path: Path) -> None:
        figure = plot_attention_scores(*inputs())
        with pytest.raises(
            ArgumentError, match=r"expected a file ending in \.png, \.svg, \.pdf, got path='a\.gif'"
        ):
            save_figure(figure, "a.gif")
        (tmp_path / "file").write_text("")
        with pytest.raises(ArgumentError, match="expected a file that can be written"):
            save_figure(figure, tmp_path / "file" / "a.png")


class TestRefusals:
    def test_places(self) -> None:
        with pytest.raises(IndexOutOfRangeError, match=r"head_idx must be in \[0, 1\), got head_idx=3"):
            plot_attention_scores(*inputs(), head_idx=3)
        with pytest.raises(IndexOutOfRangeError, match=r"batch_idx must be in \[0, 1\), got batch_idx=-1"):
            plot_attention_scores(*inputs(), batch_idx=-1)
        with pytest.raises(ShapeError, match="head_idx must name one head or more, got none"):
            plot_attention_scores(*inputs(), head_idx=[])

    def test_words_and_kinds(self) -> None:
        with pytest.raises(
            ArgumentError, match="show must be one of 'raw', 'modified', 'weights', got 'soft'"
        ):
            plot_attention_scores(*inputs(), show="soft")  # type: ignore[arg-type]
        with pytest.raises(ModError, match=r"expects a score_mod.*got the mask_mod.*give it as mask_mod"):
            plot_attention_scores(*inputs(), causal)  # type: ignore[arg-type]
        with pytest.raises(ModError, match=r"plot_attention_scores\(\) expects a mask_mod"):
            plot_attention_scores(*inputs(), None, alibi(n_heads=1))  # type: ignore[arg-type]
        with pytest.raises(ModError, match="sliding_window is a factory"):
            plot_attention_scores(*inputs(), None, sliding_window)
        with pytest.raises(ArgumentTypeError, match="key must be a torch tensor"):
            plot_attention_scores(inputs()[0], None)  # type: ignore[arg-type]

    def test_too_many_pairs_and_none(self) -> None:
        long = torch.zeros(()).expand(1, 1, 5000, 1)
        with pytest.raises(ArgumentError, match=r"shows 1 to 16,777,216 pairs, got Q=5,000 and K=5,000"):
            plot_attention_scores(long, long)
        with pytest.raises(ArgumentError, match="got Q=10 and K=0"):
            plot_attention_scores(*inputs(kv_len=0))

    def test_a_block_mask_of_other_lengths(self) -> None:
        mask = create_block_mask(causal, None, None, 4, 4, device="cpu")
        with pytest.raises(ShapeError, match="4"):
            plot_attention_scores(*inputs(), mask_mod=mask)


class TestMatplotlib:
    def run(self, script: str) -> str:
        source = str(Path(saccade.__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def test_drawing_never_touches_pyplot(self, tmp_path: Path) -> None:
        script = (
            "import sys, torch; from saccade.viz import *\n"
            f"visualize_attention_scores(*torch.randn(2, 1, 1, 4, 8), path={str(tmp_path)!r})\n"
            "print('matplotlib.pyplot' in sys.modules)"
        )
        assert self.run(script) == "False\n"

    def test_without_matplotlib_the_error_says_what_to_install(self) -> None:
        script = (
            "import sys; sys.modules['matplotlib'] = None\n"
            "try:\n    import saccade.viz\nexcept ImportError as fault:\n"
            "    print(type(fault).__name__, fault)"
        )
        text = self.run(script)
        assert text.startswith(
            f"{MissingPackageError.__name__} saccade.viz needs matplotlib, which cannot be"
        )
        assert "pip install 'saccade[viz]'" in text


def test_a_notebook_shows_the_figure_without_a_magic_command() -> None:
    query, key = torch.randn(2, 1, 1, 4, 8)
    shown, _ = DisplayFormatter().format(plot_attention_scores(query, key))
    assert shown["image/png"].startswith(b"\x89PNG")
