"""Pictures of masks: blocks beside pairs, and many of them on a sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from saccade.bench.gallery import write_gallery
from saccade.bench.patterns import Size, demo_patterns
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentError, ArgumentTypeError, IndexOutOfRangeError
from saccade.masks import causal, noop_mask, sliding_window
from saccade.scores import alibi, softcap
from saccade.viz import Panel, contact_sheet, plot_block_mask, save_figure


def mask_of(mod: object, q_len: int = 512, kv_len: int | None = None, **sizes: int) -> BlockMask:
    batch, heads = sizes.get("batch"), sizes.get("heads")
    return create_block_mask(mod, batch, heads, q_len, kv_len or q_len, device="cpu")  # type: ignore[arg-type]


class TestPlotBlockMask:
    def test_blocks_by_kind_beside_pairs(self) -> None:
        figure = plot_block_mask(mask_of(causal, 256))
        blocks, pairs = (axes.images[0].get_array() for axes in figure.axes)
        assert blocks.tolist() == [[1, 0], [2, 1]]
        assert np.array_equal(pairs > 0, np.tril(np.ones((256, 256), dtype=bool)))
        assert figure.get_suptitle() == "causal"
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            "1 empty",
            "2 partial",
            "1 full",
        ]

    def test_batch_and_head_asked_for(self) -> None:
        mask = mask_of(lambda b, h, q_idx, kv_idx: kv_idx < 128 * (b + h), batch=2, heads=2)
        blocks = plot_block_mask(mask, "mine", batch_idx=1, head_idx=1).axes[0].images[0].get_array()
        assert blocks.tolist() == [[2, 2, 0, 0]] * 4
        with pytest.raises(IndexOutOfRangeError, match="2"):
            plot_block_mask(mask, batch_idx=2)

    def test_long_masks_are_drawn_by_cells(self) -> None:
        figure = plot_block_mask(mask_of(sliding_window(4096), 1 << 20))
        blocks, pairs = (axes.images[0].get_array() for axes in figure.axes)
        assert max(blocks.shape + pairs.shape) <= 384
        assert 0 < (pairs > 0).mean() < 0.02
        assert figure.axes[0].get_xlim() == (0, 1 << 20)

    def test_what_has_no_picture(self) -> None:
        with pytest.raises(ArgumentTypeError, match=r"expects a BlockMask, got Tensor; make one with"):
            plot_block_mask(torch.ones(2, 2))  # type: ignore[arg-type]
        empty = create_block_mask(causal, None, None, 0, 4, device="cpu")
        with pytest.raises(ArgumentError, match=r"without pairs has no picture, got shape=\(1, 1, 0, 4\)"):
            plot_block_mask(empty)


class TestContactSheet:
    def test_groups_stand_in_order_and_nothing_overlaps_or_is_cut(self, tmp_path: Path) -> None:
        panel = Panel("a name & another that, altogether, is | far too long", "64", mask_of(causal, 64))
        tall = Panel("tall", "64 × 16", mask_of(noop_mask, 64, 16))
        scored = Panel("scored", "64", mask_of(causal, 64), alibi(n_heads=1))
        figure = contact_sheet(
            {"One": [panel] * 3, "None": [], "Two": [tall, scored]}, "Sheet", "sub", columns=2
        )
        save_figure(figure, tmp_path / "sheet.png")
        texts = [text.get_text() for text in figure.texts]
        assert texts.index("One") < texts.index("Two")
        assert "None" not in texts
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
        boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
        width, height = figure.canvas.get_width_height()
        assert all(min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
        overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        assert overlaps == []

    def test_a_score_colours_what_is_visible(self) -> None:
        flat = Panel("flat", "8", mask_of(causal, 8), softcap(2.0))
        figure = contact_sheet({"Scores": [flat]}, "Sheet")
        image = figure.axes[0].images[0]
        shown = image.get_array()
        assert shown.count() == 36
        low, high = image.get_clim()
        assert low < float(shown.min()) < high

    def test_a_sheet_needs_something(self) -> None:
        with pytest.raises(
            ArgumentError, match="needs a panel and two columns or more, got 0 panels and columns=8"
        ):
            contact_sheet({"None": []}, "Sheet")
        with pytest.raises(ArgumentError, match="got 1 panels and columns=1"):
            contact_sheet({"One": [Panel("x", "8", mask_of(causal, 8))]}, "Sheet", columns=1)


def test_the_gallery_is_whole_and_its_labels_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = []
    monkeypatch.setattr(
        "saccade.bench.gallery.save_figure",
        lambda figure, path: sheets.append(figure) or save_figure(figure, path),
    )
    path = write_gallery(tmp_path / "out" / "gallery.png")
    (figure,) = sheets
    names = [pattern.name for pattern in demo_patterns(Size.SMALL)]
    assert sorted(axes.get_label() for axes in figure.axes) == sorted(names)
    assert not [text.get_text() for text in figure.texts if "…" in text.get_text()]
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    pixels = imread(path)
    assert pixels.shape[:2] == figure.canvas.get_width_height()[::-1]
    # The outermost pixels are bare: nothing is cut.
    assert (pixels[:20] == 1).all()
    assert (pixels[-20:] == 1).all()
    assert (pixels[:, :20] == 1).all()
    assert (pixels[:, -20:] == 1).all()
