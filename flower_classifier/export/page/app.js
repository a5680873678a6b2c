// The page: camera or photo in, answer out. The work itself is done in worker.js.
//
// For other scripts: each answer is also an event, `addEventListener("answer", ({ detail }) => …)`, where `held` says
// that the picture is kept. ?engine=wasm or webgpu, and ?threads=1, choose what runs the network.

import { showBar } from "./bars.js";
import { announceLoading, settleServiceWorker, showProgress } from "./loading.js";
import { TEXTS, percent } from "./texts.js";

const $ = (id) => document.getElementById(id);
const [video, photo, finder] = ["video", "photo", "finder"].map($);
const BARS = 3; // style.css leaves room for so many
const SPEAK_EVERY = 2500; // ms, at most so often a screen reader is told
const SHORTEST_FRAME = 100; // ms: more answers a second than ten would only warm the phone
const SURE = 0.6; // probability of the likeliest class, from which on it alone is named
const ENOUGH = 0.9; // probability that those together have which are named instead
const MOST_NAMED = 3; // of them
const MARGIN = { side: 14, top: 54, bottom: 34 }; // px, of the corners: the title and the answer are there
const MOST_FAILURES = 10; // frames in a row without an answer
const SMOOTH = 0.85; // weight of the frame before in the frame rate

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map(); // pictures by number -> what to do with their answers
let [asked, classCount, preprocessing] = [0, 0, null];
let stream = null;
let photos = { files: [], at: 0 }; // chosen or dropped together, and which of them is shown
let announceKept; // what says that all is kept, when it is
let wish = 0; // number of the last wish for a camera or a photo: what an earlier one still brings is too late
let [isHeld, facing, framesPerSecond, spokenAt, spoken] = [false, "environment", 0, 0, ""];

// ------------------------------------------------------------------------------------------------------------ start

async function start() {
  watchControls();
  const isOld = !("OffscreenCanvas" in window && "DecompressionStream" in window);
  if (isOld) return fail(TEXTS.tooOld);
  await settleServiceWorker();
  const { cardSha256, bytes } = document.documentElement.dataset;
  const sizes = JSON.parse(bytes);
  announceKept = await announceLoading();
  const parameters = new URLSearchParams(location.search);
  const options = {
    specSha256: cardSha256,
    sizes,
    engine: parameters.get("engine"),
    threads: parameters.has("threads") ? Number(parameters.get("threads")) : null,
  };
  worker.postMessage({ kind: "load", options });
}

worker.onmessage = ({ data }) => {
  if (data.kind === "progress") return showProgress(data);
  if (data.kind === "ready") return begin(data);
  const settle = waiting.get(data.id);
  waiting.delete(data.id);
  if (settle) settle(data);
  else if (data.kind === "failure") fail(data.message);
};

worker.onerror = (event) => fail(TEXTS.notStarted(event.message));

function begin(ready) {
  ({ classCount, preprocessing } = ready);
  document.body.dataset.engine = ready.engine;
  $("loading").hidden = true;
  $("answer").hidden = false;
  $("choose").disabled = false;
  $("detail").textContent = TEXTS.pointCamera(classCount);
  announceKept(ready.files);
  openCamera();
}

// Returns what the worker says of a picture: a file, or a bitmap, which is the worker's from then on.
// `stream`: number of the stream that it is a frame of, if it is one of many.
function ask(picture, stream = null) {
  const id = ++asked;
  const answered = new Promise((resolve) => waiting.set(id, resolve));
  worker.postMessage({ kind: "picture", id, picture, stream }, picture instanceof ImageBitmap ? [picture] : []);
  return answered;
}

// ------------------------------------------------------------------------------------------------------------ camera

async function openCamera() {
  const own = ++wish;
  closeCamera();
  photos = { files: [], at: 0 };
  if (!navigator.mediaDevices?.getUserMedia) return showNoCamera("NotSupportedError");
  let opened;
  try {
    const wanted = { facingMode: facing, width: { ideal: 1280 }, height: { ideal: 720 } };
    opened = await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    if (own === wish) showNoCamera(error.name);
    return;
  }
  if (own !== wish) return stop(opened);
  video.srcObject = stream = opened;
  stream.getVideoTracks()[0].addEventListener("ended", () => showNoCamera("NotReadableError"));
  const { facingMode } = stream.getVideoTracks()[0].getSettings();
  video.classList.toggle("mirrored", facingMode === "user");
  await video.play().catch(() => {}); // another wish may have come in between
  const devices = await navigator.mediaDevices.enumerateDevices();
  $("turn").hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
  if (own !== wish) return;
  enter("live", { verdict: TEXTS.looking });
  placeFinder();
  const awake = navigator.wakeLock?.request("screen").catch(() => null);
  await watch(opened, own);
  (await awake)?.release();
}

function closeCamera() {
  if (stream) stop(stream);
  stream = null;
}

const stop = (some) => some.getTracks().forEach((track) => track.stop());

// Answers one frame after the other while this stream is the one that is shown.
async function watch(own, streamNumber) {
  let failures = 0; // in a row
  while (stream === own) {
    const began = performance.now();
    if (!isHeld && video.videoWidth) {
      const frame = await createImageBitmap(video).catch(() => null); // between two sizes there is none
      const answer = frame && (await ask(frame, streamNumber));
      if (stream !== own) return;
      failures = answer?.kind === "answer" ? 0 : failures + 1;
      if (failures > MOST_FAILURES) return fail(answer?.message ?? TEXTS.noCamera.other);
      if (!failures && !isHeld) show(answer);
      showRate(Math.max(performance.now() - began, SHORTEST_FRAME));
    }
    const rest = isHeld ? 100 : SHORTEST_FRAME - (performance.now() - began);
    await new Promise((resolve) => setTimeout(resolve, Math.max(rest, 0)));
  }
}

function showRate(milliseconds) {
  const now = 1000 / milliseconds;
  framesPerSecond = framesPerSecond ? SMOOTH * framesPerSecond + (1 - SMOOTH) * now : now;
  $("rate").textContent = TEXTS.framesPerSecond(framesPerSecond);
}

function showNoCamera(reason) {
  closeCamera();
  enter("no-camera", { detail: TEXTS.choosePhoto(classCount), problem: TEXTS.noCamera[reason] ?? TEXTS.noCamera.other });
  $("notice").classList.add("of-camera");
}

// ------------------------------------------------------------------------------------------------------------ photos

// Takes files that were chosen, dropped or pasted together: the first is shown, and the next ones when they are asked for.
function openPhotos(files) {
  if (!files?.length || $("choose").disabled) return;
  photos = { files: [...files], at: 0 };
  openPhoto();
}

function openNextPhoto() {
  photos.at++;
  openPhoto();
}

async function openPhoto() {
  const file = photos.files[photos.at];
  const own = ++wish;
  closeCamera();
  enter("photo", { verdict: TEXTS.looking });
  const address = URL.createObjectURL(file);
  photo.onload = photo.onerror = () => URL.revokeObjectURL(address);
  photo.src = address;
  photo.alt = file.name;
  const answer = await ask(file);
  if (own !== wish) return;
  if (answer.kind === "answer") return show(answer, true);
  enter("no-camera", { detail: TEXTS.choosePhoto(classCount), problem: answer.message });
}

// ------------------------------------------------------------------------------------------------------------ answers

// Shows an answer. A stranger has no shares: they would be of classes that it is none of. Where the likeliest class is
// not probable enough to be named alone, the likeliest ones are.
function show(answer, atOnce = false) {
  const [first] = answer.predictions;
  const isStranger = answer.known === false;
  const isUnsure = !isStranger && first.probability < SURE;
  const names = [];
  let together = 0;
  for (const { name, probability } of answer.predictions.slice(0, MOST_NAMED)) {
    if (together >= ENOUGH) break;
    names.push(name);
    together += probability;
  }
  let [name, detail] = [first.name, TEXTS.sure(percent(first.probability))];
  if (isStranger) [name, detail] = [TEXTS.noneOf(classCount), TEXTS.mostLike(names)];
  else if (isUnsure) [name, detail] = [TEXTS.oneOf(names), TEXTS.sureOfOne(percent(together))];
  $("answer").classList.toggle("stranger", isStranger);
  $("answer").classList.toggle("unsure", isUnsure);
  $("verdict").textContent = name;
  $("detail").textContent = detail;
  if (isStranger) $("bars").replaceChildren();
  else answer.predictions.slice(0, BARS).forEach(showBar);
  speak(name, isStranger ? name : `${name}, ${detail}`, atOnce);
  dispatchEvent(new CustomEvent("answer", { detail: { ...answer, held: isHeld } }));
}

// Tells a screen reader of another answer, but not of every frame; of that to a photo or a held picture at once.
function speak(name, text, atOnce) {
  if (!atOnce && (name === spoken || performance.now() - spokenAt < SPEAK_EVERY)) return;
  [spoken, spokenAt] = [name, performance.now()];
  $("spoken").textContent = text;
}

function fail(message) {
  closeCamera();
  $("loading").hidden = true;
  $("choose").disabled = true;
  enter("failed", { problem: message });
}

// ----------------------------------------------------------------------------------------------------------- controls

// Goes to another state and sets all that it shows, so that no answer, rate or message of the one before stays.
function enter(state, { verdict = "", detail = "", problem = "" }) {
  const focused = document.activeElement;
  document.body.dataset.state = state;
  setHeld(false);
  photo.hidden = state !== "photo";
  $("hold").disabled = state !== "live" && state !== "photo";
  $("hold").hidden = state === "no-camera" || state === "failed";
  $("choose").classList.toggle("main", $("hold").hidden);
  $("answer").classList.remove("stranger", "unsure");
  $("verdict").textContent = verdict || "\u00a0"; // so that the line keeps its height
  $("detail").textContent = detail || "\u00a0";
  $("bars").replaceChildren();
  [spoken, framesPerSecond] = ["", 0];
  $("spoken").textContent = $("rate").textContent = "";
  $("notice-text").textContent = problem;
  $("again").textContent = state === "failed" ? TEXTS.tryAgain : TEXTS.tryCamera;
  const following = photos.at + 1;
  $("next").hidden = following >= photos.files.length || state === "failed";
  $("next").textContent = TEXTS.nextPhoto(following + 1, photos.files.length);
  $("choose").hidden = state === "photo" && !$("next").hidden; // there is room for two buttons
  $("notice").hidden = !problem;
  $("notice").classList.remove("of-camera");
  const isLost = focused?.tagName === "BUTTON" && (focused.disabled || focused.closest("[hidden]"));
  if (isLost) [$("hold"), $("choose"), $("notice")].find((other) => !other.disabled && !other.hidden)?.focus();
}

function tryAgain() {
  if (document.body.dataset.state === "failed") location.reload();
  else openCamera();
}

function setHeld(held) {
  isHeld = held;
  $("hold").classList.toggle("held", held);
  const isPhoto = document.body.dataset.state === "photo";
  $("hold").firstElementChild.textContent = isPhoto ? TEXTS.toCamera : held ? TEXTS.goOn : TEXTS.hold;
  if (held) video.pause();
  else if (stream) video.play().catch(() => {});
}

function pressHold() {
  if ($("hold").disabled) return;
  if (document.body.dataset.state === "photo") openCamera();
  else if (isHeld) setHeld(false);
  else hold();
}

// Keeps the picture, and the answer to this very picture.
async function hold() {
  const own = wish;
  setHeld(true);
  const frame = await createImageBitmap(video).catch(() => null);
  const answer = frame && (await ask(frame));
  if (answer?.kind === "answer" && isHeld && own === wish) show(answer, true);
}

// Puts the corners around what the network sees: the middle of the picture, of which the stage may hide the sides, or all.
function placeFinder() {
  if (!preprocessing || !video.videoWidth) return;
  const { clientWidth: width, clientHeight: height } = video;
  const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
  const share = preprocessing.crop_size / preprocessing.resize_size;
  const middle = share * Math.min(video.videoWidth, video.videoHeight);
  const seesAll = (preprocessing.fit ?? "crop") !== "crop";
  const [seenWidth, seenHeight] = seesAll ? [video.videoWidth, video.videoHeight] : [middle, middle];
  const across = Math.max((width - scale * seenWidth) / 2, MARGIN.side);
  const down = (height - scale * seenHeight) / 2;
  finder.style.inset = `${Math.max(down, MARGIN.top)}px ${across}px ${Math.max(down, MARGIN.bottom)}px`;
}

function watchControls() {
  $("hold").addEventListener("click", pressHold);
  $("choose").addEventListener("click", () => $("file").click());
  $("again").addEventListener("click", tryAgain);
  $("turn").addEventListener("click", turnCamera);
  $("next").addEventListener("click", openNextPhoto);
  $("file").addEventListener("change", () => {
    openPhotos($("file").files);
    $("file").value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => openPhotos(event.clipboardData?.files));
  addEventListener("keydown", pressKey);
  addEventListener("resize", placeFinder);
  video.addEventListener("resize", placeFinder);
  document.addEventListener("visibilitychange", pause);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) addEventListener(kind, drag);
}

function turnCamera() {
  facing = facing === "environment" ? "user" : "environment";
  openCamera();
}

// Stops the camera while nobody sees the page, unless a picture of it is held.
function pause() {
  if (document.body.dataset.state !== "live" || isHeld) return;
  if (document.hidden) closeCamera();
  else if (!stream) openCamera();
}

function pressKey(event) {
  const isChord = event.ctrlKey || event.metaKey || event.altKey;
  if (event.key !== " " || isChord || event.target.tagName === "BUTTON") return;
  pressHold();
  event.preventDefault();
}

function drag(event) {
  event.preventDefault();
  document.body.classList.toggle("dropping", event.type === "dragenter" || event.type === "dragover");
  if (event.type === "drop") openPhotos(event.dataTransfer.files);
}

start();
