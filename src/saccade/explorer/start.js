// Puts the page to work: reads the mask, opens the place that the address names.

function start() {
  const mask = JSON.parse(byId("mask").textContent);
  const model = Saccade.load(mask);
  const explorer = new Explorer(model, mask, byId("matrix"));
  const help = byId("keys");
  new Pointer(explorer);
  new Keyboard(explorer, help);
  const open = () => {
    const place = Place.read(mask);
    if (!place) return;
    Object.assign(explorer.state, { b: place.b, h: place.h });
    explorer.recolour();
    explorer.goTo(place, place.zoom ?? undefined);
    explorer.pin(true);
    for (const axis of ["b", "h"]) byId(`choose-${axis}`).value = place[axis];
  };
  const [batches, heads] = mask.score === null ? mask.blocks.shape : [mask.batch, mask.heads];
  offerAxis(explorer, "b", batches);
  offerAxis(explorer, "h", heads);
  offerGoTo(explorer, mask);
  offerScore(explorer, mask);
  offerButtons(explorer, help);
  explorer.panel.show(explorer.state);
  open();
  addEventListener("hashchange", open);
  return explorer;
}

const explorer = start();
