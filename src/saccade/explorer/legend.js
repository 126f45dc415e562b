// What the colours on the canvas mean, which depends on how near one is.

const Legend = (() => {
  const { element } = Texts;

  class Legend {
    constructor(overview) {
      this.overview = overview;
      this.element = document.getElementById("legend");
    }

    show(level, { range, score }) {
      const told = JSON.stringify([level, range, score]);
      if (told === this.told) return;
      this.told = told;
      const rows = {
        overview: () => [this.overview.counted ? shareRamp() : someSwatches()],
        blocks: () => [swatch("full", "full block"), swatch("partial", "partial"), swatch("empty", "empty")],
        pairs: () => (range ? scores(range, score) : pairSwatches()),
      };
      const later = range && level !== "pairs" ? [element("span", "", "scores show nearer by")] : [];
      this.element.replaceChildren(...rows[level](), ...later);
    }
  }

  function scores(range, score) {
    const hidden = swatch("empty", "hidden");
    const fails = range.fails ? [swatch("poison", "fails")] : [];
    if (range.empty) return [hidden, ...fails];
    const name = `what becomes of ${Texts.score(score)}`;
    const [low, high] = [Texts.score(range.low), Texts.score(range.high)];
    // A pair that was not asked may lie beyond.
    const about = range.exact ? "" : "about ";
    const one = swatch("highest", `${about}${high} ${name}`);
    return [low === high ? one : ramp("score", about + low, high, name), hidden, ...fails];
  }

  function shareRamp() {
    return ramp("share", "0 %", "100 %", "visible pairs");
  }

  function ramp(name, low, high, meaning) {
    const row = element("span", "key");
    row.append(element("span", "", low), element("span", `ramp ${name}`), element("span", "", high));
    row.append(element("span", "meaning", meaning));
    return row;
  }

  /** Visible pairs, then hidden ones, by what their block is. */
  function pairSwatches() {
    return [
      group("visible, in a", [swatch("full", "full"), swatch("partial", "partial block")]),
      group("hidden, in a", [swatch("partial-hidden", "partial"), swatch("empty", "empty block")]),
    ];
  }

  function someSwatches() {
    return group("visible pairs:", [swatch("empty", "none"), swatch("some", "some"), swatch("full", "all")]);
  }

  function group(name, swatches) {
    const row = element("span", "group");
    row.append(element("span", "", name), ...swatches);
    return row;
  }

  function swatch(colour, meaning) {
    const row = element("span", "key");
    row.append(element("span", `swatch ${colour}`), element("span", "meaning", meaning));
    return row;
  }

  return Legend;
})();
