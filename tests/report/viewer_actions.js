// Appended to a report by test_page.py: does what a reader does and writes down what came of it.
"use strict";
window.onerror = (error) => {
  document.getElementById("result").textContent = JSON.stringify({ error });
};
window.addEventListener("load", () => setTimeout(async () => {
  const root = document.getElementById("viewer");
  const part = (role) => root.querySelector(`[data-role="${role}"]`);
  const canvas = part("canvas");
  const grey = (x, y) => Array.from(canvas.getContext("2d").getImageData(
    Math.round(x * canvas.width), Math.round(y * canvas.height), 1, 1).data);
  const fire = (element, type, value) => {
    element.value = value;
    element.dispatchEvent(new Event(type, { bubbles: true }));
  };
  const pointer = (type, x, y) => {
    const box = canvas.getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    canvas.dispatchEvent(new PointerEvent(type, { ...at, bubbles: true, pointerId: 1 }));
  };
  const drag = (from, to) => {
    pointer("pointerdown", from, 0.5);
    pointer("pointermove", to, 0.5);
    pointer("pointerup", to, 0.5);
  };
  const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  const out = {};
  const take = async (name) => {
    while (!root.dataset.drawn) await new Promise((done) => setTimeout(done, 5));
    out[name] = { l: grey(0.1, 0.9), r: grey(0.9, 0.9), ...root.dataset };
  };
  // Made events have no live pointer that could be captured.
  canvas.setPointerCapture = () => {};

  await take("start");
  fire(part("wipe"), "input", 950); await take("wiped");
  fire(part("wipe"), "input", 500);
  fire(part("slice"), "input", 3);
  fire(part("left"), "change", 1); await take("left_output");
  part("presets").querySelector('[data-preset="lung"]').click(); await take("lung");
  part("centre").value = 140;
  fire(part("width"), "input", 200); await take("typed");
  part("zoom-in").click(); await take("zoomed");
  drag(0.2, 0.3); await take("panned");
  part("fit").click(); await take("fit");
  drag(0.5, 0.25); await take("dragged");
  pointer("pointermove", 0.8, 0.5);
  out.readout = part("readout").textContent;
  const box = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new WheelEvent("wheel", {
    deltaY: -1, ctrlKey: true, clientX: box.left, clientY: box.top, cancelable: true,
  }));
  await take("wheel");
  key("0"); key("ArrowUp"); key("ArrowRight"); await take("keys");
  for (const [role, value] of [["row", 3], ["column", 5], ["side", 16]]) {
    part(`square-${role}`).value = value;
  }
  fire(part("square-side"), "change", 16);
  await take("square");
  out.numbers = [...part("statistics").tBodies[0].rows].map(
    (row) => [...row.cells].slice(1).map((cell) => Number(cell.dataset.value)));
  out.curves = JSON.parse(part("spectra").dataset.curves);
  out.labels = ["left-label", "right-label", "slice-label"].map((r) => part(r).textContent);
  out.shape = [canvas.width / canvas.height, part("left").options.length];
  document.getElementById("result").textContent = JSON.stringify(out);
}, 200));
