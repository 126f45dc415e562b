// Squares of single pairs, evaluated by the mask's own program when they come into view, and kept.
//
// A frame evaluates for a few milliseconds only; what is not ready keeps the colour of its block until then.

const Tiles = (() => {
  const SIDE = 64; // pairs a tile, each way
  const MOST_TILES = 3000;
  const SPARE = 1.25; // times the tiles in view, where these are more
  const FRAME_MS = 9; // of evaluation, at least
  const MOST_FRAME_MS = 100;

  class Tiles {
    constructor(model, mask, palette) {
      this.model = model;
      this.mask = mask;
      this.palette = palette;
      // key -> canvas, null where the blocks' colours say all; the one used longest ago comes first.
      this.bitmaps = new Map();
      this.pairs = new Uint8Array(SIDE * SIDE);
      this.waiting = false; // for tiles in view
    }

    clear() {
      this.bitmaps.clear();
    }

    /** Draw the tiles in view by `place(canvas, x, y, width, height)`; true when all were ready. */
    draw(state, spans, place) {
      let left = this.budget(performance.now());
      const tilesOf = ([first, last]) => [Math.floor(first / SIDE), Math.ceil(last / SIDE)];
      const [[k0, k1], [q0, q1]] = [tilesOf(spans.x), tilesOf(spans.y)];
      const most = Math.max(MOST_TILES, SPARE * (q1 - q0) * (k1 - k0));
      let complete = true;
      for (let row = q0; row < q1; row++) {
        for (let column = k0; column < k1; column++) {
          const key = `${state.b},${state.h},${row},${column}`;
          let tile = this.bitmaps.get(key);
          if (tile === undefined) {
            if (left <= 0) {
              complete = false;
              continue;
            }
            const begun = performance.now();
            tile = this.make(state, row * SIDE, column * SIDE);
            left -= performance.now() - begun;
          }
          this.keep(key, tile, most);
          if (tile) place(tile, column * SIDE, row * SIDE, tile.width, tile.height);
        }
      }
      this.waiting = !complete;
      return complete;
    }

    /** Milliseconds that a frame may evaluate: half as long as frames take, where drawing them is slow. */
    budget(now) {
      const taken = this.waiting ? now - this.begun : 0;
      this.begun = now;
      return Math.min(MOST_FRAME_MS, Math.max(FRAME_MS, taken / 2));
    }

    keep(key, tile, most) {
      // A Map remembers the order of its keys. What is in view was used last, so that it never goes.
      this.bitmaps.delete(key);
      if (this.bitmaps.size >= most) this.bitmaps.delete(this.bitmaps.keys().next().value);
      this.bitmaps.set(key, tile);
    }

    make(state, q, k) {
      const { b, h, range } = state;
      const { model, pairs } = this;
      const q1 = Math.min(q + SIDE, this.mask.q_len);
      const k1 = Math.min(k + SIDE, this.mask.kv_len);
      const kinds = this.kindsOf(b, h, q, q1, k, k1);
      if (!kinds.some((row) => row.some((kind) => kind === 1 || (range && kind)))) return null;
      model.fill(b, h, q, q1, k, k1, pairs);
      const { visible, hidden, poison } = this.palette.bytes;
      const width = k1 - k;
      return Palette.bitmap(width, q1 - q, (x, y) => {
        const kind = kinds[this.rowOf(q + y) - this.rowOf(q)][this.columnOf(k + x) - this.columnOf(k)];
        const pair = pairs[y * width + x];
        if (pair === 0) return hidden[range ? 0 : kind];
        if (pair === 2) return poison;
        return range ? this.scored(state, q + y, k + x) : visible[kind];
      });
    }

    /** The colour of what becomes of the score of a visible pair. */
    scored({ b, h, range, score }, q, k) {
      const found = this.model.score(b, h, q, k, score);
      range.add(found);
      if (typeof found === "string" || Number.isNaN(found)) return this.palette.bytes.poison;
      if (found === -Infinity) return this.palette.bytes.hidden[0];
      return this.palette.score(found, range.low, range.high);
    }

    rowOf(q) {
      return Math.floor(q / this.mask.blocks.q_block);
    }

    columnOf(k) {
      return Math.floor(k / this.mask.blocks.kv_block);
    }

    /** The kinds of the blocks that a rectangle of pairs touches, by rows. */
    kindsOf(b, h, q0, q1, k0, k1) {
      const kinds = [];
      for (let row = this.rowOf(q0); row <= this.rowOf(q1 - 1); row++) {
        const line = [];
        for (let column = this.columnOf(k0); column <= this.columnOf(k1 - 1); column++) {
          line.push(this.model.kind(b, h, row, column));
        }
        kinds.push(line);
      }
      return kinds;
    }
  }

  return Tiles;
})();
