// Which part of the matrix is on screen, and how large. Knows neither a canvas nor a mask.
//
// Places are in pairs (x: keys to the right, y: queries down), sizes in CSS pixels. Each axis has its own
// scale, so that one query beside a million keys is more than a hair; both end at LARGEST, as squares.

const Camera = (() => {
  const LARGEST = 56; // pixels a pair, at most
  const LEAST_SIDE = 0.18; // of the view: what the shorter side of a long matrix takes at least
  const MARGIN = 14; // pixels free beside the whole matrix
  const OVERSCROLL = 28; // pixels more that may be pulled into view beyond an edge

  class Camera {
    constructor(qLen, kvLen) {
      this.lengths = { x: kvLen, y: qLen };
      this.size = { x: 1, y: 1 };
      this.at = { x: 0, y: 0 };
      this.zoom = 1; // times the whole matrix
      this.goal = null; // {zoom, point, pair}: where a zoom is heading, and what stays below the pointer
    }

    resize(width, height) {
      const zoom = this.zoom;
      const middle = this.pairAt({ x: this.size.x / 2, y: this.size.y / 2 });
      this.size = { x: Math.max(1, width), y: Math.max(1, height) };
      this.zoom = Math.min(zoom, this.mostZoom);
      if (this.zoom > 1) this.centre(middle);
      this.clamp();
    }

    /** Pixels a pair on an axis, when the whole matrix is shown. */
    wholeScale(axis) {
      const fitting = (one) => Math.max(1, this.size[one] - MARGIN) / this.lengths[one];
      const scales = { x: fitting("x"), y: fitting("y") };
      return Math.min(LARGEST, Math.max(Math.min(scales.x, scales.y), LEAST_SIDE * scales[axis]));
    }

    get mostZoom() {
      return Math.max(1, LARGEST / Math.min(this.wholeScale("x"), this.wholeScale("y")));
    }

    scaleAt(axis, zoom) {
      return Math.min(LARGEST, this.wholeScale(axis) * zoom);
    }

    scale(axis) {
      return this.scaleAt(axis, this.zoom);
    }

    /** Pixels a pair on the axis where it is smaller. */
    get pairSize() {
      return Math.min(this.scale("x"), this.scale("y"));
    }

    /** The place in the matrix below a point of the view. */
    pairAt(point) {
      return { x: this.at.x + point.x / this.scale("x"), y: this.at.y + point.y / this.scale("y") };
    }

    /** The point of the view where a pair begins. */
    pointOf(axis, place) {
      return (place - this.at[axis]) * this.scale(axis);
    }

    /** First and last index in view on an axis, the last not included. */
    span(axis) {
      const first = Math.max(0, Math.floor(this.at[axis]));
      const last = Math.ceil(this.at[axis] + this.size[axis] / this.scale(axis));
      return [Math.min(first, this.lengths[axis]), Math.min(this.lengths[axis], Math.max(first, last))];
    }

    /** Head for another zoom, the matrix staying still below `point`. */
    zoomBy(factor, point) {
      const zoom = Math.min(this.mostZoom, Math.max(1, (this.goal ? this.goal.zoom : this.zoom) * factor));
      this.goal = { zoom, point, pair: this.pairAt(point) };
    }

    whole() {
      const point = { x: 0, y: 0 };
      this.goal = { zoom: 1, point, pair: this.pairAt(point) };
    }

    /** Be at a zoom at once, where a pair takes that many pixels on the smaller axis. */
    jump(pairSize, middle) {
      const smallest = Math.min(this.wholeScale("x"), this.wholeScale("y"));
      this.goal = null;
      this.zoom = Math.min(this.mostZoom, Math.max(1, pairSize / smallest));
      this.centre(middle);
    }

    centre(middle) {
      for (const axis of ["x", "y"]) this.at[axis] = middle[axis] - this.size[axis] / 2 / this.scale(axis);
      this.clamp();
    }

    panBy(x, y) {
      this.goal = null;
      this.at.x -= x / this.scale("x");
      this.at.y -= y / this.scale("y");
      this.clamp();
    }

    /** Move as little as shows a pair with some room around it. */
    reveal(pair) {
      for (const axis of ["x", "y"]) {
        const scale = this.scale(axis);
        const room = Math.min(40, this.size[axis] / 4) / scale;
        const length = this.size[axis] / scale;
        this.at[axis] = Math.min(pair[axis] - room, Math.max(pair[axis] + 1 + room - length, this.at[axis]));
      }
      this.clamp();
    }

    /** Come nearer to the goal; true while there is way left. `share` of the way, in the logarithm. */
    step(share) {
      if (!this.goal) return false;
      const { zoom, point, pair } = this.goal;
      const way = Math.log(zoom / this.zoom);
      const arrived = Math.abs(way) < 0.004 || share >= 1;
      this.zoom = arrived ? zoom : this.zoom * Math.exp(way * share);
      for (const axis of ["x", "y"]) this.at[axis] = pair[axis] - point[axis] / this.scale(axis);
      this.clamp();
      if (arrived) this.goal = null;
      return !arrived;
    }

    /** Keep the matrix in view: its edges never leave more room than they do around the whole matrix. */
    clamp() {
      for (const axis of ["x", "y"]) {
        const scale = this.scale(axis);
        const whole = this.lengths[axis] * this.wholeScale(axis);
        const room = Math.max(0, this.size[axis] - MARGIN - whole) / 2; // on each side of it
        const over = this.zoom > 1 ? OVERSCROLL : 0;
        const least = -(room + over) / scale;
        const most = this.lengths[axis] - (room + whole - over) / scale;
        this.at[axis] = Math.max(least, Math.min(this.at[axis], most));
      }
    }
  }

  return Camera;
})();
