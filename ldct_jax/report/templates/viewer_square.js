// Statistics of a square: mean, SD (n - 1), and the radial noise power spectrum of
// ldct_jax.metrics.noise.power_spectrum (mean taken away, rings of 1 / (N dx)).

const MIN_SPECTRUM = 8, MAX_SPECTRUM = 128;

function meanAndSd(values) {
  let sum = 0, squares = 0;
  for (const v of values) sum += v;
  const mean = sum / values.length;
  for (const v of values) squares += (v - mean) * (v - mean);
  return { mean, sd: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : NaN };
}

// values: n x n HU, row by row. Returns {frequency, nps, mean}, frequencies in 1/mm.
function powerSpectrum(values, n, pixel) {
  const { mean } = meanAndSd(values);
  const cos = new Float64Array(n), sin = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    cos[k] = Math.cos((2 * Math.PI * k) / n);
    sin[k] = -Math.sin((2 * Math.PI * k) / n);
  }
  // Along the rows, then along the columns; sides are small and need not be powers of two.
  const re = new Float64Array(n * n), im = new Float64Array(n * n);
  for (let y = 0; y < n; y++) for (let u = 0; u < n; u++) {
    let r = 0, i = 0;
    for (let x = 0; x < n; x++) {
      const v = values[y * n + x] - mean, k = (u * x) % n;
      r += v * cos[k];
      i += v * sin[k];
    }
    re[y * n + u] = r;
    im[y * n + u] = i;
  }
  const sums = new Float64Array(n), counts = new Float64Array(n);
  for (let v = 0; v < n; v++) for (let u = 0; u < n; u++) {
    let r = 0, i = 0;
    for (let y = 0; y < n; y++) {
      const k = (v * y) % n, a = re[y * n + u], b = im[y * n + u];
      r += a * cos[k] - b * sin[k];
      i += a * sin[k] + b * cos[k];
    }
    const ring = Math.round(Math.hypot(u < n / 2 ? u : u - n, v < n / 2 ? v : v - n));
    sums[ring] += (r * r + i * i) * (pixel / n) ** 2;
    counts[ring] += 1;
  }
  const frequency = [], nps = [];
  for (let ring = 1; ring <= n >> 1; ring++) {
    frequency.push(ring / (n * pixel));
    nps.push(sums[ring] / counts[ring]);
  }
  const total = nps.reduce((a, b) => a + b, 0);
  return { frequency, nps, mean: frequency.reduce((a, f, i) => a + f * nps[i], 0) / total };
}

// rows: [{label, colour, values}], values n x n HU. Fills the table and the plot.
function showStatistics(rows, n, pixelMm, table, plot) {
  const unit = pixelMm ? "mm" : "px";
  const spectra = n >= MIN_SPECTRUM && n <= MAX_SPECTRUM;
  table.textContent = "";
  const head = table.createTHead().insertRow();
  for (const text of ["", "mean HU", "SD HU", `mean frequency 1/${unit}`]) {
    head.append(Object.assign(document.createElement("th"), { textContent: text, scope: "col" }));
  }
  const body = table.createTBody(), curves = [];
  for (const { label, colour, values } of rows) {
    const { mean, sd } = meanAndSd(values), row = body.insertRow();
    row.insertCell().textContent = label;
    row.cells[0].style.borderLeft = `4px solid ${colour}`;
    const spectrum = spectra && sd > 0 ? powerSpectrum(values, n, pixelMm || 1) : null;
    if (spectrum) curves.push({ label, colour, ...spectrum });
    for (const [value, digits] of [[mean, 2], [sd, 2], [spectrum ? spectrum.mean : NaN, 3]]) {
      const cell = row.insertCell();
      cell.className = "number";
      cell.dataset.value = value;
      cell.textContent = Number.isFinite(value) ? value.toFixed(digits) : "–";
    }
  }
  plot.hidden = !curves.length;
  plot.dataset.curves = JSON.stringify(curves);
  if (curves.length) drawCurves(plot, curves, unit);
}

function drawCurves(plot, curves, unit) {
  const ratio = window.devicePixelRatio || 1, width = 320, height = 200;
  plot.width = width * ratio;
  plot.height = height * ratio;
  const pen = plot.getContext("2d");
  pen.scale(ratio, ratio);
  const left = 52, bottom = height - 36, right = width - 18, top = 22;
  const furthest = curves[0].frequency.at(-1);
  const highest = Math.max(...curves.flatMap((c) => c.nps));
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = "#1b1f24";
  pen.strokeStyle = "#d8dee4";
  for (let i = 0; i <= 4; i++) {
    const x = left + ((right - left) * i) / 4, y = bottom - ((bottom - top) * i) / 4;
    pen.strokeRect(x, top, 0, bottom - top);
    pen.strokeRect(left, y, right - left, 0);
    pen.textAlign = "center";
    pen.fillText(((furthest * i) / 4).toPrecision(2), x, bottom + 14);
    pen.textAlign = "right";
    pen.fillText(((highest * i) / 4).toPrecision(3), left - 5, y + 4);
  }
  pen.textAlign = "left";
  pen.fillText(`noise power, HU² ${unit}²`, 4, 12);
  pen.textAlign = "center";
  pen.fillText(`frequency, 1/${unit}`, (left + right) / 2, height - 6);
  pen.lineWidth = 2;
  for (const { frequency, nps, colour } of curves) {
    pen.strokeStyle = colour;
    pen.beginPath();
    frequency.forEach((f, i) => pen.lineTo(
      left + ((right - left) * f) / furthest, bottom - ((bottom - top) * nps[i]) / highest));
    pen.stroke();
  }
}
