// From which value to which the scores of visible pairs go: what the ends of the colours stand for.
//
// Of a small mask every pair is asked; of a larger one a sample that holds the ends of runs, which then grows
// by whatever is drawn.

const ScoreRange = (() => {
  const MOST_PAIRS = 1 << 16; // that are all asked
  const SAMPLE_ROWS = 48;
  const SAMPLE_KEYS = 6; // of each run of blocks
  const MOST_RUNS = 24; // of a row

  class ScoreRange {
    constructor(exact) {
      this.exact = exact; // no pair lies beyond
      this.low = Infinity;
      this.high = -Infinity;
      this.fails = false; // for some pair there is no score
      this.grown = false; // since whoever draws looked last
    }

    /** What the scores of a (b, h) become, as far as it is asked before anything is drawn. */
    static of(model, mask, { b, h, score }) {
      const exact = mask.q_len * mask.kv_len <= MOST_PAIRS;
      const range = new ScoreRange(exact);
      const queries = exact ? evenly(0, mask.q_len - 1, mask.q_len) : evenly(0, mask.q_len - 1, SAMPLE_ROWS);
      for (const q of queries) {
        const keys = exact ? visibleKeys(model, mask, b, h, q) : sampledKeys(model, mask, b, h, q);
        for (const k of keys) range.add(model.score(b, h, q, k, score));
      }
      range.grown = false;
      return range;
    }

    get empty() {
      return this.low > this.high;
    }

    add(found) {
      if (typeof found === "string") this.fails = true;
      if (!Number.isFinite(found) || (found >= this.low && found <= this.high)) return;
      this.low = Math.min(this.low, found);
      this.high = Math.max(this.high, found);
      this.grown = true;
    }
  }

  function visibleKeys(model, mask, b, h, q) {
    const pairs = new Uint8Array(mask.kv_len);
    model.fill(b, h, q, q + 1, 0, mask.kv_len, pairs);
    return Array.from(pairs.keys()).filter((k) => pairs[k] === 1);
  }

  function sampledKeys(model, mask, b, h, q) {
    const columns = mask.blocks.kv_block;
    const runs = model.runs(b, h, Math.floor(q / mask.blocks.q_block));
    const keys = evenly(0, runs.length - 1, MOST_RUNS).flatMap((at) => {
      const [start, stop] = runs[at];
      const last = Math.min(mask.kv_len, stop * columns) - 1;
      const ends = evenly(start * columns, last, SAMPLE_KEYS);
      // The edge of a causal mask runs inside a block.
      return q >= start * columns && q <= last ? [...ends, q] : ends;
    });
    return keys.filter((k) => model.visible(b, h, q, k) === true);
  }

  /** At most `count` whole numbers from first to last, both among them. */
  function evenly(first, last, count) {
    if (last < first) return [];
    const steps = Math.min(count - 1, last - first);
    const step = steps ? (last - first) / steps : 0;
    return Array.from({ length: steps + 1 }, (_, at) => Math.round(first + step * at));
  }

  return ScoreRange;
})();
