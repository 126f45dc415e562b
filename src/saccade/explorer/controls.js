// Pointer and keyboard on the canvas: turns what a hand does into moves of the cursor and the camera.

const Controls = (() => {
  const NOTCH = 1.0016; // zoom for each pixel of a wheel
  const KEY_ZOOM = 1.5;
  const CLICK_PIXELS = 4; // a press that moves less is a click

  class Pointer {
    constructor(explorer) {
      this.explorer = explorer;
      this.pressed = new Map(); // pointer -> its latest point; two of them pinch
      this.moved = 0;
      const { canvas } = explorer;
      canvas.addEventListener("pointerdown", (event) => this.press(event));
      canvas.addEventListener("pointermove", (event) => this.move(event));
      canvas.addEventListener("pointerup", (event) => this.release(event));
      canvas.addEventListener("pointercancel", (event) => this.pressed.delete(event.pointerId));
      canvas.addEventListener("pointerleave", (event) => this.leave(event));
      canvas.addEventListener("dblclick", (event) => explorer.zoomBy(KEY_ZOOM ** 3, pointOf(event)));
      canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    }

    press(event) {
      if (event.button > 0) return;
      this.explorer.canvas.setPointerCapture(event.pointerId);
      this.pressed.set(event.pointerId, pointOf(event));
      if (this.pressed.size === 1) this.moved = 0;
    }

    move(event) {
      const { explorer } = this;
      const before = this.pressed.get(event.pointerId);
      if (!before) {
        if (!explorer.state.pinned) explorer.point(explorer.pairBelow(pointOf(event)));
        return;
      }
      const now = pointOf(event);
      const step = { x: now.x - before.x, y: now.y - before.y };
      this.moved += Math.hypot(step.x, step.y);
      if (this.moved < CLICK_PIXELS) return;
      const fingers = this.pressed.size;
      if (fingers === 2) this.pinch(event.pointerId, before, now);
      this.pressed.set(event.pointerId, now);
      explorer.camera.panBy(step.x / fingers, step.y / fingers);
      explorer.canvas.dataset.dragging = "true";
      explorer.redraw();
    }

    /** Two fingers: what is between them grows with their distance; `move` makes it follow them. */
    pinch(moving, before, now) {
      const [other] = [...this.pressed].filter(([id]) => id !== moving).map(([, point]) => point);
      const distance = (point) => Math.max(8, Math.hypot(point.x - other.x, point.y - other.y));
      const middle = { x: (before.x + other.x) / 2, y: (before.y + other.y) / 2 };
      this.explorer.zoomBy(distance(now) / distance(before), middle);
      this.explorer.camera.step(1);
    }

    release(event) {
      const { explorer } = this;
      if (!this.pressed.delete(event.pointerId)) return;
      delete explorer.canvas.dataset.dragging;
      if (this.moved >= CLICK_PIXELS || this.pressed.size) return;
      const pair = explorer.pairBelow(pointOf(event));
      const { cursor, pinned } = explorer.state;
      const again = pinned && pair && cursor.q === pair.q && cursor.k === pair.k;
      explorer.point(pair);
      // A touch has no hover, so that its cursor stays by itself.
      explorer.pin(!again && pair !== null && event.pointerType === "mouse");
    }

    leave(event) {
      // A finger leaves whenever it is lifted, and the keyboard's cursor is not the pointer's to take away.
      const { explorer } = this;
      if (event.pointerType !== "mouse" || document.activeElement === explorer.canvas) return;
      if (!explorer.state.pinned) explorer.point(null);
    }

    wheel(event) {
      event.preventDefault();
      const unit = [1, 33, 400][event.deltaMode];
      const { deltaX, deltaY, shiftKey, ctrlKey } = event;
      if (shiftKey || Math.abs(deltaX) > Math.abs(deltaY)) {
        this.explorer.camera.panBy(-(deltaX || deltaY) * unit, 0);
        this.explorer.redraw();
        return;
      }
      // Browsers tell the pinch of a touchpad as a wheel with Ctrl, in small steps.
      const pixels = Math.max(-240, Math.min(240, deltaY * unit)) * (ctrlKey ? 6 : 1);
      this.explorer.zoomBy(NOTCH ** -pixels, pointOf(event));
    }
  }

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  class Keyboard {
    constructor(explorer, help) {
      this.explorer = explorer;
      this.actions = {
        "+": () => explorer.zoomAtCursor(KEY_ZOOM),
        "=": () => explorer.zoomAtCursor(KEY_ZOOM),
        "-": () => explorer.zoomAtCursor(1 / KEY_ZOOM),
        "_": () => explorer.zoomAtCursor(1 / KEY_ZOOM),
        0: () => explorer.whole(),
        Home: () => explorer.whole(),
        Enter: () => explorer.pin(!explorer.state.pinned),
        " ": () => explorer.pin(!explorer.state.pinned),
        Escape: () => explorer.pin(false),
        "?": () => help.showModal(),
      };
      explorer.canvas.addEventListener("keydown", (event) => this.press(event));
    }

    press(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrow = ARROWS[event.key];
      const action = this.actions[event.key];
      if (!arrow && !action) return;
      event.preventDefault();
      if (arrow) this.step(arrow, event.shiftKey);
      else action();
    }

    /** Move the cursor by a pair, or by a block; without one, begin in the middle of the view. */
    step([down, right], byBlock) {
      const { camera, state, mask } = this.explorer;
      const middle = (axis) => camera.span(axis).reduce((first, last) => (first + last) >> 1);
      const cursor = state.cursor || { q: middle("y"), k: middle("x") };
      const size = byBlock ? { q: mask.blocks.q_block, k: mask.blocks.kv_block } : { q: 1, k: 1 };
      const first = state.cursor === null;
      this.explorer.point({
        q: cursor.q + (first ? 0 : down * size.q),
        k: cursor.k + (first ? 0 : right * size.k),
      });
      camera.reveal({ x: state.cursor.k, y: state.cursor.q });
    }
  }

  /** Where on the canvas an event is. */
  function pointOf(event) {
    const box = event.currentTarget.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  return { Pointer, Keyboard, KEY_ZOOM };
})();
