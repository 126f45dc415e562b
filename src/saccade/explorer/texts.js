// How numbers, scores and tokens are written, in the panel as on the rulers; and elements that hold a text.

const Texts = (() => {
  const SIGNS = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
  // Controls, soft hyphens, marks of direction, spaces of no width. Joiners stay: they shape letters.
  const UNSEEN = /[\p{Cc}\p{Zl}\p{Zp}\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]/gu;
  const JOINERS = /^[\u200c\u200d]+$/;
  const OUTER_SPACES = /^\p{Zs}+|\p{Zs}+$/gu;
  const LETTER_UNITS = 16; // UTF-16 units looked at for each letter: a flag has 4, a family 11

  const segmenter = new Intl.Segmenter();

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
  function score(value) {
    if (value === Infinity) return "∞";
    if (value === -Infinity) return "−∞";
    return String(Number(value.toPrecision(5))).replace("-", "−");
  }

  /** A token's text with what would not be seen made visible. */
  function token(text) {
    if (text === "") return "∅";
    const signed = text.replace(UNSEEN, (letter) => SIGNS[letter] ?? named(letter));
    if (JOINERS.test(signed)) return Array.from(signed, named).join("");
    return signed.replace(OUTER_SPACES, (spaces) => "␣".repeat(spaces.length));
  }

  function named(letter) {
    return `⟨U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  }

  /** The first letters of a text, as readers count them, without a look at the rest. */
  function letters(text, most) {
    const start = text.slice(0, LETTER_UNITS * most);
    return Array.from(segmenter.segment(start), ({ segment }) => segment).slice(0, most);
  }

  /** A text of at most so many letters, its end told by an ellipsis. */
  function cut(text, most) {
    const start = letters(text, most).join("");
    return start === text ? text : `${start}…`;
  }

  return { element, number, score, token, letters, cut };
})();
