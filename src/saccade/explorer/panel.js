// The panel that explains one pair. Every text from outside is set as text, never as markup.

const Panel = (() => {
  const { element, number } = Texts;
  const MOST_LETTERS = 240; // of a token

  const MARKS = {
    holds: { sign: "✓", told: "holds" },
    fails: { sign: "✗", told: "does not hold" },
    poison: { sign: "!", told: "has no value" },
  };

  const JOINED = {
    all: () => "all of these must hold",
    any: () => "one of these must hold",
    odd: ({ length }) => (length === 2 ? "just one of these must hold" : "an odd number of these must hold"),
    same: () => "both of these must hold, or neither",
    not: () => "this must not hold",
    where: () => "the first tells which of the others must hold",
  };

  const PARTS = { where: ["if", "then", "else"] };

  class Panel {
    constructor(model, mask, axes) {
      this.model = model;
      this.mask = mask;
      this.axes = axes;
      const names = ["pair", "verdict", "facts", "terms", "pin", "hint"];
      this.elements = Object.fromEntries(names.map((name) => [name, document.getElementById(name)]));
    }

    /** Show the pair under the cursor, or how to choose one. */
    show({ b, h, cursor, pinned, score }) {
      const { pair, verdict, facts, terms, pin, hint } = this.elements;
      hint.hidden = cursor !== null;
      pin.hidden = !pinned;
      for (const one of [pair, verdict, facts, terms]) one.hidden = cursor === null;
      if (cursor === null) return;
      const { q, k } = cursor;
      const { q_block: rows, kv_block: columns } = this.mask.blocks;
      const [row, column] = [Math.floor(q / rows), Math.floor(k / columns)];
      const kind = this.model.kind(b, h, row, column);
      const visible = this.model.visible(b, h, q, k);
      const explanation = this.model.explain(b, h, q, k);
      const found = Verdict.of(visible, kind, explanation);
      pair.replaceChildren(
        ...indexed("query", q, this.mask.tokens),
        element("span", "arrow", "→"),
        ...indexed("key", k, this.mask.kv_tokens),
      );
      verdict.dataset.state = found.state;
      const written = (part) => (part.code ? element("code", "", part.code) : part);
      verdict.replaceChildren(...found.parts.map(written));
      const lines = [];
      if (this.axes.b > 1) lines.push(["batch", number(b)]);
      if (this.axes.h > 1) lines.push(["head", number(h)]);
      lines.push(["block", `row ${number(row)}, column ${number(column)}: ${Palette.KINDS[kind]}`]);
      if (this.mask.score !== null) lines.push(["score", this.scoreLine(b, h, q, k, score, visible)]);
      facts.replaceChildren(
        ...lines.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]),
      );
      terms.replaceChildren(itemOf(explanation, { decides: true, blamed: visible === false }));
    }

    scoreLine(b, h, q, k, score, visible) {
      const before = Texts.score(score);
      if (visible === false) return `${before} → takes no part`;
      const after = this.model.score(b, h, q, k, score);
      if (typeof after === "string") return `${before} → fails: ${after}`;
      return `${before} → ${Texts.score(after)}${after === -Infinity ? ": takes no part" : ""}`;
    }
  }

  function indexed(name, index, tokens) {
    const parts = [element("span", "axis", name), element("b", "", number(index))];
    if (tokens) parts.push(element("q", "token", Texts.token(Texts.cut(tokens[index], MOST_LETTERS))));
    return parts;
  }

  /** A term as a line, and its own terms below it: `decides` where it helps to make the whole what it is,
      `blamed` where that hides the pair, `part` what it is to the term above. */
  function itemOf(term, { decides, blamed, part }) {
    const state = typeof term.holds === "string" ? "poison" : term.holds ? "holds" : "fails";
    const item = element("li", state);
    item.classList.toggle("idle", !decides);
    item.classList.toggle("blamed", blamed);
    item.append(lineOf(term, state, part));
    if (term.terms.length === 0) return item;
    const deciding = new Set(Verdict.decisive(term));
    const inner = element("ul", "");
    term.terms.forEach((one, at) => {
      const counts = decides && deciding.has(one);
      const part = PARTS[term.kind]?.[at];
      // What chooses between two is not what hides the pair.
      inner.append(itemOf(one, { decides: counts, blamed: blamed && counts && part !== "if", part }));
    });
    item.append(inner);
    return item;
  }

  function lineOf(term, state, part) {
    const mark = element("span", "mark", MARKS[state].sign);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", MARKS[state].told);
    const told = element("div", "told");
    if (part) told.append(element("span", "part", part));
    const isLeaf = term.terms.length === 0;
    if (term.label && (term.named || isLeaf)) told.append(element("code", "name", term.label));
    if (term.text && term.text !== term.label) told.append(element("code", "text", term.text));
    const detail = state === "poison" ? term.holds : term.values;
    if (detail) told.append(element("span", "values", detail));
    if (!isLeaf) told.append(element("span", "joined", JOINED[term.kind](term.terms)));
    const line = element("div", "term");
    line.append(mark, told);
    return line;
  }

  return Panel;
})();
