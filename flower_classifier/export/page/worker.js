// All work that takes time, beside the page: loading the network, and answering one picture after the other.
//
// In:  {kind: "load", options}, then {kind: "picture", id, picture} with an ImageBitmap or a File
// Out: {kind: "progress", …}, {kind: "ready", …}, {kind: "answer", id, …}, {kind: "failure", id, message}

import { judge } from "./judging.js";
import { checkDigest, loadNetwork } from "./network.js";
import { viewer } from "./resample.js";

const SHOWN = 5; // classes in an answer
const JPEG = [0xff, 0xd8, 0xff];

let view;
let network;
let verdict;
let turn = Promise.resolve();

onmessage = ({ data }) => {
  const work = data.kind === "load" ? load(data.options) : () => answer(data);
  turn = turn.then(work).catch((error) => postMessage({ kind: "failure", id: data.id, message: String(error.message ?? error) }));
};

function load(options) {
  return async () => {
    const response = await fetch(new URL("classifier.json", import.meta.url));
    if (!response.ok) throw new Error("classifier.json is missing: export it again");
    const text = await response.text();
    await checkDigest(new TextEncoder().encode(text), { file: "classifier.json", sha256: options.cardSha256 });
    const card = JSON.parse(text);
    const loaded = new Map();
    network = await loadNetwork(card, options, (file, bytes, total) => {
      const done = (loaded.get(file)?.done ?? 0) + bytes;
      loaded.set(file, { done, total: Math.max(total, done) });
      const all = [...loaded.values()];
      postMessage({ kind: "progress", done: sum(all, "done"), total: sum(all, "total") });
    });
    view = viewer(card.preprocessing);
    verdict = judge(card);
    postMessage({ kind: "ready", engine: network.engine, classes: card.classes.length, preprocessing: card.preprocessing });
  };
}

const sum = (items, key) => items.reduce((total, item) => total + item[key], 0);

async function answer({ id, picture }) {
  const began = performance.now();
  const isFile = picture instanceof Blob;
  const bitmap = isFile ? await opened(picture) : picture;
  try {
    const isJpeg = isFile && (await startsWith(picture, JPEG));
    const pixels = view(bitmap, bitmap.width, bitmap.height, isJpeg);
    const seen = performance.now();
    const { logits, distance } = await network.run(pixels);
    const timing = { look: seen - began, think: performance.now() - seen };
    postMessage({ kind: "answer", id, ...verdict(logits, distance, SHOWN), timing });
  } finally {
    bitmap.close();
  }
}

// Opens a file upright, with its colours as they are stored, as predict.py does.
async function opened(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "default" });
  } catch {
    throw new Error(`${file.name || "This"} is not a picture that this browser can open.`);
  }
}

async function startsWith(file, bytes) {
  const start = new Uint8Array(await file.slice(0, bytes.length).arrayBuffer());
  return bytes.every((byte, place) => start[place] === byte);
}
