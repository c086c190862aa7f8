// Slices as the page holds them: one script element each, base64 of deflate of a prediction's
// errors (ldct_jax/report/viewer.py writes them). They are decoded when they are shown.

const KEPT_SLICES = 64;

// Errors, zigzag in two planes of bytes (low, then high), to values; the prediction is the median
// of the left neighbour, the upper one, and left + upper - upper left.
function unpredicted(bytes, width, height) {
  const n = width * height, values = new Int16Array(n);
  for (let row = 0, i = 0; row < height; row++) {
    for (let column = 0; column < width; column++, i++) {
      const a = column ? values[i - 1] : 0, b = row ? values[i - width] : 0;
      const c = row && column ? values[i - width - 1] : 0;
      const low = a < b ? a : b, high = a < b ? b : a;
      const guess = c >= high ? low : c <= low ? high : a + b - c;
      const error = bytes[i] | (bytes[n + i] << 8);
      values[i] = guess + ((error >>> 1) ^ -(error & 1)); // modulo 65536, as it was written
    }
  }
  return values;
}

// get(stack, slice): its values, Int16Array in steps of data.step HU, or null while they are being
// decoded; `ready` is called when any arrive, `failed` with the error where that isn't possible.
function sliceSource(data, ready, failed) {
  const [, height, width] = data.shape;
  const kept = new Map(), waiting = new Set();

  async function decode(stack, slice) {
    const text = document.querySelector(`[data-packed="${stack}-${slice}"]`).textContent;
    const packed = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return unpredicted(new Uint8Array(await new Response(stream).arrayBuffer()), width, height);
  }

  return function get(stack, slice) {
    const key = `${stack}-${slice}`, found = kept.get(key);
    if (found) {
      kept.delete(key); // and to the end: the one that was used last goes last
      kept.set(key, found);
      return found;
    }
    if (!waiting.has(key)) {
      waiting.add(key);
      decode(stack, slice).then((values) => {
        waiting.delete(key);
        kept.set(key, values);
        if (kept.size > Math.max(KEPT_SLICES, 6 * data.labels.length)) {
          kept.delete(kept.keys().next().value);
        }
        ready();
      }).catch(failed);
    }
    return null;
  };
}
