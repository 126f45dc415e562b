"use strict";
/* Programs, evaluated: one obvious step a node, over a strip of keys at a time, with the poison rule.
 *
 * The meaning is that of the reference interpreter: an index out of range or an integer division by zero is
 * poison, which spreads through every operation except `and`, `or` (a decisive side settles them) and `where`
 * (the side not taken is dropped). Nodes that do not depend on the key are evaluated once a row, those that
 * do not depend on the query once a strip. Nothing here evaluates source text, so a security policy may
 * forbid that. Invariant: `poison` of a node is meant only while its `poisoned` is true. */
const SaccadeProgram = (() => {
  const { exact, wide, bool, floats, compare, conversion } = SaccadeArithmetic;

  const WIDTH = 256; // keys of a strip

  const STORED = { bool: Uint8Array, int64: Float64Array, float32: Float32Array, float64: Float64Array };
  const SPECIAL = { inf: Infinity, "-inf": -Infinity, nan: NaN };
  const REDUCTIONS = new Set(["sum", "max", "min"]);

  // What a node reads, in bits
  const [HEAD, QUERY, KEY, SCORE] = [1, 2, 4, 8];
  const VARIABLES = { b: HEAD, h: HEAD, q_idx: QUERY, kv_idx: KEY, score: SCORE };

  class Node {
    constructor(data, index, args, integers) {
      this.op = data.op;
      this.dtype = data.dtype;
      this.attr = data.attr;
      this.text = data.text;
      this.args = args;
      this.site = index + 1; // its name among the causes of poison
      this.kind = data.dtype === "int64" ? integers : data.dtype.startsWith("float") ? "float" : "bool";
      const own = data.op === "var" ? VARIABLES[data.attr] : 0;
      this.reads = args.reduce((reads, arg) => reads | arg.reads, own);
      this.axes = new Set(args.flatMap((arg) => [...arg.axes]));
      if (data.op === "axis") this.axes.add(data.attr);
      if (REDUCTIONS.has(data.op)) this.axes.delete(data.attr[0]);
      this.stride = this.reads & KEY ? 1 : 0; // one value for the whole strip, or one a key
      this.values = new (this.kind === "wide" ? BigInt64Array : STORED[data.dtype])(this.stride ? WIDTH : 1);
      this.poison = null; // per value: 0, or the site to blame
      this.poisoned = false;
      this.fault = null; // what a load or division met first: {dim, index}
      this.apply = null; // (count) => void: values and poison from those of the arguments
    }

    poisonAt(i) {
      return this.poisoned ? this.poison[this.stride * i] : 0;
    }

    clean() {
      this.poison ??= new Int32Array(this.values.length);
      this.poison.fill(0);
      this.poisoned = true;
    }

    blame(i, fault) {
      if (!this.poisoned) this.clean();
      if (this.poison[i]) return;
      this.poison[i] = this.site;
      this.fault ??= fault;
    }
  }

  /* Poison of an op that needs all its arguments: that of the first argument which has one. */
  function spread(node, args, count) {
    node.poisoned = false;
    for (const arg of args) {
      if (!arg.poisoned) continue;
      if (!node.poisoned) node.clean();
      for (let i = 0; i < count; i++) node.poison[i] ||= arg.poison[arg.stride * i];
    }
  }

  // How nodes are applied: each of these makes a node's `apply`

  const unary = (f) => (node, [a]) => (count) => {
    const [out, x, s] = [node.values, a.values, a.stride];
    for (let i = 0; i < count; i++) out[i] = f(x[s * i]);
    spread(node, node.args, count);
  };

  const binary = (f) => (node, [a, b]) => (count) => {
    const [out, x, s, y, t] = [node.values, a.values, a.stride, b.values, b.stride];
    for (let i = 0; i < count; i++) out[i] = f(x[s * i], y[t * i]);
    spread(node, node.args, count);
  };

  /* Integer division: a divisor of 0 is poison. */
  const division = (f) => (node, [a, b]) => (count) => {
    const [out, x, s, y, t] = [node.values, a.values, a.stride, b.values, b.stride];
    spread(node, node.args, count);
    for (let i = 0; i < count; i++) {
      if (y[t * i]) {
        out[i] = f(x[s * i], y[t * i]);
      } else {
        out[i] = y[t * i]; // zero, of the right kind
        node.blame(i, {});
      }
    }
  };

  /* `and` and `or` of booleans: an argument that is `decisive`, and not poison, settles the result. */
  const kleene = (f, decisive) => (node, args) => {
    const plain = binary(f)(node, args);
    return (count) => {
      plain(count);
      if (!node.poisoned) return;
      for (let i = 0; i < count; i++) {
        const settles = (arg) => !arg.poisonAt(i) && arg.values[arg.stride * i] === decisive;
        if (!args.some(settles)) continue;
        node.poison[i] = 0;
        node.values[i] = decisive;
      }
    };
  };

  function where(node, [condition, a, b]) {
    return (count) => {
      const [out, c, r] = [node.values, condition.values, condition.stride];
      const [x, s, y, t] = [a.values, a.stride, b.values, b.stride];
      for (let i = 0; i < count; i++) out[i] = c[r * i] ? x[s * i] : y[t * i];
      spread(node, [condition], count);
      if (!a.poisoned && !b.poisoned) return;
      if (!node.poisoned) node.clean();
      for (let i = 0; i < count; i++) node.poison[i] ||= (c[r * i] ? a : b).poisonAt(i);
    };
  }

  function load(node, args, program) {
    const capture = program.captures[node.attr];
    const { shape } = capture;
    const data = capture.as(node.kind);
    const zero = node.kind === "wide" ? 0n : 0;
    return (count) => {
      const out = node.values;
      spread(node, args, count);
      for (let i = 0; i < count; i++) {
        let place = 0;
        for (let dim = 0; dim < shape.length; dim++) {
          const index = Number(args[dim].values[args[dim].stride * i]);
          const wrapped = index < 0 ? index + shape[dim] : index;
          if (!(wrapped >= 0 && wrapped < shape[dim])) {
            node.blame(i, { dim, index });
            place = -1;
            break;
          }
          place = place * shape[dim] + wrapped;
        }
        out[i] = place < 0 ? zero : data[place];
      }
    };
  }

  /* sum, max, min: the steps that read the axis, once for each of its values, joined in order. */
  function reduction(node, [body], program) {
    const [axis, extent] = node.attr;
    const steps = inside(body, axis, node.axes);
    const axes = program.nodes.filter((one) => one.op === "axis" && one.attr === axis);
    const table = tableOf(node);
    const join = { sum: table.add, max: table.maximum, min: table.minimum }[node.op];
    const zero = node.kind === "wide" ? 0n : 0;
    return (count) => {
      const [out, x, s] = [node.values, body.values, body.stride];
      out.fill(zero);
      node.poisoned = false;
      for (let step = 0; step < extent; step++) {
        for (const one of axes) one.values[0] = one.kind === "wide" ? BigInt(step) : step;
        run(steps, count);
        for (let i = 0; i < count; i++) out[i] = step ? join(out[i], x[s * i]) : x[s * i];
        if (!body.poisoned) continue;
        if (!node.poisoned) node.clean();
        for (let i = 0; i < count; i++) node.poison[i] ||= body.poisonAt(i);
      }
    };
  }

  /* The nodes to evaluate at every step of a reduction over `axis`: those that read it, and no other axis
   * that is bound further inside. */
  function inside(body, axis, outer) {
    const order = new Set();
    const visit = (node) => {
      if (!node.axes.has(axis) || order.has(node)) return;
      node.args.forEach(visit);
      order.add(node);
    };
    visit(body);
    return [...order].filter((node) => [...node.axes].every((one) => one === axis || outer.has(one)));
  }

  function run(steps, keys) {
    for (const node of steps) if (node.apply) node.apply(node.stride ? keys : 1);
  }

  function tableOf(node) {
    const kind = node.args[0].kind;
    if (kind !== "float") return { exact, wide, bool }[kind];
    return floats(node.args[0].dtype === "float32" ? Math.fround : (a) => a);
  }

  const same = unary((a) => a);

  /* What evaluates a node; null for one that is set from outside. */
  function compiled(node, program) {
    const [{ op, args }, make] = [node, (how) => how(node, node.args, program)];
    if (["var", "const", "number", "axis"].includes(op)) return null;
    if (op === "load") return make(load);
    if (op === "where") return make(where);
    if (op === "custom") return make(same);
    if (op === "cast") return make(unary(conversion(args[0].kind, node.attr, program.integers)));
    if (REDUCTIONS.has(op)) return make(reduction);
    if (op in compare) return make(binary(compare[op]));
    const f = tableOf(node)[op];
    if (!f) throw new Error(`no meaning for ${op} of ${args.map((arg) => arg.dtype).join(", ")}`);
    if (op === "and" && node.kind === "bool") return make(kleene(f, 0));
    if (op === "or" && node.kind === "bool") return make(kleene(f, 1));
    const divides = op === "floordiv" || (op === "remainder" && node.kind !== "float");
    return make(divides ? division(f) : args.length === 1 ? unary(f) : binary(f));
  }

  class Program {
    /* data: an entry of the page's "programs"; captures: its captured tensors, by slot. */
    constructor(data, captures) {
      this.names = data.names; // of the captures, as the nodes' texts call them
      this.captures = captures;
      this.integers = data.exact ? "exact" : "wide";
      this.nodes = [];
      data.nodes.forEach((one, index) => {
        const args = one.args.map((arg) => this.nodes[arg]);
        this.nodes.push(new Node(one, index, args, this.integers));
      });
      this.root = this.nodes[data.root];
      for (const node of this.nodes) {
        if (node.op === "const") this.put(node, node.attr);
        if (node.op === "number") this.put(node, data.numbers[node.attr]);
        node.apply = compiled(node, this);
      }
      const free = this.nodes.filter((node) => node.axes.size === 0 && node.apply);
      const moves = QUERY | SCORE;
      this.perHead = free.filter((node) => !(node.reads & (moves | KEY)));
      this.perStrip = free.filter((node) => node.reads & KEY && !(node.reads & moves));
      this.perRow = free.filter((node) => node.reads & moves);
      this.inputs = this.nodes.filter((node) => node.op === "var");
    }

    put(node, value) {
      const number = SPECIAL[value] ?? value;
      node.values[0] = node.kind === "wide" ? BigInt(number) : Number(number);
    }

    /* Go to keys k .. k + count - 1 of (b, h); count <= WIDTH. */
    startStrip(b, h, k, count) {
      for (const node of this.nodes) node.fault = null;
      for (const node of this.inputs) {
        if (node.attr === "b") this.put(node, b);
        if (node.attr === "h") this.put(node, h);
        if (node.attr !== "kv_idx") continue;
        for (let i = 0; i < count; i++) node.values[i] = node.kind === "wide" ? BigInt(k + i) : k + i;
      }
      this.count = count;
      run(this.perHead, count);
      run(this.perStrip, count);
    }

    /* Evaluate query q of the strip, for pairs of this score. */
    row(q, score) {
      for (const node of this.inputs) {
        if (node.attr === "q_idx") this.put(node, q);
        if (node.attr === "score") this.put(node, score);
      }
      run(this.perRow, this.count);
    }

    /* Evaluate one pair: after it, `valueOf` and `faultOf` answer for every node outside of reductions. */
    see(b, h, q, k, score) {
      this.pair = [b, h, q, k];
      this.startStrip(b, h, k, 1);
      this.row(q, score);
    }

    valueOf(node) {
      return node.kind === "bool" ? node.values[0] !== 0 : node.values[0];
    }

    /* Why the node has no value at the pair; null where it has one. */
    faultOf(node) {
      const site = this.nodes[node.poisonAt(0) - 1];
      if (!site) return null;
      const [b, h, q, k] = this.pair;
      const at = `at (b=${b}, h=${h}, q_idx=${q}, kv_idx=${k})`;
      if (site.op !== "load") return `expected a divisor other than 0, got 0 in ${site.text} ${at}`;
      const { shape } = this.captures[site.attr];
      const { dim, index } = site.fault;
      const size = `${this.names[site.attr]} has ${shape[dim]} entries in dimension ${dim}`;
      return `${size}, got index ${index} in ${site.text} ${at}`;
    }

    /* Whether the mask shows pairs q0 .. q1 - 1, k0 .. k1 - 1: 0, 1 or 2 (poison), into
     * out[start + row * pitch + column]. */
    fill(b, h, q0, q1, k0, k1, out, start, pitch) {
      const root = this.root;
      for (let k = k0; k < k1; k += WIDTH) {
        const count = Math.min(WIDTH, k1 - k);
        this.startStrip(b, h, k, count);
        for (let q = q0; q < q1; q++) {
          this.row(q, 0);
          const first = start + (q - q0) * pitch + (k - k0);
          for (let i = 0; i < count; i++) {
            out[first + i] = root.poisonAt(i) ? 2 : root.values[root.stride * i];
          }
        }
      }
    }
  }

  return Program;
})();
