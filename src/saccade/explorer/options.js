// The boxes and buttons beside the canvas: batch and head, go to a pair, colours by score, zoom, keys.

const byId = (name) => document.getElementById(name);

/** A choice of batch or head, shown where there is more than one. */
function offerAxis(explorer, axis, count) {
  const select = byId(`choose-${axis}`);
  select.closest("label").hidden = count < 2;
  select.append(...Array.from({ length: count }, (_, index) => new Option(number(index), index)));
  select.value = explorer.state[axis];
  select.addEventListener("change", () => explorer.choose(axis, Number(select.value)));
}

function offerGoTo(explorer, mask) {
  const boxes = { q: byId("go-q"), k: byId("go-k") };
  boxes.q.max = mask.q_len - 1;
  boxes.k.max = mask.kv_len - 1;
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

function offerScore(explorer, mask) {
  byId("score").hidden = mask.score === null;
  if (mask.score === null) return;
  const [coloured, box, slider] = [byId("coloured"), byId("score-value"), byId("score-slider")];
  const change = (from, to) => {
    if (!Number.isFinite(from.valueAsNumber)) return;
    to.value = from.value;
    explorer.setScore(from.valueAsNumber, coloured.checked);
  };
  box.addEventListener("input", () => change(box, slider));
  slider.addEventListener("input", () => change(slider, box));
  coloured.addEventListener("change", () => explorer.setScore(explorer.state.score, coloured.checked));
}

function offerButtons(explorer, help) {
  byId("zoom-in").addEventListener("click", () => explorer.zoomAtCursor(KEY_ZOOM));
  byId("zoom-out").addEventListener("click", () => explorer.zoomAtCursor(1 / KEY_ZOOM));
  byId("zoom-whole").addEventListener("click", () => explorer.whole());
  byId("show-keys").addEventListener("click", () => help.showModal());
  byId("close-keys").addEventListener("click", () => help.close());
}
