// The boxes and buttons beside the canvas: batch and head, go to a pair, colours by score, zoom, keys.

const Options = (() => {
  const byId = (name) => document.getElementById(name);

  function offer(explorer, help) {
    for (const axis of ["b", "h"]) offerAxis(explorer, axis);
    offerGoTo(explorer);
    if (explorer.mask.score !== null) offerScore(explorer);
    offerButtons(explorer, help);
  }

  /** A choice of batch or head, shown where they differ. */
  function offerAxis(explorer, axis) {
    const select = byId(`choose-${axis}`);
    const count = explorer.axes[axis];
    select.closest("label").hidden = count < 2;
    select.append(...Array.from({ length: count }, (_, index) => new Option(Texts.number(index), index)));
    select.addEventListener("change", () => explorer.choose(axis, Number(select.value)));
  }

  function offerGoTo(explorer) {
    const boxes = { q: byId("go-q"), k: byId("go-k") };
    boxes.q.max = explorer.mask.q_len - 1;
    boxes.k.max = explorer.mask.kv_len - 1;
    byId("go").addEventListener("submit", (event) => {
      event.preventDefault();
      explorer.goTo({ q: boxes.q.valueAsNumber, k: boxes.k.valueAsNumber });
      explorer.pin(true);
    });
    explorer.onCursor = (cursor) => {
      for (const [name, box] of Object.entries(boxes)) {
        if (cursor && document.activeElement !== box) box.value = cursor[name];
      }
    };
  }

  function offerScore(explorer) {
    byId("score").hidden = false;
    const [coloured, box, slider] = [byId("coloured"), byId("score-value"), byId("score-slider")];
    const change = (from, to) => {
      if (!Number.isFinite(from.valueAsNumber)) return;
      to.value = from.value;
      explorer.setScore(from.valueAsNumber, coloured.checked);
    };
    box.addEventListener("input", () => change(box, slider));
    slider.addEventListener("input", () => change(slider, box));
    coloured.addEventListener("change", () => explorer.setScore(explorer.state.score, coloured.checked));
    explorer.onRange = (range) => {
      byId("no-scores").hidden = !range?.empty;
    };
  }

  function offerButtons(explorer, help) {
    byId("zoom-in").addEventListener("click", () => explorer.zoomAtCursor(Controls.KEY_ZOOM));
    byId("zoom-out").addEventListener("click", () => explorer.zoomAtCursor(1 / Controls.KEY_ZOOM));
    byId("zoom-whole").addEventListener("click", () => explorer.whole());
    byId("show-keys").addEventListener("click", () => help.showModal());
    byId("close-keys").addEventListener("click", () => help.close());
  }

  return { offer };
})();
