// From a picture to the pixels that the network takes: the contract in photos/views.py, with Pillow's own arithmetic.
//
//     const view = viewer(preprocessing);
//     const pixels = view(picture, width, height, isJpeg);      // Uint8Array (S * S * 3): rows, columns, red-green-blue
//
// Pillow's Resample.c and Reduce.c compute with whole numbers of 32 bits, and so does this: of the same picture it
// makes the same pixels, bit for bit. A JPEG of four times the needed size and more is where they differ: Pillow lets the
// decoder make it smaller, a browser cannot, so blocks of its pixels are averaged.

const PRECISION = 22; // bits behind the point of a weight
const LONGEST_ASPECT = 3; // a picture longer than so many times its short side is trimmed to that
const STRIP = 1 << 21; // pixels of a large picture that are in memory at a time, beside the picture itself

const FILTERS = {
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { reach: 2, weight: keys },
};

// Keys's cubic with a = -0.5, as Pillow writes it: the order of operations decides about the last bit.
function keys(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// Rounds a half to even, as Python does.
export function toEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
}

// Where the part in the middle of a length begins.
const centre = (length, part) => toEven((length - part) / 2);

// How many pixels, squared, become one before anything is resampled: Pillow's draft of a JPEG, then `shrunk`.
export function reduction(width, height, resizeSize, isJpeg) {
  const enough = 2 * resizeSize;
  let draft = 1;
  if (isJpeg) {
    const fits = Math.min(Math.floor(width / enough), Math.floor(height / enough));
    draft = [8, 4, 2, 1].find((scale) => fits >= scale) ?? 1;
  }
  const shorter = Math.min(Math.ceil(width / draft), Math.ceil(height / draft));
  return draft * Math.max(1, Math.floor(shorter / enough));
}

// Which part of a picture of this size the network sees: left, top, right, bottom, and how much is trimmed away.
export function plainBox(width, height, { resize_size: resizeSize, crop_size: side, fit = "crop" }) {
  if (fit !== "crop") {
    return { left: 0, top: 0, right: width, bottom: height, width, height, trimmedLeft: 0, trimmedTop: 0 };
  }
  const limit = LONGEST_ASPECT * Math.min(width, height);
  const [keptWidth, keptHeight] = [Math.min(width, limit), Math.min(height, limit)];
  const short = Math.min(keptWidth, keptHeight);
  const resizedWidth = Math.floor((resizeSize * keptWidth) / short);
  const resizedHeight = Math.floor((resizeSize * keptHeight) / short);
  const left = centre(resizedWidth, side);
  const top = centre(resizedHeight, side);
  return {
    left: (left * keptWidth) / resizedWidth,
    top: (top * keptHeight) / resizedHeight,
    right: ((left + side) * keptWidth) / resizedWidth,
    bottom: ((top + side) * keptHeight) / resizedHeight,
    width: keptWidth,
    height: keptHeight,
    trimmedLeft: centre(width, keptWidth),
    trimmedTop: centre(height, keptHeight),
  };
}

// Where in the square that the network takes the pixels of a box lie; beside them are bars, if any.
function areaOf(box, { crop_size: side, fit = "crop" }) {
  if (fit !== "pad") return { left: 0, top: 0, width: side, height: side };
  const longer = Math.max(box.width, box.height);
  const [width, height] = [box.width, box.height].map((length) => Math.max(1, Math.floor((side * length) / longer + 0.5)));
  return { left: Math.floor((side - width) / 2), top: Math.floor((side - height) / 2), width, height };
}

// For each of `side` pixels: the first pixel of a line that counts, how many do, and their weights as whole numbers.
// predict.py hands Pillow the part of a line that counts, and Pillow takes the box in floats of 32 bits. So does this.
function weightsOf(length, from, to, side, { reach, weight }) {
  const margin = 1 + Math.ceil(reach * Math.max(1, (to - from) / side));
  const start = Math.max(0, Math.trunc(from) - margin);
  const end = Math.min(length, Math.ceil(to) + margin);
  const begin = Math.fround(from - start);
  const scale = Math.fround(Math.fround(to - start) - begin) / side;
  const stretch = Math.max(scale, 1); // antialiasing
  const support = reach * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const firsts = new Int32Array(side);
  const counts = new Int32Array(side);
  const weights = new Int32Array(side * most);
  const own = new Float64Array(most);
  for (let i = 0; i < side; i++) {
    const middle = begin + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - support + 0.5));
    const count = Math.min(end - start, Math.trunc(middle + support + 0.5)) - first;
    let sum = 0;
    for (let x = 0; x < count; x++) sum += own[x] = weight((x + first - middle + 0.5) * (1 / stretch));
    for (let x = 0; x < count; x++) {
      const scaled = (sum ? own[x] / sum : own[x]) * (1 << PRECISION);
      weights[i * most + x] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
    firsts[i] = start + first;
    counts[i] = count;
  }
  return { firsts, counts, weights, most };
}

function eightBits(sum) {
  const level = sum >> PRECISION;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

// Resamples each row of (rows, width, step) from `offset` pixels on to (rows, side, 3).
function resampleRows(source, rows, width, step, offset, { firsts, counts, weights, most }, side, target) {
  let out = 0;
  for (let y = 0; y < rows; y++) {
    const row = y * width;
    for (let i = 0; i < side; i++) {
      let red = 1 << (PRECISION - 1);
      let green = red;
      let blue = red;
      let at = (row + firsts[i] - offset) * step;
      const end = i * most + counts[i];
      for (let k = i * most; k < end; k++, at += step) {
        const weight = weights[k];
        red += Math.imul(source[at], weight);
        green += Math.imul(source[at + 1], weight);
        blue += Math.imul(source[at + 2], weight);
      }
      target[out++] = eightBits(red);
      target[out++] = eightBits(green);
      target[out++] = eightBits(blue);
    }
  }
}

// Resamples the columns of (rows, width, 3), whose first row is row `offset` of the picture, into an area of (side, side, 3).
function resampleColumns(source, offset, { firsts, counts, weights, most }, area, side, target) {
  const stride = area.width * 3;
  for (let i = 0; i < area.height; i++) {
    const end = i * most + counts[i];
    const out = ((area.top + i) * side + area.left) * 3;
    for (let x = 0; x < stride; x++) {
      let sum = 1 << (PRECISION - 1);
      let at = (firsts[i] - offset) * stride + x;
      for (let k = i * most; k < end; k++, at += stride) sum += Math.imul(source[at], weights[k]);
      target[out + x] = eightBits(sum);
    }
  }
}

// Averages blocks of factor x factor pixels of RGBA (height, width, 4); those at the far edges may be smaller.
function reduceInto(target, start, source, width, height, factor) {
  let out = start;
  for (let top = 0; top < height; top += factor) {
    const rows = Math.min(factor, height - top);
    for (let left = 0; left < width; left += factor) {
      const columns = Math.min(factor, width - left);
      const number = rows * columns;
      const multiplier = Math.floor(2 ** 24 / number);
      for (let channel = 0; channel < 3; channel++) {
        let sum = number >> 1;
        for (let y = 0; y < rows; y++) {
          let at = ((top + y) * width + left) * 4 + channel;
          for (let x = 0; x < columns; x++, at += 4) sum += source[at];
        }
        target[out + channel] = Math.floor((sum * multiplier) / 2 ** 24);
      }
      out += 4;
    }
  }
  return out;
}

// All that depends on a picture's size alone, so that a camera's frames need it once.
function planOf(width, height, isJpeg, preprocessing) {
  const side = preprocessing.crop_size;
  const filter = FILTERS[preprocessing.interpolation];
  const factor = reduction(width, height, preprocessing.resize_size, isJpeg);
  const box = plainBox(Math.ceil(width / factor), Math.ceil(height / factor), preprocessing);
  const area = areaOf(box, preprocessing);
  const across = weightsOf(box.width, box.left, box.right, area.width, filter);
  const down = weightsOf(box.height, box.top, box.bottom, area.height, filter);
  const [lastColumn, lastRow] = [area.width - 1, area.height - 1];
  const firstColumn = across.firsts[0];
  const firstRow = down.firsts[0];
  const columns = across.firsts[lastColumn] + across.counts[lastColumn] - firstColumn; // that count
  const rows = down.firsts[lastRow] + down.counts[lastRow] - firstRow;
  const region = {
    left: (box.trimmedLeft + firstColumn) * factor,
    top: (box.trimmedTop + firstRow) * factor,
    width: Math.min(columns * factor, width - (box.trimmedLeft + firstColumn) * factor),
    height: Math.min(rows * factor, height - (box.trimmedTop + firstRow) * factor),
  };
  const between = new Uint8Array(rows * area.width * 3);
  const reduced = factor > 1 ? new Uint8ClampedArray(rows * columns * 4) : null;
  return { side, area, factor, across, down, firstColumn, firstRow, columns, rows, region, between, reduced };
}

// Returns what takes a drawable picture (an ImageBitmap, say) to pixels. It keeps its canvas and its buffers.
export function viewer(preprocessing) {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  let planned = "";
  let plan;

  function read(picture, { left, top, width, height }) {
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.fillStyle = "white"; // what a transparent picture shows
    context.fillRect(0, 0, width, height);
    context.drawImage(picture, left, top, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }

  function readReduced(picture) {
    const { region, factor, reduced } = plan;
    const rows = factor * Math.max(1, Math.floor(STRIP / region.width / factor));
    let filled = 0;
    for (let top = 0; top < region.height; top += rows) {
      const strip = { ...region, top: region.top + top, height: Math.min(rows, region.height - top) };
      filled = reduceInto(reduced, filled, read(picture, strip), strip.width, strip.height, factor);
    }
    return reduced;
  }

  return (picture, width, height, isJpeg) => {
    const key = `${width} ${height} ${isJpeg}`;
    if (key !== planned) {
      plan = planOf(width, height, isJpeg, preprocessing);
      planned = key;
    }
    const { side, area, factor, across, down, firstColumn, firstRow, columns, rows, region, between } = plan;
    const source = factor > 1 ? readReduced(picture) : read(picture, region);
    resampleRows(source, rows, columns, 4, firstColumn, across, area.width, between);
    const pixels = new Uint8Array(side * side * 3);
    if (area.width < side || area.height < side) {
      const bar = preprocessing.mean.map((value) => Math.floor(255 * value + 0.5));
      for (let at = 0; at < pixels.length; at += 3) pixels.set(bar, at);
    }
    resampleColumns(between, firstRow, down, area, side, pixels);
    return pixels;
  };
}
