// Why a pair is visible or hidden, as a sentence: from the tree of terms, without a document.
//
// A sentence is a list of parts: a text stands for itself, `{code}` for a name or a comparison.

const COMPARISON = / (==|!=|<=?) /;

/** The terms that decide: those whose truth makes the whole tree what it is, named where they have a name. */
function decidingTerms(term) {
  if (typeof term.holds === "string" || !["all", "any"].includes(term.kind)) return [term];
  if (isNamed(term) && !joinsNamed(term)) return [term];
  return decisive(term).flatMap(decidingTerms);
}

/** Those of a term's own terms that make it what it is. */
function decisive({ kind, holds, terms }) {
  if (kind === "all" && holds === false) return terms.filter((inner) => inner.holds === false);
  if (kind === "any" && holds === true) return terms.filter((inner) => inner.holds === true);
  return terms;
}

/** Whether a term has a name beyond its own text: `sliding_window(4)`, not `q_idx - kv_idx < 4`. */
function isNamed({ label, text }) {
  return label !== "" && label !== text;
}

/** Whether a term's name only repeats those of its parts: `causal & sliding_window(4)`. */
function joinsNamed({ label, terms }) {
  return terms.length > 0 && terms.every((inner) => inner.label !== "" && label.includes(inner.label));
}

function nameOf(term) {
  return term.label || term.text || JOINED[term.kind];
}

/** The comparison that makes a term false, with its numbers; "" where it is not one. */
function failedComparison(term) {
  if (term.kind === "leaf") {
    const compared = term.values.replace(/ \(.*\)$/, "");
    return COMPARISON.test(compared) ? compared : "";
  }
  const failed = term.kind === "all" ? decisive(term) : [];
  return failed.length === 1 ? failedComparison(failed[0]) : "";
}

/** What to say of a pair: {state: "visible" | "hidden" | "fails", parts}. */
function verdictOf(visible, kind, explanation) {
  if (typeof visible === "string") return { state: "fails", parts: [`The mask fails here: ${visible}`] };
  if (visible) return { state: "visible", parts: visibleBecause(kind, explanation) };
  const deciding = decidingTerms(explanation);
  const parts = ["Hidden by ", ...listed(deciding.map(nameOf))];
  const compared = deciding.length === 1 ? failedComparison(deciding[0]) : "";
  if (compared && compared !== nameOf(deciding[0])) parts.push(": ", { code: compared }, " is false");
  return { state: "hidden", parts };
}

function visibleBecause(kind, explanation) {
  const names = decidingTerms(explanation).map(nameOf);
  if (explanation.kind === "any") return ["Visible through ", ...listed(names)];
  if (kind === 2) return ["Visible, like every pair of this block."];
  if (explanation.kind === "all") return ["Visible: every term holds."];
  return ["Visible: ", { code: nameOf(explanation) }, " holds."];
}

/** `a`, `a and b`, `a, b and c`, each once. */
function listed(names) {
  const once = [...new Set(names)].map((code) => ({ code }));
  return once.flatMap((name, at) => (at === 0 ? [name] : [at === once.length - 1 ? " and " : ", ", name]));
}
