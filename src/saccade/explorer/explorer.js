// The state of the page, and the frame in which it is drawn: here camera, canvas and panel meet.

const Explorer = (() => {
  const HALF_LIFE_MS = 45; // of the way a zoom has left

  class Explorer {
    constructor(model, mask, canvas) {
      this.model = model;
      this.mask = mask;
      this.canvas = canvas;
      this.palette = new Palette();
      this.camera = new Camera(mask.q_len, mask.kv_len);
      const context = canvas.getContext("2d");
      this.view = new View(context, model, mask, this.palette);
      this.rulers = new Rulers(context, mask, this.palette);
      // How many batches and heads differ: by their masks, or by what becomes of a score.
      const [b, h] = mask.score === null ? mask.blocks.shape : [mask.batch, mask.heads];
      this.axes = { b, h };
      this.panel = new Panel(model, mask, this.axes);
      this.legend = new Legend(this.view.overview);
      // range: from where to where the colours go, where they stand for scores
      this.state = { b: 0, h: 0, cursor: null, pinned: false, score: 1, range: null };
      this.onCursor = () => {}; // told of each new place of the cursor
      this.onRange = () => {}; // told of the scores that the colours stand for, null without
      this.watch();
    }

    watch() {
      new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
      for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
        matchMedia(query).addEventListener("change", () => {
          this.palette.read();
          this.redraw(true);
        });
      }
      this.still = matchMedia("(prefers-reduced-motion: reduce)");
      this.resize();
    }

    resize() {
      const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
      this.pixels = window.devicePixelRatio || 1;
      this.canvas.width = Math.round(width * this.pixels);
      this.canvas.height = Math.round(height * this.pixels);
      this.origin = this.rulers.room(width);
      this.camera.resize(width - this.origin.x, height - this.origin.y);
      this.redraw();
    }

    /** Draw in the next frame; `afresh` forgets what was drawn in other colours. */
    redraw(afresh = false) {
      if (afresh) this.view.clear();
      this.canvas.dataset.busy = "true";
      if (this.frame) return;
      this.frame = requestAnimationFrame((now) => {
        this.frame = null;
        this.draw(now);
      });
    }

    draw(now) {
      const passed = this.drawnAt === undefined ? 16 : Math.min(64, now - this.drawnAt);
      this.drawnAt = now;
      const moving = this.camera.step(this.still.matches ? 1 : 1 - 0.5 ** (passed / HALF_LIFE_MS));
      const context = this.canvas.getContext("2d");
      context.setTransform(this.pixels, 0, 0, this.pixels, 0, 0);
      context.fillStyle = this.palette.surface;
      context.fillRect(0, 0, this.canvas.width, this.canvas.height);
      const { level, complete } = this.view.draw(this.camera, this.state, this.origin, this.pixels);
      this.rulers.draw(this.camera, this.origin, this.state.cursor);
      this.legend.show(level, this.state);
      this.canvas.dataset.level = level;
      Place.write(this.state, this.camera.pairSize);
      if (moving || !complete) return this.redraw();
      if (this.state.range?.grown) return this.recolourSeen();
      this.onRange(this.state.range);
      this.drawnAt = undefined;
      this.canvas.dataset.busy = "false";
    }

    /** Put the cursor on a pair, as near as the matrix has it; null takes it away. */
    point(cursor) {
      const inside = (index, length) => Math.min(length - 1, Math.max(0, index));
      const next = cursor && { q: inside(cursor.q, this.mask.q_len), k: inside(cursor.k, this.mask.kv_len) };
      const before = this.state.cursor;
      if (next?.q === before?.q && next?.k === before?.k) return;
      this.state.cursor = next;
      this.explain();
    }

    pin(pinned) {
      this.state.pinned = pinned && this.state.cursor !== null;
      this.explain();
    }

    explain() {
      this.panel.show(this.state);
      this.onCursor(this.state.cursor);
      this.redraw();
    }

    /** Choose another batch or head. */
    choose(axis, index) {
      this.state[axis] = index;
      this.recolour(this.state.range !== null);
    }

    /** Change the score, and whether pairs are coloured by what becomes of it. */
    setScore(score, coloured) {
      this.state.score = score;
      this.recolour(coloured);
    }

    recolour(byScore) {
      this.state.range = byScore ? ScoreRange.of(this.model, this.mask, this.state) : null;
      this.view.tiles.clear();
      this.explain();
    }

    /** Draw again what was drawn before all scores in view were known. */
    recolourSeen() {
      this.state.range.grown = false;
      this.view.tiles.clear();
      this.redraw();
    }

    /** The pair below a point of the canvas, null beside the matrix. */
    pairBelow(point) {
      const inView = { x: point.x - this.origin.x, y: point.y - this.origin.y };
      if (inView.x < 0 || inView.y < 0) return null;
      const at = this.camera.pairAt(inView);
      const pair = { q: Math.floor(at.y), k: Math.floor(at.x) };
      const inside = pair.q >= 0 && pair.k >= 0 && pair.q < this.mask.q_len && pair.k < this.mask.kv_len;
      return inside ? pair : null;
    }

    zoomBy(factor, point) {
      this.camera.zoomBy(factor, { x: point.x - this.origin.x, y: point.y - this.origin.y });
      this.redraw();
    }

    /** Zoom where the cursor is, or in the middle without one. */
    zoomAtCursor(factor) {
      const { cursor } = this.state;
      if (cursor) this.camera.reveal({ x: cursor.k, y: cursor.q });
      const place = (axis, index) =>
        cursor ? this.camera.pointOf(axis, index + 0.5) : this.camera.size[axis] / 2;
      this.camera.zoomBy(factor, { x: place("x", cursor?.k), y: place("y", cursor?.q) });
      this.redraw();
    }

    whole() {
      this.camera.whole();
      this.redraw();
    }

    /** Show a pair large enough to read, or at the scale given, and explain it. */
    goTo({ q, k }, pairSize = Math.max(this.camera.pairSize, 24)) {
      this.camera.jump(pairSize, { x: k + 0.5, y: q + 0.5 });
      this.point({ q, k });
      this.redraw();
    }
  }

  return Explorer;
})();
