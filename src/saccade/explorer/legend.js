// What the colours on the canvas mean, which depends on how near one is.

class Legend {
  constructor(palette) {
    this.palette = palette;
    this.element = document.getElementById("legend");
  }

  show(level, { range, score }) {
    const told = JSON.stringify([level, range, score]);
    if (told === this.told) return;
    this.told = told;
    const rows = {
      overview: () => [this.ramp("share", "0 %", "100 %", "visible pairs")],
      blocks: () => [swatch("full", "full block"), swatch("partial", "partial"), swatch("empty", "empty")],
      pairs: () => (range ? this.scores(range, score) : pairSwatches()),
    };
    const later = range && level !== "pairs" ? [element("span", "", "scores show nearer by")] : [];
    this.element.replaceChildren(...rows[level](), ...later);
  }

  scores(range, score) {
    const name = `what becomes of ${short(score)}`;
    const [low, high] = [short(range.low), short(range.high)];
    const scores = low === high ? swatch("highest", `${high} ${name}`) : this.ramp("score", low, high, name);
    const fails = range.fails ? [swatch("poison", "fails")] : [];
    return [scores, swatch("empty", "hidden"), ...fails];
  }

  ramp(name, low, high, meaning) {
    const row = element("span", "key");
    row.append(element("span", "", low), element("span", `ramp ${name}`), element("span", "", high));
    row.append(element("span", "meaning", meaning));
    return row;
  }
}

/** Visible pairs, then hidden ones, by what their block is. */
function pairSwatches() {
  return [
    element("span", "", "visible:"), swatch("full", "full"), swatch("partial", "partial block"),
    element("span", "", "hidden:"), swatch("partial-hidden", "partial"), swatch("empty", "empty block"),
  ];
}

function swatch(colour, meaning) {
  const row = element("span", "key");
  row.append(element("span", `swatch ${colour}`), element("span", "meaning", meaning));
  return row;
}
