// Whether this browser lets a page read the colours of a picture as they are.
//
// Some protect their visitors from being recognised by it: what a page reads is noise, and so would be its answers.

const SIDE = 32;
const HARMLESS = 4; // levels of 256; some browsers change a few pixels by one or two, which changes no answer

// Says whether a picture of known colours is read back as it was drawn.
export async function areRead() {
  const drawn = new ImageData(SIDE, SIDE);
  drawn.data.forEach((_, at) => (drawn.data[at] = at % 4 === 3 ? 255 : (37 * at + (at >> 5)) % 256));
  const picture = await createImageBitmap(drawn);
  const context = new OffscreenCanvas(SIDE, SIDE).getContext("2d", { willReadFrequently: true, alpha: false });
  context.drawImage(picture, 0, 0);
  picture.close();
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return data.every((level, at) => Math.abs(level - drawn.data[at]) <= HARMLESS);
}
