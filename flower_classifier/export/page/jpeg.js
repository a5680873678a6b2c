// A JPEG that was cut off on its way: how much of its picture is there.
//
// Browsers differ in what they make of one. The rule of photos/mending.py: it gets the mark that ends a JPEG, so that the
// decoder fills what is missing with grey, and nine of ten rows must be there; of a progressive one, all frequencies.

const LEAST_WHOLE = 0.9; // share of the rows
const FREQUENCIES = 64; // of a JPEG's blocks
const FILLED = [127, 128]; // the grey that a decoder fills up with
const [BEGINNING, END, SCAN, PROGRESSIVE] = [0xd8, 0xd9, 0xda, 0xc2];

// Returns {whole, share}: the file, with its end where that is missing, null where too little is there; and the share of
// its picture that is there, 0 where a progressive one lacks its details.
export async function completed(file) {
  const { ends, isProgressive, hasDetails } = outline(new Uint8Array(await file.arrayBuffer()));
  if (ends) return { whole: file, share: 1 };
  const mended = new Blob([file, Uint8Array.of(0xff, END)], { type: "image/jpeg" });
  const share = isProgressive && !hasDetails ? 0 : await shareOfRows(mended);
  return { whole: share >= LEAST_WHOLE ? mended : null, share };
}

// Reads the markers of a JPEG, ITU-R T.81, annex B: whether its end is there, and what whole scans hold of its brightness.
function outline(bytes) {
  let [isProgressive, brightness, scan] = [false, null, null];
  const there = new Set(); // frequencies
  for (let at = 0; at + 1 < bytes.length; ) {
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0 || marker === 0xff || (marker >= 0xd0 && marker <= 0xd7)) {
      const next = bytes.indexOf(0xff, at + 1); // within a scan, or padding
      at = next < 0 ? bytes.length : next;
      continue;
    }
    if (marker === BEGINNING) {
      at += 2;
      continue;
    }
    if (scan) for (let frequency = scan.first; frequency <= scan.last; frequency++) there.add(frequency);
    scan = null;
    if (marker === END) return { ends: true };
    if (marker === PROGRESSIVE) isProgressive = true;
    if (marker === SCAN) {
      const count = bytes[at + 4];
      const components = Array.from({ length: count }, (_, index) => bytes[at + 5 + 2 * index]);
      brightness ??= components[0];
      const [first, last] = bytes.subarray(at + 5 + 2 * count);
      if (components.includes(brightness)) scan = { first, last };
    }
    at += 2 + (bytes[at + 2] << 8) + bytes[at + 3];
  }
  return { ends: false, isProgressive, hasDetails: there.size === FREQUENCIES };
}

// The share of rows above those at the end that are nothing but the decoder's grey.
async function shareOfRows(file) {
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "none" });
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, 1).getContext("2d", { willReadFrequently: true, alpha: false });
  let rows = height;
  for (; rows; rows--) {
    context.drawImage(picture, 0, rows - 1, width, 1, 0, 0, width, 1);
    const { data } = context.getImageData(0, 0, width, 1);
    if (!data.every((level, at) => at % 4 === 3 || (level >= FILLED[0] && level <= FILLED[1]))) break;
  }
  picture.close();
  return rows / height;
}
