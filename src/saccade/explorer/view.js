// The matrix on the canvas: shares when far away, then blocks, then single pairs. Evaluates nothing itself.
//
// Every edge lies on a pixel of the device, so that lines are sharp and neighbours leave no gap.

const View = (() => {
  const PAIRS_FROM = 0.5; // pixels a pair, from which pairs are drawn
  const CELLS_UNTIL = [3.6, 4.4]; // pixels a cell of the overview: blocks fade in between the two
  const GRID_FROM = 10; // pixels a pair, from which lines part them
  const BORDERS_FROM = 9; // pixels a block, from which borders show

  class View {
    constructor(context, model, mask, palette) {
      this.context = context;
      this.model = model;
      this.mask = mask;
      this.palette = palette;
      this.tiles = new Tiles(model, mask, palette);
      this.overview = new Overview(model, mask, palette);
    }

    /** Forget what depends on colours or on a score. */
    clear() {
      this.tiles.clear();
      this.overview.clear();
    }

    /** Draw the part of the matrix in view; returns what was drawn and whether more is to come. */
    draw(camera, state, origin, pixels) {
      const { context, palette } = this;
      this.camera = camera;
      this.origin = origin;
      this.pixels = pixels;
      context.save();
      context.beginPath();
      context.rect(origin.x, origin.y, camera.size.x, camera.size.y);
      context.clip();
      this.rectangle(palette.kinds[0], 0, 0, this.mask.kv_len, this.mask.q_len);
      const { level, complete } = this.drawLevels(camera, state);
      this.drawLines(camera, level);
      if (state.cursor) this.drawCursor(camera, state);
      context.restore();
      return { level, complete };
    }

    drawLevels(camera, state) {
      const { rows, columns } = this.overview;
      const cell = Math.min(
        (this.mask.q_len / rows) * camera.scale("y"),
        (this.mask.kv_len / columns) * camera.scale("x"),
      );
      const spans = { x: camera.span("x"), y: camera.span("y") };
      const pairs = camera.pairSize >= PAIRS_FROM;
      const faded = Math.min(1, Math.max(0, (cell - CELLS_UNTIL[0]) / (CELLS_UNTIL[1] - CELLS_UNTIL[0])));
      if (!pairs) {
        const picture = faded < 1 ? this.overview.picture(state) : null;
        if (picture) this.drawOverview(picture);
        if (picture && faded === 0) return { level: "overview", complete: true };
        this.context.globalAlpha = picture ? faded : 1;
        this.drawBlocks(state, spans);
        this.context.globalAlpha = 1;
        const level = picture && faded < 0.5 ? "overview" : "blocks";
        return { level, complete: picture !== null || faded === 1 };
      }
      this.drawBlocks(state, spans);
      // Pairs smaller than a pixel are averaged, larger ones stay sharp.
      this.context.imageSmoothingEnabled = camera.pairSize * this.pixels < 1;
      const complete = this.tiles.draw(state, spans, (tile, x, y, width, height) => {
        const [left, right] = this.edges("x", x, x + width);
        const [top, bottom] = this.edges("y", y, y + height);
        this.context.drawImage(tile, left, top, right - left, bottom - top);
      });
      return { level: "pairs", complete };
    }

    drawOverview(picture) {
      const [left, right] = this.edges("x", 0, this.mask.kv_len);
      const [top, bottom] = this.edges("y", 0, this.mask.q_len);
      this.context.imageSmoothingEnabled = true;
      this.context.drawImage(picture, left, top, right - left, bottom - top);
    }

    drawBlocks({ b, h }, { x: [k0, k1], y: [q0, q1] }) {
      const { q_block: rows, kv_block: columns } = this.mask.blocks;
      // Partial blocks are drawn over full ones: where blocks are smaller than a pixel, edges matter.
      for (const wanted of [2, 1]) {
        this.context.fillStyle = this.palette.kinds[wanted];
        for (let row = Math.floor(q0 / rows); row * rows < q1; row++) {
          const [top, bottom] = this.edges("y", row * rows, Math.min(this.mask.q_len, (row + 1) * rows));
          for (const [start, stop, kind] of this.model.runs(b, h, row)) {
            if (kind !== wanted || stop * columns <= k0 || start * columns >= k1) continue;
            const [left, right] = this.edges(
              "x",
              Math.max(k0, start * columns),
              Math.min(this.mask.kv_len, k1, stop * columns),
            );
            this.context.fillRect(left, top, Math.max(right - left, 1), Math.max(bottom - top, 1));
          }
        }
      }
    }

    drawLines(camera, level) {
      const { line, surface } = this.palette;
      const fade = (size, from) => Math.min(1, Math.max(0, (size - from) / from));
      const { q_block: rows, kv_block: columns } = this.mask.blocks;
      if (level === "pairs") {
        this.lines("x", 1, surface, 0.9 * fade(camera.scale("x"), GRID_FROM));
        this.lines("y", 1, surface, 0.9 * fade(camera.scale("y"), GRID_FROM));
      }
      if (level !== "overview") {
        this.lines("x", columns, line, 0.8 * fade(columns * camera.scale("x"), BORDERS_FROM));
        this.lines("y", rows, line, 0.8 * fade(rows * camera.scale("y"), BORDERS_FROM));
      }
      this.outline(line, 1, 0, 0, this.mask.kv_len, this.mask.q_len);
    }

    /** Lines across the whole matrix at every `step` pairs of an axis. */
    lines(axis, step, colour, opacity) {
      if (opacity <= 0) return;
      const { context, camera } = this;
      const [first, last] = camera.span(axis);
      const other = axis === "x" ? "y" : "x";
      const across = this.edges(other, ...camera.span(other));
      context.fillStyle = colour;
      context.globalAlpha = opacity;
      for (let place = Math.ceil(first / step) * step; place <= last; place += step) {
        const [at] = this.edges(axis, place, place);
        if (axis === "x") context.fillRect(at, across[0], 1, across[1] - across[0]);
        else context.fillRect(across[0], at, across[1] - across[0], 1);
      }
      context.globalAlpha = 1;
    }

    /** The row, the column and the pair under the cursor. */
    drawCursor(camera, { cursor: { q, k }, pinned }) {
      const { context, palette } = this;
      const [left, right] = this.edges("x", k, k + 1);
      const [top, bottom] = this.edges("y", q, q + 1);
      const [first, last] = this.edges("x", ...camera.span("x"));
      const [upper, lower] = this.edges("y", ...camera.span("y"));
      // Lines, not a veil: the colours below keep their meaning.
      context.globalAlpha = 0.6;
      context.fillStyle = palette.accent;
      for (const y of new Set([top, Math.max(top, bottom - 1)])) {
        context.fillRect(first, y, last - first, 1);
      }
      for (const x of new Set([left, Math.max(left, right - 1)])) {
        context.fillRect(x, upper, 1, lower - upper);
      }
      context.globalAlpha = 1;
      // A ring in two tones shows on every colour; a tiny pair gets one with room inside.
      const grow = 1 + Math.max(0, 7 - Math.min(right - left, bottom - top)) / 2;
      const ring = [left - grow, top - grow, right - left + 2 * grow, bottom - top + 2 * grow];
      const width = pinned ? 3 : 2;
      for (const [colour, wide] of [[palette.surface, width + 3], [palette.accent, width]]) {
        context.strokeStyle = colour;
        context.lineWidth = wide;
        context.strokeRect(...ring);
      }
    }

    rectangle(colour, k0, q0, k1, q1) {
      const [left, right] = this.edges("x", k0, k1);
      const [top, bottom] = this.edges("y", q0, q1);
      this.context.fillStyle = colour;
      this.context.fillRect(left, top, right - left, bottom - top);
    }

    outline(colour, width, k0, q0, k1, q1) {
      const [left, right] = this.edges("x", k0, k1);
      const [top, bottom] = this.edges("y", q0, q1);
      this.context.strokeStyle = colour;
      this.context.lineWidth = width;
      this.context.strokeRect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
    }

    /** Where two places of an axis are on the canvas, on whole pixels of the device. */
    edges(axis, first, last) {
      return [first, last].map((place) => {
        const point = this.origin[axis] + this.camera.pointOf(axis, place);
        return Math.round(point * this.pixels) / this.pixels;
      });
    }
  }

  return View;
})();
