// Squares of single pairs, evaluated by the mask's own program when they come into view, and kept.
//
// A frame evaluates for a few milliseconds only; what is not ready keeps the colour of its block until then.

const SIDE = 64; // pairs a tile, each way
const MOST_TILES = 3000;
const FRAME_MS = 9;

class Tiles {
  constructor(model, mask, palette) {
    this.model = model;
    this.mask = mask;
    this.palette = palette;
    this.bitmaps = new Map(); // key -> canvas; null where the blocks' colours say all
    this.pairs = new Uint8Array(SIDE * SIDE);
  }

  clear() {
    this.bitmaps.clear();
  }

  /** Draw the tiles in view by `place(canvas, x, y, width, height)`; true when all were ready. */
  draw(state, spans, place) {
    const end = performance.now() + FRAME_MS;
    const [k0, k1] = spans.x.map((index, end) => (end ? Math.ceil(index / SIDE) : Math.floor(index / SIDE)));
    const [q0, q1] = spans.y.map((index, end) => (end ? Math.ceil(index / SIDE) : Math.floor(index / SIDE)));
    let complete = true;
    for (let row = q0; row < q1; row++) {
      for (let column = k0; column < k1; column++) {
        const key = `${state.b},${state.h},${row},${column}`;
        let tile = this.bitmaps.get(key);
        if (tile === undefined) {
          if (performance.now() > end) {
            complete = false;
            continue;
          }
          tile = this.make(state, row * SIDE, column * SIDE);
          this.keep(key, tile);
        }
        if (tile) place(tile, column * SIDE, row * SIDE, tile.width, tile.height);
      }
    }
    return complete;
  }

  keep(key, tile) {
    // The oldest goes first: a Map remembers the order of its keys.
    if (this.bitmaps.size >= MOST_TILES) this.bitmaps.delete(this.bitmaps.keys().next().value);
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
    return bitmap(width, q1 - q, (x, y) => {
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
