// The colours of the canvas, read from the style sheet, so that light and dark are told apart in one place.

const Palette = (() => {
  const KINDS = ["empty", "partial", "full"];
  const STEPS = 256; // shades of a share, and of a score

  class Palette {
    /** The kinds of blocks, as the model counts them. */
    static KINDS = KINDS;

    constructor() {
      this.read();
    }

    /** A canvas of its own, a pixel for each colour that `colourAt(x, y)` gives as [red, green, blue]. */
    static bitmap(width, height, colourAt) {
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      for (let y = 0, place = 0; y < height; y++) {
        for (let x = 0; x < width; x++, place += 4) {
          const colour = colourAt(x, y);
          image.data[place] = colour[0];
          image.data[place + 1] = colour[1];
          image.data[place + 2] = colour[2];
          image.data[place + 3] = 255;
        }
      }
      context.putImageData(image, 0, 0);
      return canvas;
    }

    /** Take the colours from the style sheet again: after the reader's preference has changed. */
    read() {
      const style = getComputedStyle(document.documentElement);
      const colour = (name) => style.getPropertyValue(`--${name}`).trim();
      for (const name of ["ink", "quiet", "line", "surface", "accent", "reverse", "poison"]) {
        this[name] = colour(name);
      }
      this.kinds = KINDS.map(colour);
      const hidden = [colour("empty"), colour("partial-hidden"), colour("empty")];
      this.bytes = {
        visible: this.kinds.map(bytesOf),
        hidden: hidden.map(bytesOf),
        poison: bytesOf(this.poison),
      };
      this.shares = shades([colour("share-least"), colour("full")]);
      this.scores = shades([0, 1, 2, 3, 4].map((step) => colour(`score-${step}`)));
    }

    /** The shade of a share of visible pairs: that of an empty block where there is none. */
    share(share) {
      return share ? this.shares[Math.round(share * (STEPS - 1))] : this.bytes.hidden[0];
    }

    /** The shade of a score between the lowest and the highest, as [red, green, blue]. */
    score(value, low, high) {
      const part = high > low ? (value - low) / (high - low) : 1;
      return this.scores[Math.round(Math.min(1, Math.max(0, part)) * (STEPS - 1))];
    }
  }

  /** `#rrggbb` as three numbers. */
  function bytesOf(colour) {
    const number = parseInt(colour.slice(1), 16);
    return [number >> 16, (number >> 8) & 255, number & 255];
  }

  /** A ramp of STEPS shades through the colours given. */
  function shades(colours) {
    const stops = colours.map(bytesOf);
    return Array.from({ length: STEPS }, (_, step) => {
      const place = (step / (STEPS - 1)) * (stops.length - 1);
      const before = Math.min(Math.floor(place), stops.length - 2);
      const after = stops[before + 1];
      return stops[before].map((byte, at) => Math.round(byte + (place - before) * (after[at] - byte)));
    });
  }

  return Palette;
})();
