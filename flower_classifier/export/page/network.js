// The network, run by onnxruntime in the browser: on the graphics card where there is one, else by WebAssembly.
//
// Whichever it is must first give the logits that the exporter got for a pattern of colours. A graphics driver that
// computes something else is found out by that, and WebAssembly takes over.

import { TEXTS } from "./texts.js";

const VENDOR = new URL("vendor/", import.meta.url);
const MOST_THREADS = 4;
const ONLY_ERRORS = 3; // of onnxruntime's levels of messages
const GZIP = [0x1f, 0x8b];

const ENGINES = {
  webgpu: { script: "ort.webgpu.min.js", wasm: "ort-wasm-simd-threaded.asyncify" },
  wasm: { script: "ort.wasm.min.js", wasm: "ort-wasm-simd-threaded" },
};

// Returns {engine, run}: `run(pixels)` takes Uint8Array (S * S * 3) to {logits, distance}. `report` hears of bytes.
export async function loadNetwork(spec, { engine, threads }, report) {
  const problems = [];
  const engines = engine ? [engine] : await enginesHere();
  const fetchedModel = fetchChecked(spec.model, report);
  for (const name of engines) {
    try {
      const [model, runtime] = await Promise.all([fetchedModel, fetchRuntime(name, report)]);
      const run = await start(name, model, runtime, spec, threads);
      await checkPattern(run, spec);
      return { engine: name, run };
    } catch (error) {
      if (error instanceof NotLoaded) throw error;
      problems.push(`${name}: ${error.message ?? error}`);
    }
  }
  throw new Error(TEXTS.runsNowhere(problems.join("; ")));
}

// The engines that this browser offers, best first. A graphics card that is only imitated is slower than WebAssembly.
async function enginesHere() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const imitated = adapter?.info?.isFallbackAdapter || /swiftshader|llvmpipe/i.test(adapter?.info?.architecture ?? "");
  return adapter && !imitated ? ["webgpu", "wasm"] : ["wasm"];
}

// A file did not come, or is not the right one: no other engine helps.
class NotLoaded extends Error {}

function breakOff() {
  throw new NotLoaded(TEXTS.brokenOff);
}

async function fetchRuntime(name, report) {
  const { script, wasm } = ENGINES[name];
  const [ort, binary] = await Promise.all([
    import(new URL(script, VENDOR).href).catch(breakOff),
    fetchBytes(`vendor/${wasm}.wasm.gz`, report),
  ]);
  return { ort, binary: await unpacked(binary) };
}

async function start(name, model, { ort, binary }, spec, threads) {
  const { wasm } = ENGINES[name];
  const settings = ort.env.wasm;
  settings.wasmPaths = { mjs: new URL(`${wasm}.js`, VENDOR).href };
  settings.wasmBinary = binary;
  settings.numThreads = Math.min(threads ?? MOST_THREADS, threadsOffered());
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(model, { executionProviders: [name], logSeverityLevel: ONLY_ERRORS });
  settings.wasmBinary = undefined; // it has been compiled
  const wanted = spec.stranger_scores ? ["logits", "distance"] : ["logits"];
  const side = spec.preprocessing.crop_size;
  return async (pixels) => {
    const found = await session.run({ pixels: new ort.Tensor("uint8", pixels, [1, side, side, 3]) }, wanted);
    return { logits: found.logits.data, distance: found.distance?.data[0] ?? null };
  };
}

const threadsOffered = () => (self.crossOriginIsolated ? navigator.hardwareConcurrency : 1);

// Fetches a file of the page that must have this digest. One that was kept while the host was changing is fetched anew.
export async function fetchChecked({ file, sha256 }, report) {
  const kept = await fetchBytes(file, report);
  if (await fits(kept, sha256)) return kept;
  const fresh = await fetchBytes(file, report, "reload");
  if (await fits(fresh, sha256)) return fresh;
  throw new NotLoaded(TEXTS.damaged(file));
}

// Fetches a file, telling how many bytes have come.
async function fetchBytes(file, report, cache = "default") {
  report(file, 0); // so that its size is known from the start
  const response = await fetch(new URL(file, import.meta.url), { cache }).catch(breakOff);
  if (response.status >= 500) breakOff();
  if (!response.ok) throw new NotLoaded(TEXTS.missing(file));
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read().catch(breakOff);
    if (done) break;
    parts.push(value);
    report(file, value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Unpacks gzip, unless the server's headers have let the browser do it.
async function unpacked(bytes) {
  if (!GZIP.every((byte, place) => bytes[place] === byte)) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function fits(bytes, sha256) {
  if (!self.crypto?.subtle) return true; // a page that came without https; the pattern's logits tell enough
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

async function checkPattern(run, { pattern: expected, preprocessing }) {
  const { logits, distance } = await run(pattern(preprocessing.crop_size));
  const areClose = expected.logits.every((value, index) => Math.abs(value - logits[index]) <= expected.tolerance);
  const isAsFar = expected.distance === null || Math.abs(expected.distance - distance) <= expected.distance_tolerance;
  if (!areClose || !isAsFar || logits.length !== expected.logits.length) throw new Error(TEXTS.wrongAnswer);
}

// The picture of coloured stripes that `pattern_of` in export/onnx_model.py draws too.
export function pattern(side) {
  const pixels = new Uint8Array(side * side * 3);
  for (let y = 0, at = 0; y < side; y++) {
    for (let x = 0; x < side; x++) for (let c = 0; c < 3; c++) pixels[at++] = (3 * x + 5 * y + 80 * c) % 256;
  }
  return pixels;
}
