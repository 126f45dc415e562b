"use strict";
/* The model of the page: which pairs the mask shows, and why, from the page's data alone.
 *
 * `Saccade.load(json)` reads what `page_data` wrote. No document, no network: whoever draws asks this. Where
 * the blocks say that a rectangle is empty or full, the program is not asked. */
const Saccade = (() => {
  const BYTES = {
    bool: Uint8Array,
    uint8: Uint8Array,
    int8: Int8Array,
    int16: Int16Array,
    int32: Int32Array,
    int64: BigInt64Array,
    float32: Float32Array,
    float64: Float64Array,
  };
  const SYMBOLS = { eq: "==", ne: "!=", lt: "<", le: "<=" };
  const MOST_LOADS = 4; // that one term shows
  const PARTIAL = 1;

  function decoded(text, type) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new type(bytes.buffer);
  }

  class Capture {
    constructor({ dtype, shape, data }) {
      this.shape = shape;
      this.data = decoded(data, BYTES[dtype]);
      this.forms = new Map();
    }

    /* The elements as values of a kind: BigInts where it is "wide", else numbers. */
    as(kind) {
      if (!this.forms.has(kind)) this.forms.set(kind, this.converted(kind));
      return this.forms.get(kind);
    }

    converted(kind) {
      const isWide = this.data instanceof BigInt64Array;
      if (kind === "wide") return isWide ? this.data : BigInt64Array.from(this.data, BigInt);
      return isWide ? Float64Array.from(this.data, Number) : this.data;
    }
  }

  /* The block kinds of one (b, h), as runs of block columns in each block row. */
  class Grid {
    constructor({ indptr, starts, stops, kinds }) {
      this.indptr = decoded(indptr, Int32Array);
      this.starts = decoded(starts, Int32Array);
      this.stops = decoded(stops, Int32Array);
      this.kinds = decoded(kinds, Uint8Array);
    }

    runs(row) {
      const runs = [];
      for (let i = this.indptr[row]; i < this.indptr[row + 1]; i++) {
        runs.push([this.starts[i], this.stops[i], this.kinds[i]]);
      }
      return runs;
    }

    kind(row, column) {
      let [low, high] = [this.indptr[row], this.indptr[row + 1]];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.stops[middle] <= column) low = middle + 1;
        else high = middle;
      }
      return low < this.indptr[row + 1] && this.starts[low] <= column ? this.kinds[low] : 0;
    }
  }

  function shown(value) {
    if (typeof value === "boolean") return value ? "True" : "False";
    if (typeof value === "bigint" || Number.isInteger(value)) return String(value);
    if (!Number.isFinite(value)) return value !== value ? "nan" : value < 0 ? "-inf" : "inf";
    return String(Number(value.toPrecision(7)));
  }

  /* What the terms of one pair look at: each program is evaluated once. */
  class Evidence {
    constructor(programs, pair) {
      Object.assign(this, { programs, pair, seen: new Set() });
    }

    program(index) {
      const program = this.programs[index];
      if (!this.seen.has(program)) program.see(...this.pair, 0);
      this.seen.add(program);
      return program;
    }

    leaf(term) {
      const program = this.program(term.program);
      const node = program.nodes[term.node];
      return { text: node.text, holds: truth(program, node), values: detail(program, node) };
    }
  }

  function truth(program, node) {
    return program.faultOf(node) ?? program.valueOf(node);
  }

  /* The numbers behind a term: both sides of a comparison, and the captured elements that it reads. */
  function detail(program, node) {
    const value = (one) => (one.poisonAt(0) ? "?" : shown(program.valueOf(one)));
    const sides = node.op in SYMBOLS ? node.args.map(value).join(` ${SYMBOLS[node.op]} `) : "";
    const loads = loadsBelow(node).slice(0, MOST_LOADS).map((one) => {
      return `${program.names[one.attr]}[${one.args.map(value).join(", ")}] = ${value(one)}`;
    });
    return sides && loads.length ? `${sides} (${loads.join(", ")})` : sides || loads.join(", ");
  }

  /* The captured elements that a node reads, without those of reductions, which differ from step to step. */
  function loadsBelow(node) {
    const [seen, loads] = [new Set(), []];
    const visit = (one) => {
      if (seen.has(one)) return;
      seen.add(one);
      one.args.forEach(visit);
      if (one.op === "load" && one.axes.size === 0) loads.push(one);
    };
    visit(node);
    return loads;
  }

  /* A term's truth from its parts': Kleene's, with the first fault where a fault decides. */
  const JOINED = {
    all: (parts) => parts.every((one) => one !== false) && (fault(parts) ?? true),
    any: (parts) => parts.some((one) => one === true) || (fault(parts) ?? false),
    odd: (parts) => fault(parts) ?? parts.filter((one) => one === true).length % 2 === 1,
    same: (parts) => fault(parts) ?? parts.every((one) => one === parts[0]),
    not: (parts) => fault(parts) ?? !parts[0],
    where: (parts) => (taken(parts) === null ? parts[0] : parts[taken(parts)]),
  };

  function fault(parts) {
    return parts.find((one) => typeof one === "string");
  }

  /* Which of condition, then and else is the one that counts: 1 or 2; null where the condition is a fault. */
  function taken([condition]) {
    return typeof condition === "string" ? null : condition ? 1 : 2;
  }

  function explained(term, evidence) {
    const { kind, label, named } = term;
    if (kind === "leaf") return { kind, label, named, ...evidence.leaf(term), terms: [] };
    const terms = term.terms.map((one) => explained(one, evidence));
    const parts = terms.map((one) => one.holds);
    const told = { kind, label, named, text: "", holds: JOINED[kind](parts), values: "", terms };
    return kind === "where" ? { ...told, taken: taken(parts) } : told;
  }

  class Model {
    constructor(data) {
      const { batch, heads, q_len, kv_len, blocks, overview } = data;
      Object.assign(this, { batch, heads, q_len, kv_len, blocks, overview });
      this.terms = data.terms;
      const captures = data.captures.map((one) => new Capture(one));
      this.programs = data.programs.map(
        (one) => new SaccadeProgram(one, one.captures.map((index) => captures[index])),
      );
      this.mask = this.programs[data.mask];
      this.scoring = data.score === null ? null : this.programs[data.score];
      this.grids = blocks.grids.map((one) => new Grid(one));
      this.shares = overview === null ? [] : overview.shares.map((one) => decoded(one, Uint8Array));
    }

    /* Where (b, h) is among what is stored once for all that are equal. */
    place(b, h) {
      const [batch, heads] = this.blocks.shape;
      return (batch > 1 ? b : 0) * heads + (heads > 1 ? h : 0);
    }

    /* true, false, or why there is no answer. */
    visible(b, h, q, k) {
      this.mask.see(b, h, q, k, 0);
      return truth(this.mask, this.mask.root);
    }

    /* The score after the score mod: a number, or why there is none; the score itself without a mod. */
    score(b, h, q, k, score) {
      if (this.scoring === null) return score;
      this.scoring.see(b, h, q, k, score);
      return truth(this.scoring, this.scoring.root);
    }

    /* `visible` for a rectangle, row by row: 0 hidden, 1 visible, 2 without an answer. */
    fill(b, h, q0, q1, k0, k1, out) {
      const { q_block, kv_block } = this.blocks;
      const grid = this.grids[this.place(b, h)];
      const width = k1 - k0;
      out.fill(0, 0, (q1 - q0) * width);
      for (let row = Math.floor(q0 / q_block); row * q_block < q1; row++) {
        const [top, bottom] = [Math.max(q0, row * q_block), Math.min(q1, (row + 1) * q_block)];
        for (const [start, stop, kind] of grid.runs(row)) {
          const [left, right] = [Math.max(k0, start * kv_block), Math.min(k1, stop * kv_block)];
          if (left >= right) continue;
          const first = (top - q0) * width + (left - k0);
          if (kind === PARTIAL) {
            this.mask.fill(b, h, top, bottom, left, right, out, first, width);
            continue;
          }
          for (let q = 0; q < bottom - top; q++) {
            out.fill(1, first + q * width, first + q * width + (right - left));
          }
        }
      }
    }

    /* The mask's terms at a pair, each with its truth and the values behind it. */
    explain(b, h, q, k) {
      return explained(this.terms, new Evidence(this.programs, [b, h, q, k]));
    }

    /* The kind of a block: 0 empty, 1 partial, 2 full. */
    kind(b, h, row, column) {
      return this.grids[this.place(b, h)].kind(row, column);
    }

    /* A block row's runs that are not empty: [first column, column after the last, kind]. */
    runs(b, h, row) {
      return this.grids[this.place(b, h)].runs(row);
    }

    /* The share of visible pairs in a cell of the overview, where there is one: 0 only where none is, 1 only
     * where all are. */
    share(b, h, row, column) {
      return this.shares[this.place(b, h)][row * this.overview.columns + column] / 255;
    }
  }

  return { load: (data) => new Model(data) };
})();
