// Why a pair is visible or hidden, as a sentence: from the tree of terms, without a document.
//
// A sentence is a list of parts: a text stands for itself, `{code}` for a name or a comparison. It says no
// more than is so: which of the terms that it names hold, and which do not.

const Verdict = (() => {
  const COMPARISON = / (==|!=|<=?) /;
  const READ = /^([^=]+) = (True|False)$/; // an element of a table that is the truth itself
  const MOST_FACTS = 3; // of one kind that a sentence lists

  /** What to say of a pair: {state: "visible" | "hidden" | "fails", parts}. */
  function verdict(visible, kind, explanation) {
    if (typeof visible === "string") return { state: "fails", parts: [`The mask fails here: ${visible}`] };
    if (visible) return { state: "visible", parts: visibleBecause(kind, explanation) };
    return { state: "hidden", parts: hiddenBecause(explanation) };
  }

  /** Those of a term's own terms that make it what it is. */
  function decisive({ kind, holds, taken, terms }) {
    if (kind === "all" && holds === false) return terms.filter((one) => one.holds === false);
    if (kind === "any" && holds === true) return terms.filter((one) => one.holds === true);
    if (kind === "where") return terms.filter((_, at) => at === 0 || at === taken);
    return terms;
  }

  function hiddenBecause(explanation) {
    const all = culprits(explanation);
    const named = all.filter(isWhole);
    const joint = all.filter((term) => !isWhole(term));
    const told = joint.flatMap((term) => [" and because ", ...statement(term)]);
    if (named.length === 0) return ["Hidden because ", ...told.slice(1)];
    const names = named.map(nameOf);
    const facts = named.flatMap((term) => factsOf(term, true)).filter(({ code }) => !names.includes(code));
    const plain = named.length === 1 && facts.every(({ holds }) => holds === facts[0].holds);
    const few = plain || distinct(facts).length <= MOST_FACTS;
    const choice = named.length === 1 ? choiceOf(named[0]) : [];
    const numbers = few && facts.length ? [": ", ...choice, ...tell(facts)] : [];
    return ["Hidden by ", ...listed(names, "and"), ...numbers, ...told];
  }

  /** The terms to blame for a hidden pair: masks joined by `&` are looked into, others not. */
  function culprits(term) {
    if (term.kind !== "all" || term.named) return [term];
    return decisive(term).flatMap(culprits);
  }

  /** Whether a term is told by its name; else by what it joins. */
  function isWhole({ named, terms }) {
    return named || terms.length === 0;
  }

  /** Why a term that joins others without a name of its own does not hold. */
  function statement(term) {
    const facts = factsOf(term, true);
    const told = tell(facts, term.kind === "any" ? "shows it" : "holds");
    if (term.kind === "odd" && term.terms.length > 2) return [...told, ", an even number"];
    if (term.kind === "odd" && facts[0].holds) return [...told, ", not just one"];
    return [...choiceOf(term), ...told];
  }

  /** Which of two the condition of a `where` chooses. */
  function choiceOf({ kind, taken, terms }) {
    if (kind !== "where") return [];
    return ["where ", { code: nameOf(terms[0]) }, taken === 1 ? " holds, " : " does not hold, "];
  }

  function visibleBecause(kind, explanation) {
    if (explanation.kind === "any") {
      return ["Visible through ", ...listed(showing(explanation, true).map(nameOf), "and")];
    }
    if (kind === 2) return ["Visible, like every pair of this block."];
    if (explanation.kind === "all") return ["Visible: every term holds."];
    if (isWhole(explanation)) return ["Visible: ", { code: nameOf(explanation) }, " holds."];
    return ["Visible: ", ...choiceOf(explanation), ...tell(factsOf(explanation, true)), "."];
  }

  /** The terms through which a pair is visible: masks joined by `|` are looked into. */
  function showing(term, outermost) {
    if (term.kind !== "any" || (term.named && !outermost)) return [term];
    return decisive(term).flatMap((one) => showing(one, false));
  }

  /** What makes a term what it is, down to names and comparisons: [{code, holds, compared}]. */
  function factsOf(term, outermost) {
    const { holds, kind } = term;
    const asNamed = { code: nameOf(term), holds, compared: false };
    if (term.named && !outermost) return [asNamed];
    if (term.terms.length === 0) return [comparisonOf(term) ?? asNamed];
    // How many of these hold is what counts, not why.
    if (kind === "odd" || kind === "same") return term.terms.map(factOf);
    if (kind === "where") return factsOf(term.terms[term.taken], false);
    return decisive(term).flatMap((one) => factsOf(one, false));
  }

  /** A term as one fact. */
  function factOf(term) {
    const compared = term.terms.length === 0 && !term.named ? comparisonOf(term) : null;
    return compared ?? { code: nameOf(term), holds: term.holds, compared: false };
  }

  /** The comparison that a leaf is, or the element it reads, with its numbers. */
  function comparisonOf({ values, holds }) {
    const numbers = values.replace(/ \(.*\)$/, "");
    const code = COMPARISON.test(numbers) ? numbers : values.match(READ)?.[1];
    return code ? { code, holds, compared: true } : null;
  }

  /** "`a` holds but `9 <= 3` is false": what is true first. */
  function tell(facts, holds = "holds") {
    const group = (truth, compared) =>
      distinct(facts.filter((one) => one.holds === truth && one.compared === compared));
    const clauses = (truth) => [
      ...[group(truth, false)].filter((codes) => codes.length).map((codes) => ofNames(codes, truth, holds)),
      ...[group(truth, true)].filter((codes) => codes.length).map((codes) => ofComparisons(codes, truth)),
    ];
    const joined = (truth) => clauses(truth).flatMap((clause, at) => (at ? [" and ", ...clause] : clause));
    const [right, wrong] = [joined(true), joined(false)];
    return right.length && wrong.length ? [...right, " but ", ...wrong] : [...right, ...wrong];
  }

  function ofNames(codes, truth, holds) {
    if (truth) return [...listed(codes, "and"), codes.length === 1 ? ` ${holds}` : " hold"];
    if (codes.length > 2) return ["none of ", ...listed(codes, "and"), ` ${holds}`];
    if (codes.length === 2) return ["neither ", ...listed(codes, "nor"), ` ${holds}`];
    return [{ code: codes[0] }, holds === "holds" ? " does not hold" : " does not show it"];
  }

  function ofComparisons(codes, truth) {
    return [...listed(codes, "and"), codes.length === 1 ? ` is ${truth}` : ` are ${truth}`];
  }

  function distinct(facts) {
    return [...new Set(facts.map(({ code }) => code))];
  }

  /** `a`, `a and b`, `a, b and c`, each once; the last of many are counted. */
  function listed(names, last) {
    const once = [...new Set(names)];
    const shown = once.length > MOST_FACTS + 1 ? once.slice(0, MOST_FACTS) : once;
    const codes = shown.map((code) => ({ code }));
    if (shown.length < once.length) codes.push(`${once.length - shown.length} more`);
    const before = (at) => (at === 0 ? [] : [at === codes.length - 1 ? ` ${last} ` : ", "]);
    return codes.flatMap((one, at) => [...before(at), one]);
  }

  function nameOf({ label, text }) {
    return label || text;
  }

  return { of: verdict, decisive };
})();
