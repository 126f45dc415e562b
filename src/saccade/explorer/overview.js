// The matrix as a small picture for each batch and head: which share of each cell's pairs is visible.
//
// The page brings the shares of a large mask; those of a small one are counted here, some rows a frame.

const Overview = (() => {
  const SIDE = 512; // cells, each way, at most
  const FRAME_MS = 9;

  class Overview {
    constructor(model, mask, palette) {
      this.model = model;
      this.mask = mask;
      this.palette = palette;
      this.rows = mask.overview?.rows ?? Math.min(SIDE, mask.q_len);
      this.columns = mask.overview?.columns ?? Math.min(SIDE, mask.kv_len);
      /** Whether a cell tells its share; else only whether none, some or all of its pairs are visible. */
      this.counted = mask.overview?.counted ?? true;
      this.pictures = new Map();
      this.counts = new Map();
    }

    /** Forget what was drawn in other colours. */
    clear() {
      this.pictures.clear();
    }

    /** The picture, a pixel a cell; null while its shares are being counted. */
    picture({ b, h }) {
      const key = `${b},${h}`;
      if (!this.pictures.has(key)) {
        const share = this.shares(key, b, h);
        if (share === null) return null;
        const colour = (x, y) => this.palette.share(share(y, x));
        this.pictures.set(key, Palette.bitmap(this.columns, this.rows, colour));
      }
      return this.pictures.get(key);
    }

    /** (row, column) -> share; null while it is being counted. */
    shares(key, b, h) {
      if (this.mask.overview !== null) return (row, column) => this.model.share(b, h, row, column);
      if (!this.counts.has(key)) this.counts.set(key, this.counting(b, h));
      const end = performance.now() + FRAME_MS;
      const counts = this.counts.get(key);
      while (!counts.next().done) if (performance.now() > end) return null;
      return (row, column) => counts.shares[row * this.columns + column];
    }

    /** An iterator that counts a row of cells at each step; the shares stand beside it. */
    counting(b, h) {
      const { rows, columns, model } = this;
      const { q_len: queries, kv_len: keys } = this.mask;
      const shares = new Float64Array(rows * columns);
      const pairs = new Uint8Array(Math.ceil(queries / rows) * keys);
      const first = (cell, cells, length) => Math.floor((cell * length) / cells);
      const columnOf = new Uint16Array(keys);
      for (let column = 0; column < columns; column++) {
        columnOf.fill(column, first(column, columns, keys), first(column + 1, columns, keys));
      }
      function* count() {
        for (let row = 0; row < rows; row++) {
          const [q0, q1] = [first(row, rows, queries), first(row + 1, rows, queries)];
          model.fill(b, h, q0, q1, 0, keys, pairs);
          const visible = new Uint32Array(columns);
          for (let q = 0, place = 0; q < q1 - q0; q++) {
            for (let k = 0; k < keys; k++, place++) if (pairs[place] === 1) visible[columnOf[k]]++;
          }
          for (let column = 0; column < columns; column++) {
            const width = first(column + 1, columns, keys) - first(column, columns, keys);
            shares[row * columns + column] = visible[column] / (width * (q1 - q0));
          }
          yield;
        }
      }
      return Object.assign(count(), { shares });
    }
  }

  return Overview;
})();
