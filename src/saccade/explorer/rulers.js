// The two rulers: numbers, the texts of tokens where there is room for them, and where the cursor is.

const Rulers = (() => {
  const TOKENS_FROM = 14; // pixels a pair, from which its token is written
  const ROOM = { numbers: 76, tokens: 132, narrow: 96 }; // pixels beside the matrix
  const ABOVE = { numbers: 44, tokens: 98, narrow: 82 };
  const CORNER = 9; // pixels of it that the first label may cover
  const NAMES = 68; // pixels of it that hold the names of the axes
  const MOST_LETTERS = 64; // of a token that are looked at
  const FONT = '12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", sans-serif';

  class Rulers {
    constructor(context, mask, palette) {
      this.context = context;
      this.palette = palette;
      this.lengths = { x: mask.kv_len, y: mask.q_len };
      this.tokens = { x: mask.kv_tokens, y: mask.tokens };
      this.fitted = { x: new Map(), y: new Map() }; // index -> {room, text}
    }

    /** Room for the ruler above the matrix (y) and for the one beside it (x). */
    room(width) {
      const named = this.tokens.x || this.tokens.y;
      const kind = !named ? "numbers" : width < 560 ? "narrow" : "tokens";
      const digits = Texts.number(this.lengths.y).length;
      return { x: Math.max(ROOM[kind], 20 + 7 * digits), y: ABOVE[kind] };
    }

    draw(camera, origin, cursor) {
      const { context, palette } = this;
      // They stand at the matrix's edge, and at the view's where that edge is out of it.
      const [x, y] = ["x", "y"].map((axis) => Math.max(0, Math.round(camera.pointOf(axis, 0))));
      this.shift = { x, y };
      context.fillStyle = palette.surface;
      context.fillRect(0, 0, origin.x + camera.size.x, origin.y + y);
      context.fillRect(0, 0, origin.x + x, origin.y + camera.size.y);
      context.save();
      context.translate(x, y);
      context.font = FONT;
      context.textBaseline = "middle";
      for (const axis of ["x", "y"]) {
        context.save();
        context.beginPath();
        // The first label may reach a little over the corner.
        if (axis === "x") context.rect(origin.x - CORNER, 0, camera.size.x + CORNER, origin.y);
        else context.rect(0, origin.y - CORNER, origin.x, camera.size.y + CORNER);
        context.clip();
        this.drawTicks(axis, camera, origin, cursor);
        context.restore();
      }
      context.fillStyle = palette.quiet;
      context.textAlign = "left";
      context.fillText("keys →", 9, 14);
      context.fillText("queries ↓", 9, 31);
      context.restore();
    }

    drawTicks(axis, camera, origin, cursor) {
      const named = this.tokens[axis] !== null && camera.scale(axis) >= TOKENS_FROM;
      const step = named ? 1 : this.step(axis, camera.scale(axis));
      const [first, last] = camera.span(axis);
      const here = cursor ? (axis === "x" ? cursor.k : cursor.q) : null;
      const chip = here === null ? null : this.chip(axis, here, camera, origin, named);
      for (let index = Math.ceil(first / step) * step; index < last; index += step) {
        const at = this.middle(axis, index, camera, origin);
        // The cursor's own label lies over its neighbours; nothing may show from under it.
        const reach = this.reach(axis, named, index);
        if (chip && Math.abs(at - chip.at) < chip.room + reach) continue;
        // Nor may one lie over the names in the corner.
        if (at < origin[axis] - 1 || (axis === "x" && at - reach < NAMES)) continue;
        this.mark(axis, index, at, origin, named, this.palette.quiet);
      }
      if (chip) this.drawChip(axis, here, chip, origin, named);
    }

    middle(axis, index, camera, origin) {
      return origin[axis] + camera.pointOf(axis, index + 0.5) - this.shift[axis];
    }

    /** Half of what a label takes along its ruler. */
    reach(axis, named, index) {
      if (axis === "y" || named) return 5;
      return this.context.measureText(Texts.number(index)).width / 2 + 2;
    }

    /** How many indices lie between two numbers: 1, 2 or 5 times a power of ten. */
    step(axis, scale) {
      const widest = this.context.measureText(Texts.number(this.lengths[axis] - 1)).width;
      const least = (axis === "x" ? widest + 13 : 20) / scale;
      const power = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
      return Math.max(1, [1, 2, 5, 10].map((times) => times * power).find((step) => step >= least));
    }

    mark(axis, index, at, origin, named, colour) {
      const { context, palette } = this;
      context.fillStyle = palette.line;
      if (axis === "x") context.fillRect(Math.round(at), origin.y - 5, 1, 4);
      else context.fillRect(origin.x - 5, Math.round(at), 4, 1);
      this.write(axis, index, at, origin, named, colour);
    }

    write(axis, index, at, origin, named, colour) {
      const { context, palette } = this;
      const number = Texts.number(index);
      if (!named) {
        context.fillStyle = colour;
        context.textAlign = axis === "x" ? "center" : "right";
        context.fillText(number, axis === "x" ? at : origin.x - 9, axis === "x" ? origin.y - 14 : at);
        return;
      }
      // Along the line away from the matrix: the token, then its number.
      context.save();
      context.translate(axis === "x" ? at : origin.x - 9, axis === "x" ? origin.y - 9 : at);
      if (axis === "x") context.rotate(-Math.PI / 2);
      const room = (axis === "x" ? origin.y : origin.x) - 14;
      const width = context.measureText(number).width;
      context.textAlign = axis === "x" ? "left" : "right";
      context.fillStyle = colour === palette.quiet ? palette.ink : colour;
      context.fillText(this.token(axis, index, room - width - 10), 0, 0);
      context.textAlign = axis === "x" ? "right" : "left";
      context.fillStyle = colour;
      context.fillText(number, axis === "x" ? room : -room, 0);
      context.restore();
    }

    /** Where the cursor's label lies, and half of what it takes along the ruler. */
    chip(axis, index, camera, origin, named) {
      const at = this.middle(axis, index, camera, origin);
      if (axis === "y" || named) return { at, room: Math.max(9, Math.min(14, camera.scale(axis) / 2)) };
      return { at, room: this.context.measureText(Texts.number(index)).width / 2 + 7 };
    }

    drawChip(axis, index, { at, room }, origin, named) {
      const { context, palette } = this;
      context.fillStyle = palette.accent;
      context.beginPath();
      if (axis === "x") {
        const height = named ? origin.y - 4 : 20;
        context.roundRect(at - room, origin.y - height - 3, 2 * room, height, 5);
      } else {
        const width = named ? origin.x - 4 : this.context.measureText(Texts.number(index)).width + 14;
        context.roundRect(origin.x - width - 3, at - room, width, 2 * room, 5);
      }
      context.fill();
      this.write(axis, index, at, origin, named, palette.reverse);
    }

    /** A token cut to a width, its end told by an ellipsis. */
    token(axis, index, room) {
      const known = this.fitted[axis].get(index);
      if (known?.room === room) return known.text;
      const text = this.fit(this.tokens[axis][index], room);
      this.fitted[axis].set(index, { room, text });
      return text;
    }

    fit(token, room) {
      const fits = (text) => this.context.measureText(text).width <= room;
      const whole = Texts.token(Texts.cut(token, MOST_LETTERS));
      if (fits(whole)) return whole;
      const letters = Texts.letters(whole, MOST_LETTERS);
      const start = (count) => `${letters.slice(0, count).join("")}…`;
      let [least, most] = [0, letters.length];
      while (least < most) {
        const middle = Math.ceil((least + most) / 2);
        if (fits(start(middle))) least = middle;
        else most = middle - 1;
      }
      return start(least);
    }
  }

  return Rulers;
})();
