function startViewer(root, data) {
  const [slices, height, width] = data.shape;
  const part = (role) => root.querySelector(`[data-role="${role}"]`);
  const get = sliceSource(data, () => draw(), (error) => {
    part("readout").textContent = `This browser can't show the slices: ${error.message}`;
  });
  const only = data.labels.length === 1;
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000"];
  const presets = Object.entries(data.presets);
  const state = {
    left: 0, right: data.labels.length - 1, slice: slices >> 1, wipe: 0.5, mode: "split", tool: "move",
    low: presets[0][1][0], high: presets[0][1][1],
    // The window of the difference, around zero.
    spread: 100,
    // The image's point (x, y) in pixels that lies in the middle of the canvas, at this zoom.
    zoom: 1, x: width / 2, y: height / 2,
    square: null, // {row, column, side} in pixels
  };
  const canvas = part("canvas"), context = canvas.getContext("2d");
  const pictures = new Map();
  let pointed = null; // what place() gave for the pointer's last place
  const difference = () => state.mode === "difference";

  // HU of a whole slice; "difference" is right - left. Null while it is being decoded.
  function hu(stack) {
    if (stack !== "difference") {
      const values = get(stack, state.slice);
      return values && { at: (i) => values[i] * data.step };
    }
    const a = get(state.left, state.slice), b = get(state.right, state.slice);
    return a && b && { at: (i) => (b[i] - a[i]) * data.step };
  }

  // One image at the present window, as a canvas of the image's own size.
  function windowed(stack) {
    const [low, high] = stack === "difference" ? [-state.spread / 2, state.spread / 2] : [state.low, state.high];
    const key = [state.left, state.right, state.slice, low, high].join();
    const kept = pictures.get(stack);
    if (kept && kept.key === key) return kept.image;
    const values = hu(stack);
    if (!values) return null;
    const image = kept ? kept.image : document.createElement("canvas");
    image.width = width;
    image.height = height;
    const pixels = new ImageData(width, height), grey = new Uint32Array(pixels.data.buffer);
    const scale = 255 / (high - low);
    for (let i = 0; i < grey.length; i++) {
      const v = Math.min(255, Math.max(0, Math.round((values.at(i) - low) * scale)));
      grey[i] = 0xff000000 | (v << 16) | (v << 8) | v;
    }
    image.getContext("2d").putImageData(pixels, 0, 0);
    pictures.set(stack, { key, image });
    return image;
  }

  const scale = () => (state.zoom * canvas.width) / width;
  const border = () => Math.round(state.wipe * canvas.width);

  function draw() {
    describe();
    const shown = difference() ? ["difference"] : [...new Set([state.left, state.right])];
    const images = shown.map(windowed);
    if (images.includes(null)) { // the picture before stays until the slice is decoded
      root.dataset.drawn = "";
      return;
    }
    const s = scale();
    const left = canvas.width / 2 - state.x * s, top = canvas.height / 2 - state.y * s;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    // Enlarged pixels stay squares; a smaller picture is averaged.
    context.imageSmoothingEnabled = s < 1;
    const halves = [[images[0], 0, border()], [images.at(-1), border(), canvas.width]];
    for (const [image, from, to] of images.length > 1 ? halves : [[images[0], 0, canvas.width]]) {
      context.save();
      context.beginPath();
      context.rect(from, 0, to - from, canvas.height);
      context.clip();
      context.drawImage(image, left, top, width * s, height * s);
      context.restore();
    }
    context.strokeStyle = context.fillStyle = "#ffd400";
    if (images.length > 1) context.fillRect(border() - 1, 0, 2, canvas.height);
    if (state.square) {
      const { row, column, side } = state.square;
      context.lineWidth = 2;
      context.strokeRect(left + column * s, top + row * s, side * s, side * s);
    }
    measure();
    tell();
    root.dataset.drawn = [state.slice, state.mode, state.left, state.right].join();
    for (const step of [1, -1, 2]) { // those that are likely to come next
      const next = state.slice + step;
      if (next >= 0 && next < slices) for (const stack of [state.left, state.right]) get(stack, next);
    }
  }

  let measured = "";
  // Numbers of the square, where it, the slice or the images are others than before.
  function measure() {
    const key = JSON.stringify([state.square, state.slice, state.left, state.right]);
    if (!state.square || key === measured) return;
    measured = key;
    const { row, column, side } = state.square;
    const cut = (stack) => {
      const values = hu(stack), found = new Float64Array(side * side);
      for (let y = 0, i = 0; y < side; y++) for (let x = 0; x < side; x++, i++) {
        found[i] = values.at((row + y) * width + column + x);
      }
      return found;
    };
    const shown = [...new Set([state.left, state.right])];
    const rows = shown.map((i) => ({ label: data.labels[i], colour: COLOURS[i % COLOURS.length], values: cut(i) }));
    if (shown.length > 1) rows.push({ label: "right − left", colour: "#999999", values: cut("difference") });
    showStatistics(rows, side, data.pixel_mm, part("statistics"), part("spectra"));
  }

  // Everything on the page that says what the state is.
  function describe() {
    part("left").value = state.left;
    part("right").value = state.right;
    part("left-label").textContent = difference() ? "right − left" : data.labels[state.left];
    part("right-label").textContent = difference() || state.left === state.right
      ? "" : data.labels[state.right];
    part("wipe").value = Math.round(1000 * state.wipe);
    part("slice").value = state.slice;
    part("slice-label").textContent = `${data.slices[state.slice]} of ${data.of}`;
    part("zoom").textContent = `${Math.round(100 * state.zoom)} %`;
    const [centre, span] = difference() ? [0, state.spread] : [(state.low + state.high) / 2, state.high - state.low];
    const square = state.square || {};
    const numbers = {
      centre, width: span,
      "square-row": square.row ?? "", "square-column": square.column ?? "", "square-side": square.side ?? "",
    };
    for (const [role, value] of Object.entries(numbers)) {
      if (document.activeElement !== part(role)) part(role).value = value;
    }
    part("centre").disabled = difference();
    const press = (button, on) => button.setAttribute("aria-pressed", String(on));
    for (const button of part("presets").children) {
      const [low, high] = data.presets[button.dataset.preset];
      press(button, !difference() && low === state.low && high === state.high);
    }
    for (const button of part("modes").children) press(button, button.dataset.mode === state.mode);
    for (const button of part("tools").children) press(button, button.dataset.tool === state.tool);
    canvas.dataset.tool = state.tool;
    for (const [key, value] of Object.entries(state)) {
      root.dataset[key] = key === "square" ? JSON.stringify(value) : value;
    }
  }

  const between = (low, value, high) => Math.min(high, Math.max(low, value));

  function set(change) {
    Object.assign(state, change);
    state.slice = between(0, state.slice, slices - 1);
    state.wipe = between(0, state.wipe, 1);
    state.zoom = between(1, state.zoom, 16);
    // Half the visible part stays inside the image.
    const half = 0.5 / state.zoom;
    state.x = between(width * half, state.x, width * (1 - half));
    state.y = between(height * half, state.y, height * (1 - half));
    draw();
  }

  function setWindow(centre, span) {
    if (difference()) set({ spread: Math.max(1, span) });
    else set({ low: centre - Math.max(1, span) / 2, high: centre + Math.max(1, span) / 2 });
  }

  function setSquare(row, column, side) {
    if (![row, column, side].every(Number.isFinite)) return;
    const inside = between(2, Math.round(side), Math.min(width, height));
    set({ square: {
      row: between(0, Math.round(row), height - inside),
      column: between(0, Math.round(column), width - inside),
      side: inside,
    } });
  }

  // A pointer event's place in canvas pixels and in image pixels.
  function place(event) {
    const box = canvas.getBoundingClientRect();
    const cx = ((event.clientX - box.left) * canvas.width) / box.width;
    const cy = ((event.clientY - box.top) * canvas.height) / box.height;
    return { cx, cy, ...onImage(cx, cy) };
  }

  function onImage(cx, cy) {
    return { x: state.x + (cx - canvas.width / 2) / scale(), y: state.y + (cy - canvas.height / 2) / scale() };
  }

  function zoomAt(factor, at) {
    const zoom = between(1, state.zoom * factor, 16), keep = state.zoom / zoom;
    set({ zoom, x: at.x + (state.x - at.x) * keep, y: at.y + (state.y - at.y) * keep });
  }

  data.labels.forEach((label, i) => {
    for (const role of ["left", "right"]) part(role).add(new Option(label, i));
  });
  for (const [name, [low, high]] of presets) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.dataset.preset = name;
    button.title = `${low} to ${high} HU`;
    button.addEventListener("click", () => set({ low, high, mode: "split" }));
    part("presets").append(button);
  }
  part("slice").max = slices - 1;
  part("exactness").textContent = `Values are kept in steps of ${data.step} HU: each pixel is within ${data.step / 2} HU of the image's.`;
  for (const role of ["left", "right", "modes", "wipe"]) {
    const shown = part(role).closest("label") || part(role);
    shown.hidden = only;
  }
  for (const role of ["left", "right"]) {
    part(role).addEventListener("change", (e) => set({ [role]: Number(e.target.value) }));
  }
  for (const role of ["centre", "width"]) {
    part(role).addEventListener("input", () => {
      const centre = part("centre").valueAsNumber, span = part("width").valueAsNumber;
      if (Number.isFinite(centre) && span >= 1) setWindow(centre, span);
    });
  }
  for (const role of ["square-row", "square-column", "square-side"]) {
    part(role).addEventListener("change", () => setSquare(
      ...["row", "column", "side"].map((n) => part(`square-${n}`).valueAsNumber)));
  }
  for (const button of part("modes").children) button.addEventListener("click", () => set({ mode: button.dataset.mode }));
  for (const button of part("tools").children) button.addEventListener("click", () => set({ tool: button.dataset.tool }));
  part("wipe").addEventListener("input", (e) => set({ wipe: e.target.value / 1000 }));
  part("slice").addEventListener("input", (e) => set({ slice: Number(e.target.value) }));
  part("zoom-in").addEventListener("click", () => zoomAt(1.5, state));
  part("zoom-out").addEventListener("click", () => zoomAt(1 / 1.5, state));
  part("fit").addEventListener("click", () => set({ zoom: 1 }));

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    const at = place(event);
    const near = (24 * canvas.width) / canvas.getBoundingClientRect().width;
    let what = event.button === 2 ? "window" : event.shiftKey ? "square" : state.tool;
    if (what === "move" && !difference() && !only
      && (state.zoom === 1 || Math.abs(at.cx - border()) < near)) what = "border";
    drag = { what, at, centre: (state.low + state.high) / 2, span: difference() ? state.spread : state.high - state.low };
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
  });
  canvas.addEventListener("pointermove", (event) => {
    pointed = place(event);
    if (drag) dragged(pointed);
    tell();
  });

  // HU at the place that was pointed at last, of the slice that is shown now.
  function tell() {
    if (!pointed) return;
    const { x, y } = onImage(pointed.cx, pointed.cy);
    const column = Math.floor(x), row = Math.floor(y);
    if (row < 0 || column < 0 || row >= height || column >= width) return;
    const read = (stack) => hu(stack)?.at(row * width + column) ?? "–";
    const values = data.labels.map((label, i) => `${label} ${read(i)} HU`);
    if (difference()) values.push(`right − left ${read("difference")} HU`);
    part("readout").textContent = `row ${row}, column ${column}: ${values.join(" · ")}`;
  }

  function dragged(at) {
    const { what, at: from, centre, span } = drag;
    const across = at.cx - from.cx, down = at.cy - from.cy;
    if (what === "border") set({ wipe: at.cx / canvas.width });
    else if (what === "move") set({ x: state.x + from.x - at.x, y: state.y + from.y - at.y });
    else if (what === "window") {
      // The whole canvas across changes the width by a factor of 16, down the centre by two widths.
      setWindow(
        Math.round(centre - (2 * span * down) / canvas.height),
        Math.round(span * 16 ** (across / canvas.width)));
    } else {
      const side = Math.max(Math.abs(at.x - from.x), Math.abs(at.y - from.y));
      setSquare(at.y < from.y ? from.y - side : from.y, at.x < from.x ? from.x - side : from.x, side);
    }
  }

  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  let turned = 0;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) {
      zoomAt(event.deltaY < 0 ? 1.2 : 1 / 1.2, place(event));
      return;
    }
    // A notch is about 100 pixels; touchpads send many small ones.
    turned += event.deltaMode ? 100 * Math.sign(event.deltaY) : event.deltaY;
    const steps = Math.trunc(turned / 50) ? Math.sign(turned) * Math.max(1, Math.trunc(Math.abs(turned) / 100)) : 0;
    if (!steps) return;
    turned = 0;
    set({ slice: state.slice + steps });
  }, { passive: false });
  const keys = {
    ArrowLeft: () => set({ wipe: state.wipe - 0.02 }), ArrowRight: () => set({ wipe: state.wipe + 0.02 }),
    ArrowUp: () => set({ slice: state.slice - 1 }), ArrowDown: () => set({ slice: state.slice + 1 }),
    PageUp: () => set({ slice: state.slice - 10 }), PageDown: () => set({ slice: state.slice + 10 }),
    Home: () => set({ slice: 0 }), End: () => set({ slice: slices - 1 }),
    "+": () => zoomAt(1.5, state), "=": () => zoomAt(1.5, state), "-": () => zoomAt(1 / 1.5, state),
    0: () => set({ zoom: 1 }),
    d: () => { if (!only) set({ mode: difference() ? "split" : "difference" }); },
    m: () => set({ tool: "move" }), w: () => set({ tool: "window" }), s: () => set({ tool: "square" }),
  };
  presets.forEach(([, [low, high]], i) => { keys[i + 1] = () => set({ low, high, mode: "split" }); });
  canvas.addEventListener("keydown", (event) => {
    const action = keys[event.key] || keys[event.key.toLowerCase()]; // caps lock
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  function resize() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.round((canvas.width * height) / width);
    draw();
  }
  new ResizeObserver(resize).observe(canvas.parentElement);
  resize();
}

startViewer(document.getElementById("viewer"), JSON.parse(document.getElementById("viewer-data").textContent));
