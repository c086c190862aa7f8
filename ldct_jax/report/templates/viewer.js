"use strict";
(() => {
  const root = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const [slices, height, width] = data.shape;
  const part = (role) => root.querySelector(`[data-role="${role}"]`);
  const stacks = data.pixels.map((text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Int16Array.from({ length: bytes.length / 2 }, (_, i) => view.getInt16(2 * i, true));
  });
  const first = Object.values(data.presets)[0];
  const state = {
    left: 0, right: data.labels.length - 1, slice: slices >> 1, wipe: 0.5,
    low: first[0], high: first[1],
    // The image's point (x, y) in pixels that lies in the middle of the canvas, at this zoom.
    zoom: 1, x: width / 2, y: height / 2,
  };
  const canvas = part("canvas"), context = canvas.getContext("2d");
  const cache = new Map();

  // One image at the present window, as a canvas of the image's own size.
  function windowed(stack) {
    const key = [stack, state.slice, state.low, state.high].join();
    const kept = cache.get(stack);
    if (kept && kept.key === key) return kept.image;
    const image = document.createElement("canvas");
    image.width = width;
    image.height = height;
    const pixels = new ImageData(width, height);
    const offset = state.slice * width * height;
    const scale = 255 / (state.high - state.low);
    for (let i = 0; i < width * height; i++) {
      // Uint8ClampedArray rounds and cuts at 0 and 255.
      const grey = (stacks[stack][offset + i] - state.low) * scale;
      pixels.data[4 * i] = pixels.data[4 * i + 1] = pixels.data[4 * i + 2] = grey;
      pixels.data[4 * i + 3] = 255;
    }
    image.getContext("2d").putImageData(pixels, 0, 0);
    cache.set(stack, { key, image });
    return image;
  }

  const scale = () => (state.zoom * canvas.width) / width;
  const border = () => Math.round(state.wipe * canvas.width);

  function draw() {
    const s = scale();
    const left = canvas.width / 2 - state.x * s, top = canvas.height / 2 - state.y * s;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    // Enlarged pixels stay squares; a smaller picture is averaged.
    context.imageSmoothingEnabled = s < 1;
    for (const [stack, from, to] of [[state.left, 0, border()], [state.right, border(), canvas.width]]) {
      context.save();
      context.beginPath();
      context.rect(from, 0, to - from, canvas.height);
      context.clip();
      context.drawImage(windowed(stack), left, top, width * s, height * s);
      context.restore();
    }
    context.fillStyle = "#ffd400";
    context.fillRect(border() - 1, 0, 2, canvas.height);
    part("left").value = state.left;
    part("right").value = state.right;
    part("left-label").textContent = data.labels[state.left];
    part("right-label").textContent = data.labels[state.right];
    part("wipe").value = Math.round(1000 * state.wipe);
    part("slice").value = state.slice;
    part("slice-label").textContent = `${data.slices[state.slice]} of ${data.of}`;
    part("zoom").textContent = `${Math.round(100 * state.zoom)} %`;
    for (const [role, value] of [["centre", (state.low + state.high) / 2], ["width", state.high - state.low]]) {
      if (document.activeElement !== part(role)) part(role).value = value;
    }
    for (const button of part("presets").children) {
      const [low, high] = data.presets[button.dataset.preset];
      button.setAttribute("aria-pressed", String(low === state.low && high === state.high));
    }
    for (const key of ["left", "right", "slice", "wipe", "low", "high", "zoom", "x", "y"]) {
      root.dataset[key] = state[key];
    }
  }

  function set(change) {
    Object.assign(state, change);
    state.slice = Math.min(slices - 1, Math.max(0, state.slice));
    state.wipe = Math.min(1, Math.max(0, state.wipe));
    state.zoom = Math.min(16, Math.max(1, state.zoom));
    // Half the visible part stays inside the image.
    const half = 0.5 / state.zoom;
    state.x = Math.min(width * (1 - half), Math.max(width * half, state.x));
    state.y = Math.min(height * (1 - half), Math.max(height * half, state.y));
    draw();
  }

  // A pointer event's place in canvas pixels and in image pixels.
  function place(event) {
    const box = canvas.getBoundingClientRect();
    const cx = ((event.clientX - box.left) * canvas.width) / box.width;
    const cy = ((event.clientY - box.top) * canvas.height) / box.height;
    return { cx, cy, x: state.x + (cx - canvas.width / 2) / scale(), y: state.y + (cy - canvas.height / 2) / scale() };
  }

  function zoomAt(factor, at) {
    const zoom = Math.min(16, Math.max(1, state.zoom * factor));
    const keep = state.zoom / zoom;
    set({ zoom, x: at.x + (state.x - at.x) * keep, y: at.y + (state.y - at.y) * keep });
  }

  data.labels.forEach((label, i) => {
    for (const role of ["left", "right"]) part(role).add(new Option(label, i));
  });
  for (const [name, [low, high]] of Object.entries(data.presets)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.dataset.preset = name;
    button.title = `${low} to ${high} HU`;
    button.addEventListener("click", () => set({ low, high }));
    part("presets").append(button);
  }
  part("slice").max = slices - 1;
  for (const role of ["left", "right"]) {
    part(role).addEventListener("change", (e) => set({ [role]: Number(e.target.value) }));
  }
  for (const role of ["centre", "width"]) {
    part(role).addEventListener("input", () => {
      const centre = part("centre").valueAsNumber, span = part("width").valueAsNumber;
      if (Number.isFinite(centre) && span >= 1) set({ low: centre - span / 2, high: centre + span / 2 });
    });
  }
  part("wipe").addEventListener("input", (e) => set({ wipe: e.target.value / 1000 }));
  part("slice").addEventListener("input", (e) => set({ slice: Number(e.target.value) }));
  part("zoom-in").addEventListener("click", () => zoomAt(1.5, state));
  part("zoom-out").addEventListener("click", () => zoomAt(1 / 1.5, state));
  part("fit").addEventListener("click", () => set({ zoom: 1 }));

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    const at = place(event);
    const near = (24 * canvas.width) / canvas.getBoundingClientRect().width;
    drag = { at, wipe: state.zoom === 1 || Math.abs(at.cx - border()) < near };
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (drag && drag.wipe) set({ wipe: at.cx / canvas.width });
    else if (drag) set({ x: state.x + drag.at.x - at.x, y: state.y + drag.at.y - at.y });
    const column = Math.floor(at.x), row = Math.floor(at.y);
    if (row < 0 || column < 0 || row >= height || column >= width) return;
    const index = (state.slice * height + row) * width + column;
    const values = data.labels.map((label, i) => `${label} ${stacks[i][index]} HU`);
    part("readout").textContent = `row ${row}, column ${column}: ${values.join(" · ")}`;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(event.deltaY < 0 ? 1.2 : 1 / 1.2, place(event));
  }, { passive: false });
  const keys = {
    ArrowLeft: () => set({ wipe: state.wipe - 0.02 }), ArrowRight: () => set({ wipe: state.wipe + 0.02 }),
    ArrowUp: () => set({ slice: state.slice - 1 }), ArrowDown: () => set({ slice: state.slice + 1 }),
    "+": () => zoomAt(1.5, state), "=": () => zoomAt(1.5, state), "-": () => zoomAt(1 / 1.5, state),
    0: () => set({ zoom: 1 }),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.round((canvas.width * height) / width);
    draw();
  }
  new ResizeObserver(resize).observe(canvas.parentElement);
  resize();
})();
