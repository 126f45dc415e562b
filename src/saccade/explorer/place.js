// The place in the address, so that a view can be linked: `#q=12&k=8&zoom=24&h=1`, zoom in pixels a pair.

const WRITE_AFTER_MS = 250;

const Place = {
  /** What the address says, where it is a place of this mask; null without a pair. */
  read(mask) {
    const fields = new URLSearchParams(location.hash.slice(1));
    const whole = (name, count) => {
      const value = Number(fields.get(name) ?? NaN);
      return Number.isInteger(value) && value >= 0 && value < count ? value : null;
    };
    const [q, k] = [whole("q", mask.q_len), whole("k", mask.kv_len)];
    if (q === null || k === null) return null;
    const zoom = Number(fields.get("zoom"));
    const [b, h] = [whole("b", mask.batch) ?? 0, whole("h", mask.heads) ?? 0];
    return { q, k, b, h, zoom: zoom > 0 ? zoom : null };
  },

  /** Write it, once nothing has moved for a moment: browsers limit how often an address may change. */
  write({ b, h, cursor }, pairSize) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!cursor) return;
      const fields = new URLSearchParams({ q: cursor.q, k: cursor.k, zoom: Number(pairSize.toPrecision(4)) });
      if (b) fields.set("b", b);
      if (h) fields.set("h", h);
      history.replaceState(null, "", `#${fields}`);
    }, WRITE_AFTER_MS);
  },
};
