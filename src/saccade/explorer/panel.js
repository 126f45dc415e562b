// The panel that explains one pair. Every text from outside is set as text, never as markup.

class Panel {
  constructor(model, mask) {
    this.model = model;
    this.mask = mask;
    const names = ["pair", "verdict", "facts", "terms", "pin", "hint"];
    this.elements = Object.fromEntries(names.map((name) => [name, document.getElementById(name)]));
  }

  /** Show the pair under the cursor, or how to choose one. */
  show({ b, h, cursor, pinned, score }) {
    const { pair, verdict, facts, terms, pin, hint } = this.elements;
    hint.hidden = cursor !== null;
    pin.hidden = !pinned;
    for (const element of [pair, verdict, facts, terms]) element.hidden = cursor === null;
    if (cursor === null) return;
    const { q, k } = cursor;
    const { q_block: rows, kv_block: columns } = this.mask.blocks;
    const [row, column] = [Math.floor(q / rows), Math.floor(k / columns)];
    const kind = this.model.kind(b, h, row, column);
    const visible = this.model.visible(b, h, q, k);
    const explanation = this.model.explain(b, h, q, k);
    const found = verdictOf(visible, kind, explanation);
    pair.replaceChildren(
      ...this.index("query", q, this.mask.tokens),
      element("span", "arrow", "→"),
      ...this.index("key", k, this.mask.kv_tokens),
    );
    verdict.dataset.state = found.state;
    const written = (part) => (part.code ? element("code", "", part.code) : part);
    verdict.replaceChildren(...found.parts.map(written));
    const lines = [["block", `row ${number(row)}, column ${number(column)}: ${KINDS[kind]}`]];
    if (this.mask.score !== null) lines.push(["score", this.scoreLine(b, h, q, k, score, visible)]);
    if (this.mask.batch > 1) lines.unshift(["batch", number(b)]);
    if (this.mask.heads > 1) lines.unshift(["head", number(h)]);
    facts.replaceChildren(
      ...lines.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]),
    );
    terms.replaceChildren(this.term(explanation, true));
  }

  index(name, index, tokens) {
    const parts = [element("span", "axis", name), element("b", "", number(index))];
    if (tokens) parts.push(element("q", "token", tokens[index]));
    return parts;
  }

  scoreLine(b, h, q, k, score, visible) {
    const before = short(score);
    if (visible === false) return `${before} → takes no part`;
    const after = this.model.score(b, h, q, k, score);
    if (typeof after === "string") return `${before} → fails: ${after}`;
    return `${before} → ${short(after)}${after === -Infinity ? ": takes no part" : ""}`;
  }

  /** A term as a line, and its own terms below it; `decides` where it helps to make the whole what it is. */
  term(term, decides) {
    const state = typeof term.holds === "string" ? "poison" : term.holds ? "holds" : "fails";
    const item = element("li", decides ? state : `${state} idle`);
    const mark = element("span", "mark", MARKS[state].sign);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", MARKS[state].told);
    const line = element("div", "term");
    const told = element("div", "told");
    const named = term.terms.length === 0 || !joinsNamed(term);
    if (named && term.label) told.append(element("code", "", term.label));
    if (term.text && term.text !== term.label) told.append(element("code", "text", term.text));
    const detail = state === "poison" ? term.holds : term.values;
    if (detail) told.append(element("span", "values", detail));
    if (term.terms.length) told.append(element("span", "joined", JOINED[term.kind]));
    line.append(mark, told);
    item.append(line);
    if (term.terms.length) {
      const inner = element("ul", "");
      const deciding = new Set(decisive(term));
      inner.append(...term.terms.map((one) => this.term(one, decides && deciding.has(one))));
      item.append(inner);
    }
    return item;
  }
}

const MARKS = {
  holds: { sign: "✓", told: "holds" },
  fails: { sign: "✗", told: "does not hold" },
  poison: { sign: "!", told: "fails" },
};

const JOINED = {
  all: "all of these must hold",
  any: "one of these must hold",
  odd: "an odd number of these must hold",
  not: "this must not hold",
};

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function number(value) {
  return value.toLocaleString("en");
}

/** A score in as few digits as tell it. */
function short(value) {
  if (value === Infinity) return "∞";
  if (value === -Infinity) return "−∞";
  return String(Number(value.toPrecision(5))).replace("-", "−");
}
