// The place in the address, so that a view can be linked: `#q=12&k=8&zoom=24&h=1&pin=1`. The zoom is in
// pixels a pair.

const Place = (() => {
  const WRITE_AFTER_MS = 250;
  let timer;
  let written = "";

  /** What the address says of a mask: {b, h, cursor, zoom, pinned}, null each where it says nothing. */
  function read(mask) {
    const fields = new URLSearchParams(location.hash.slice(1));
    const whole = (name, count) => {
      const text = fields.get(name) ?? "";
      return /^\d+$/.test(text) && Number(text) < count ? Number(text) : null;
    };
    const [q, k] = [whole("q", mask.q_len), whole("k", mask.kv_len)];
    const zoom = Number(fields.get("zoom"));
    return {
      b: whole("b", mask.batch),
      h: whole("h", mask.heads),
      cursor: q === null || k === null ? null : { q, k },
      zoom: zoom > 0 ? zoom : null,
      pinned: fields.get("pin") === "1",
    };
  }

  /** Write it, once nothing has moved for a moment: browsers limit how often an address may change. */
  function write(state, pairSize) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const fields = fieldsOf(state, pairSize);
      // An address that names no place of ours is not ours to clear.
      if (fields === written) return;
      written = fields;
      history.replaceState(null, "", fields ? `#${fields}` : location.href.split("#")[0]);
    }, WRITE_AFTER_MS);
  }

  function fieldsOf({ b, h, cursor, pinned }, pairSize) {
    const zoom = Number(pairSize.toPrecision(4));
    const fields = new URLSearchParams(cursor ? { q: cursor.q, k: cursor.k, zoom } : {});
    if (b) fields.set("b", b);
    if (h) fields.set("h", h);
    if (pinned) fields.set("pin", "1");
    return String(fields);
  }

  return { read, write };
})();
