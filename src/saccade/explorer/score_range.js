// From which value to which the scores of visible pairs go, by a sample that holds the ends of runs.

const SAMPLE_ROWS = 48;
const SAMPLE_KEYS = 6; // of each run of blocks
const MOST_RUNS = 24; // of a row

/** {low, high, fails} of what becomes of a score; null where no sampled pair has a finite one. */
function scoreRange(model, mask, b, h, score) {
  let [low, high, fails] = [Infinity, -Infinity, false];
  for (const q of evenly(0, mask.q_len - 1, SAMPLE_ROWS)) {
    for (const k of sampledKeys(model, mask, b, h, q)) {
      if (model.visible(b, h, q, k) !== true) continue;
      const found = model.score(b, h, q, k, score);
      fails ||= typeof found === "string";
      if (!Number.isFinite(found)) continue;
      low = Math.min(low, found);
      high = Math.max(high, found);
    }
  }
  return low <= high ? { low, high, fails } : null;
}

function sampledKeys(model, mask, b, h, q) {
  const columns = mask.blocks.kv_block;
  const runs = model.runs(b, h, Math.floor(q / mask.blocks.q_block));
  return evenly(0, runs.length - 1, MOST_RUNS).flatMap((at) => {
    const [start, stop] = runs[at];
    const last = Math.min(mask.kv_len, stop * columns) - 1;
    const keys = evenly(start * columns, last, SAMPLE_KEYS);
    // The edge of a causal mask runs inside a block.
    return q >= start * columns && q <= last ? [...keys, q] : keys;
  });
}

/** At most `count` whole numbers from first to last, both among them. */
function evenly(first, last, count) {
  if (last < first) return [];
  const steps = Math.min(count - 1, last - first);
  const step = steps ? (last - first) / steps : 0;
  return Array.from({ length: steps + 1 }, (_, at) => Math.round(first + step * at));
}
