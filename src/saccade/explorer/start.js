// Puts the page to work: reads the mask, opens the place that the address names.

const explorer = (() => {
  const mask = JSON.parse(document.getElementById("mask").textContent);
  const explorer = new Explorer(Saccade.load(mask), mask, document.getElementById("matrix"));
  const help = document.getElementById("keys");
  const open = () => {
    const { b, h, cursor, zoom, pinned } = Place.read(mask);
    for (const [axis, index] of [["b", b], ["h", h]]) {
      if (index === null && cursor === null) continue;
      explorer.choose(axis, index ?? 0);
      document.getElementById(`choose-${axis}`).value = index ?? 0;
    }
    if (cursor === null) return;
    explorer.goTo(cursor, zoom ?? undefined);
    explorer.pin(pinned);
  };
  new Controls.Pointer(explorer);
  new Controls.Keyboard(explorer, help);
  Options.offer(explorer, help);
  explorer.panel.show(explorer.state);
  open();
  addEventListener("hashchange", open);
  return explorer;
})();
