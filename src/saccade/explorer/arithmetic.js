"use strict";
/* What each operation does to single values: the tables that programs are compiled from.
 *
 * A value is a JavaScript number, or a BigInt where a program's integers may pass 2^53 ("wide"); booleans are
 * 0 and 1. Rounding to float32 and wrapping to 64 bits belong to whoever stores a result: a Float32Array and
 * a BigInt64Array do both. Division by an integer zero never comes here: it has no value, which `program.js`
 * knows. Invariant: an integer is never -0, so that no float made of it is. */
const SaccadeArithmetic = (() => {
  const least64 = -(2n ** 63n);

  // Integers that are exact as numbers

  const isInt32 = (a) => (a | 0) === a;
  const bitwise = (small, large) => (a, b) =>
    isInt32(a) && isInt32(b) ? small(a, b) : Number(large(BigInt(a), BigInt(b)));

  const exact = {
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b + 0, // + 0: -0 becomes 0
    floordiv: (a, b) => Math.floor(a / b) + 0,
    remainder: (a, b) => floorRemainder(a, b) + 0,
    neg: (a) => 0 - a,
    abs: Math.abs,
    minimum: (a, b) => (a < b ? a : b),
    maximum: (a, b) => (a > b ? a : b),
    and: bitwise((a, b) => a & b, (a, b) => a & b),
    or: bitwise((a, b) => a | b, (a, b) => a | b),
    xor: bitwise((a, b) => a ^ b, (a, b) => a ^ b),
    not: (a) => -1 - a,
    shl: (a, b) => (b >= 0 && b < 64 ? a * 2 ** b + 0 : 0),
    shr: (a, b) => Math.floor(a / 2 ** (b >= 0 && b < 64 ? b : 63)) + 0,
  };

  function floorRemainder(a, b) {
    const rest = a % b;
    return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest;
  }

  // Integers modulo 2^64

  const wide = {
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b,
    floordiv: (a, b) => a / b - (a % b !== 0n && a < 0n !== b < 0n ? 1n : 0n),
    remainder: (a, b) => {
      const rest = a % b;
      return rest !== 0n && rest < 0n !== b < 0n ? rest + b : rest;
    },
    neg: (a) => -a,
    abs: (a) => (a < 0n ? -a : a),
    minimum: (a, b) => (a < b ? a : b),
    maximum: (a, b) => (a > b ? a : b),
    and: (a, b) => a & b,
    or: (a, b) => a | b,
    xor: (a, b) => a ^ b,
    not: (a) => ~a,
    shl: (a, b) => (b >= 0n && b < 64n ? a << b : 0n),
    shr: (a, b) => a >> (b >= 0n && b < 64n ? b : 63n),
  };

  const bool = {
    and: (a, b) => a & b,
    or: (a, b) => a | b,
    xor: (a, b) => a ^ b,
    not: (a) => 1 - a,
  };

  // Floats; `round` rounds to the node's type between two steps of one operation

  const floats = (round) => ({
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b,
    div: (a, b) => a / b,
    remainder: floatRemainder,
    pow: power,
    neg: (a) => -a,
    abs: Math.abs,
    minimum: (a, b) => (a < b || a !== a ? a : b),
    maximum: (a, b) => (a > b || a !== a ? a : b),
    exp: Math.exp,
    exp2: (a) => 2 ** a,
    expm1: Math.expm1,
    log: Math.log,
    log2: Math.log2,
    log1p: Math.log1p,
    sqrt: Math.sqrt,
    rsqrt: (a) => 1 / round(Math.sqrt(a)),
    sin: Math.sin,
    cos: Math.cos,
    tan: Math.tan,
    atan: Math.atan,
    tanh: Math.tanh,
    sigmoid: (a) => 1 / round(1 + round(Math.exp(-a))),
    erf: errorFunction,
    floor: Math.floor,
    ceil: Math.ceil,
    trunc: Math.trunc,
    round: roundHalfEven,
  });

  function floatRemainder(a, b) {
    const rest = floorRemainder(a, b);
    return rest === 0 ? (b < 0 || Object.is(b, -0) ? -0 : 0) : rest;
  }

  function power(a, b) {
    // IEEE, where JavaScript has NaN.
    if (a === 1 || (a === -1 && Math.abs(b) === Infinity)) return 1;
    return a ** b;
  }

  function roundHalfEven(a) {
    const down = Math.floor(a);
    const rest = a - down;
    const up = rest > 0.5 || (rest === 0.5 && down % 2 !== 0);
    return up ? (down === -1 ? -0 : down + 1) : down;
  }

  /* erf x = 2/sqrt(pi) e^(-x^2) sum over n of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)), all terms of one sign:
   * Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.6. */
  function errorFunction(x) {
    if (!(Math.abs(x) < 6)) return x !== x ? x : Math.sign(x);
    let term = x;
    let sum = x;
    for (let n = 1; sum + term !== sum || n === 1; n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }

  const compare = {
    eq: (a, b) => a === b,
    ne: (a, b) => a !== b,
    lt: (a, b) => a < b,
    le: (a, b) => a <= b,
  };

  // Conversions: from a kind of values ("bool", "exact", "wide", "float") to a stored type

  const wrapped = {
    uint8: (a) => a & 0xff,
    int8: (a) => (a << 24) >> 24,
    int16: (a) => (a << 16) >> 16,
    int32: (a) => a | 0,
    int64: (a) => a,
  };
  const wrappedWide = {
    uint8: (a) => BigInt.asUintN(8, a),
    int8: (a) => BigInt.asIntN(8, a),
    int16: (a) => BigInt.asIntN(16, a),
    int32: (a) => BigInt.asIntN(32, a),
    int64: (a) => a,
  };
  const rounded = { float16: half, bfloat16: brain, float32: Math.fround, float64: (a) => a };

  /* The function that casts; `integers` is the kind that the program's integers are of. */
  function conversion(source, target, integers) {
    if (target === "bool") return source === "wide" ? (a) => a !== 0n : (a) => a !== 0;
    if (target in rounded) {
      const round = rounded[target];
      if (source !== "wide") return round;
      return target === "float64" ? Number : (a) => round(nearest32(a));
    }
    if (integers === "exact") {
      const wrap = wrapped[target];
      return source === "float" ? (a) => wrap(truncated(a)) : wrap;
    }
    const wrap = wrappedWide[target];
    return source === "wide" ? wrap : (a) => wrap(BigInt(truncated(a)));
  }

  /* Towards zero; what no 64-bit integer equals becomes the least one, as on x86. */
  function truncated(a) {
    return a >= -(2 ** 63) && a < 2 ** 63 ? Math.trunc(a) + 0 : Number(least64);
  }

  /* A 64-bit integer to float32, rounded once: the bits that a double would drop are kept as one. */
  function nearest32(a) {
    if (BigInt.asIntN(53, a) === a) return Math.fround(Number(a));
    const sticky = (a & 2047n) === 0n ? 0n : 1n;
    return Math.fround(Number((a >> 11n) | sticky) * 2048);
  }

  const float32 = new Float32Array(1);
  const bits32 = new Uint32Array(float32.buffer);

  /* To float16 and back, from float32. */
  function half(a) {
    float32[0] = a;
    const size = Math.abs(float32[0]);
    if (!(size < 65520)) return size !== size ? float32[0] : Math.sign(a) * Infinity;
    // A float16 of this size is a multiple of this power of two; below 2^-14 of 2^-24.
    const exponent = Math.max((bits32[0] >>> 23) & 0xff, 127 - 14) - 127;
    const unit = 2 ** (exponent - 10);
    return roundHalfEven(float32[0] / unit) * unit;
  }

  /* To bfloat16 and back, from float32: the upper 16 bits, halves to even. */
  function brain(a) {
    float32[0] = a;
    if (a !== a) return a;
    bits32[0] = (bits32[0] + 0x7fff + ((bits32[0] >>> 16) & 1)) & 0xffff0000;
    return float32[0];
  }

  return { exact, wide, bool, floats, compare, conversion };
})();
