// All work that takes time, beside the page: loading the network, and answering one picture after the other.
//
// In:  {kind: "load", options}, then {kind: "picture", id, picture, stream} with an ImageBitmap or a File; `stream` is
//      the number of the camera's stream that it is a frame of, or null: its answer is a mean over the last frames
// Out: {kind: "progress", …}, {kind: "ready", …}, {kind: "answer", id, …}, {kind: "failure", id, message}

import { areRead } from "./colours.js";
import { openDeepGrey } from "./grey.js";
import { completed } from "./jpeg.js";
import { judgeFor } from "./judging.js";
import { fetchChecked, loadNetwork } from "./network.js";
import { viewer } from "./resample.js";
import { TEXTS } from "./texts.js";

const CLASSES_IN_ANSWER = 5;
const MEMORY = 600; // ms in which an earlier frame's weight falls to 1/e: so names do not flicker (docs/export.md)
const JPEG = [0xff, 0xd8, 0xff];
const TIFFS = [[0x49, 0x49], [0x4d, 0x4d]];

let spec; // all that answers are made by beside the network
let view; // a picture -> pixels
let network; // pixels -> logits and distance
let judged; // logits and distance -> what they are worth
let steady = { stream: null }; // the mean over a stream's last frames, and when it was made
let turn = Promise.resolve(); // one after the other

onmessage = ({ data }) => {
  const work = () => (data.kind === "load" ? load(data.options) : answer(data));
  turn = turn.then(work).catch((error) => postMessage({ kind: "failure", id: data.id, message: String(error.message ?? error) }));
};

async function load(options) {
  if (!(await areRead())) throw new Error(TEXTS.falseColours);
  const data = await fetchChecked({ file: "classifier.json", sha256: options.specSha256 }, () => {});
  spec = JSON.parse(new TextDecoder().decode(data));
  const files = new Map(); // name -> {done, total}: bytes
  network = await loadNetwork(spec, options, progress(files, options.sizes ?? {}));
  view = viewer(spec.preprocessing);
  judged = judgeFor(spec);
  const { classes, preprocessing } = spec;
  postMessage({ kind: "ready", engine: network.engine, classCount: classes.length, preprocessing, files: [...files.keys()] });
}

// Returns what hears of bytes of a file that have come, and tells the page of all of them. `sizes`: bytes by file.
function progress(files, sizes) {
  return (file, bytes) => {
    const done = (files.get(file)?.done ?? 0) + bytes;
    files.set(file, { done, total: Math.max(sizes[file] ?? 0, done) });
    const all = [...files.values()];
    postMessage({ kind: "progress", done: sum(all, "done"), total: sum(all, "total") });
  };
}

const sum = (items, key) => items.reduce((total, item) => total + item[key], 0);

async function answer({ id, picture, stream }) {
  const began = performance.now();
  const isFile = picture instanceof Blob;
  const isJpeg = isFile && (await startsWith(picture, JPEG));
  const bitmap = isFile ? await opened(picture, isJpeg) : picture;
  try {
    const pixels = view(bitmap, bitmap.width, bitmap.height, isJpeg);
    const seen = performance.now();
    const outputs = await run(pixels);
    const { logits, distance } = stream === null ? outputs : steadied(outputs, stream);
    const timing = { look: seen - began, think: performance.now() - seen };
    postMessage({ kind: "answer", id, ...judged(logits, distance, CLASSES_IN_ANSWER), timing });
  } finally {
    bitmap.close();
  }
}

// Returns the mean of what the network gives over the last frames of a stream.
function steadied({ logits, distance }, stream) {
  const now = performance.now();
  const weight = steady.stream === stream ? Math.exp((steady.at - now) / MEMORY) : 0; // of the mean so far
  const mixed = (before, value) => (weight ? weight * before + (1 - weight) * value : value);
  const means = Float64Array.from(logits, (value, index) => mixed(steady.logits?.[index], value));
  steady = { stream, at: now, logits: means, distance: distance === null ? null : mixed(steady.distance, distance) };
  return steady;
}

// Runs the network. A graphics processor can be lost, say while a phone sleeps; then WebAssembly takes over.
async function run(pixels) {
  try {
    return await network.run(pixels);
  } catch (error) {
    if (network.engine !== "webgpu") throw error;
    network = await loadNetwork(spec, { engine: "wasm" }, () => {});
    return network.run(pixels);
  }
}

// Too little of a picture is there.
class Incomplete extends Error {}

// Opens a file upright, with its colours as they are stored, as predict.py does. Where grey of more than 8 bits has a
// range, a TIFF is refused: the browsers that open one would scale it in their own way.
async function opened(file, isJpeg) {
  const range = spec.preprocessing.grey_range;
  try {
    if (range) {
      for (const start of TIFFS) if (await startsWith(file, start)) throw new Error("it may hold more than 8 bits");
      const deep = await openDeepGrey(file, range);
      if (deep) return deep;
    }
    const { whole, share } = isJpeg ? await completed(file) : { whole: file };
    if (!whole) throw new Incomplete(TEXTS.cut(file.name, share));
    return await createImageBitmap(whole, { colorSpaceConversion: "none", premultiplyAlpha: "default" });
  } catch (error) {
    if (error instanceof Incomplete) throw error;
    throw new Error(await isHeic(file) ? TEXTS.noHeic(file.name) : TEXTS.noPicture(file.name));
  }
}

// Says whether a file is an iPhone's HEIC, which Safari opens and other browsers do not.
async function isHeic(file) {
  const start = new Uint8Array(await file.slice(4, 12).arrayBuffer());
  return /^ftyp(hei[cxms]|hev[cxms]|mif1|msf1)$/.test(String.fromCharCode(...start));
}

async function startsWith(file, bytes) {
  const start = new Uint8Array(await file.slice(0, bytes.length).arrayBuffer());
  return bytes.every((byte, place) => start[place] === byte);
}
