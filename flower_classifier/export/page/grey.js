// A PNG in grey of 16 bits, scaled by the range that the classifier has learned with, as predict.py does it.
//
// By itself a browser keeps the upper 8 of the 16 bits: of a thermal camera's picture, two or three shades.

import { toEven } from "./resample.js";

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const HEADER = 33; // bytes: the signature and the first chunk
const GREY = 0; // PNG's type of colour
const BYTES = 2; // of a pixel

// Returns such a file as an ImageBitmap of 8 bits; null for any other. Throws for a damaged or an interlaced one.
export async function openDeepGrey(file, range) {
  const header = new Uint8Array(await file.slice(0, HEADER).arrayBuffer());
  const isPng = header.length === HEADER && PNG.every((byte, i) => header[i] === byte);
  if (!isPng || header[24] !== 8 * BYTES || header[25] !== GREY) return null;
  if (header[28]) throw new Error("it is interlaced");
  const view = new DataView(header.buffer);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const rows = unfiltered(await inflated(new Uint8Array(await file.arrayBuffer())), width * BYTES, height);
  const levels = levelsOf(range);
  const picture = new ImageData(width, height);
  for (let at = 0, out = 0; at < rows.length; at += BYTES, out += 4) {
    const level = levels[(rows[at] << 8) | rows[at + 1]];
    picture.data[out] = picture.data[out + 1] = picture.data[out + 2] = level;
    picture.data[out + 3] = 255;
  }
  return createImageBitmap(picture);
}

// The level of 8 bits for each value of 16.
function levelsOf([low, high]) {
  const scale = 255 / (high - low);
  return Uint8Array.from({ length: 1 << (8 * BYTES) }, (_, value) =>
    toEven(Math.min(Math.max((value - low) * scale, 0), 255)),
  );
}

// All that the chunks of pixels hold.
async function inflated(bytes) {
  const view = new DataView(bytes.buffer);
  const chunks = [];
  for (let at = PNG.length; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IDAT") chunks.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const stream = new Blob(chunks).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Undoes the filter of each row, PNG 1.2, chapter 6: returns (height, stride) bytes.
function unfiltered(data, stride, height) {
  if (data.length < (stride + 1) * height) throw new Error("it is truncated");
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const from = y * (stride + 1);
    const filter = data[from];
    const to = y * stride;
    for (let x = 0; x < stride; x++) {
      const left = x < BYTES ? 0 : rows[to + x - BYTES];
      const above = y ? rows[to + x - stride] : 0;
      const corner = y && x >= BYTES ? rows[to + x - stride - BYTES] : 0;
      rows[to + x] = data[from + 1 + x] + predicted(filter, left, above, corner);
    }
  }
  return rows;
}

function predicted(filter, left, above, corner) {
  if (filter === 1) return left;
  if (filter === 2) return above;
  if (filter === 3) return (left + above) >> 1;
  if (filter !== 4) return 0;
  const [toLeft, toAbove] = [Math.abs(above - corner), Math.abs(left - corner)];
  const toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}
