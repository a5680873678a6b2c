// The page: camera or photo in, answer out. The work itself is done in worker.js.
//
// For other scripts: each answer is also an event, `addEventListener("answer", ({ detail }) => …)`, where `held` says
// that the picture is kept. ?engine=wasm or
// webgpu and ?threads=1 choose what runs the network.

const $ = (id) => document.getElementById(id);
const [video, photo, finder] = ["video", "photo", "finder"].map($);
const SHOWN = 3; // bars
const SPEAK_EVERY = 2500; // ms, at most so often a screen reader is told
const FEWEST_MS = 40; // a frame: more would only warm the phone
const MARGIN = { side: 14, top: 54, bottom: 34 }; // px, of the corners: the title and the answer are there
const SMOOTH = 0.85; // weight of the frame before in the frame rate
const CONTROL_WITHIN = 4000; // ms in which a service worker takes over, where it can

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map(); // pictures by number -> what to do with their answers
let [asked, classes, preprocessing] = [0, 0, null];
let stream = null;
let [isHeld, facing, rate, spokenAt, spoken] = [false, "environment", 0, 0, ""];

// ------------------------------------------------------------------------------------------------------------ start

async function start() {
  watchControls();
  const isOld = !("OffscreenCanvas" in window && "DecompressionStream" in window);
  if (isOld) return fail("This browser is too old to run the classifier. One from 2023 or later does.");
  await settleServiceWorker();
  const parameters = new URLSearchParams(location.search);
  const options = {
    cardSha256: document.documentElement.dataset.cardSha256,
    engine: parameters.get("engine"),
    threads: parameters.has("threads") ? Number(parameters.get("threads")) : null,
  };
  worker.postMessage({ kind: "load", options });
}

// Waits until what is fetched goes through the service worker, which keeps it for the next time without a network.
async function settleServiceWorker() {
  if (!("serviceWorker" in navigator)) return; // no https
  const isUpdate = Boolean(navigator.serviceWorker.controller);
  const isControlled = new Promise((resolve) => {
    if (isUpdate) resolve();
    navigator.serviceWorker.addEventListener("controllerchange", () => {
      if (!isUpdate) resolve();
      else if (document.body.dataset.state === "loading") location.reload(); // half of it would be the earlier export's
    });
  });
  try {
    await navigator.serviceWorker.register("service_worker.js");
    await Promise.race([isControlled, new Promise((resolve) => setTimeout(resolve, CONTROL_WITHIN))]);
  } catch {
    // a private window, say: the page works, but only with a network
  }
}

worker.onmessage = ({ data }) => {
  if (data.kind === "progress") return showProgress(data);
  if (data.kind === "ready") return begin(data);
  const settle = waiting.get(data.id);
  waiting.delete(data.id);
  if (settle) settle(data);
  else if (data.kind === "failure") fail(data.message);
};

worker.onerror = (event) => fail(`The classifier could not be started: ${event.message || "a file of it is missing"}`);

function begin(ready) {
  ({ classes, preprocessing } = ready);
  document.body.dataset.engine = ready.engine;
  $("loading").hidden = true;
  $("answer").hidden = false;
  $("choose").disabled = false;
  $("detail").textContent = `Point the camera at one of ${classes.toLocaleString("en")} things it knows.`;
  openCamera();
}

function showProgress({ done, total }) {
  $("progress").value = total ? done / total : 0;
  $("progress-text").textContent = `${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`;
}

// Returns what the worker says of a picture: a file, or a bitmap, which is the worker's from then on.
function ask(picture) {
  const id = ++asked;
  const answered = new Promise((resolve) => waiting.set(id, resolve));
  worker.postMessage({ kind: "picture", id, picture }, picture instanceof ImageBitmap ? [picture] : []);
  return answered;
}

// ------------------------------------------------------------------------------------------------------------ camera

async function openCamera() {
  closeCamera();
  if (!navigator.mediaDevices?.getUserMedia) return showNoCamera("NotSupportedError");
  try {
    const wanted = { facingMode: facing, width: { ideal: 1280 }, height: { ideal: 720 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    return showNoCamera(error.name);
  }
  video.srcObject = stream;
  stream.getVideoTracks()[0].addEventListener("ended", () => showNoCamera("NotReadableError"));
  const { facingMode } = stream.getVideoTracks()[0].getSettings();
  video.classList.toggle("mirrored", facingMode === "user");
  await video.play().catch(() => {});
  const devices = await navigator.mediaDevices.enumerateDevices();
  $("turn").hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
  showLive();
  watch(stream);
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
}

// Answers one frame after the other while this stream is the one that is shown.
async function watch(own) {
  while (stream === own) {
    const began = performance.now();
    if (!isHeld && !document.hidden && video.videoWidth) {
      const answer = await ask(await createImageBitmap(video));
      if (stream !== own) return;
      if (!isHeld) show(answer);
      showRate(Math.max(performance.now() - began, FEWEST_MS));
    }
    const rest = isHeld || document.hidden ? 100 : FEWEST_MS - (performance.now() - began);
    await new Promise((resolve) => setTimeout(resolve, Math.max(rest, 0)));
  }
}

function showRate(milliseconds) {
  rate = rate ? SMOOTH * rate + ((1 - SMOOTH) * 1000) / milliseconds : 1000 / milliseconds;
  $("rate").textContent = `${rate < 9.5 ? rate.toFixed(1) : Math.round(rate)} fps`;
}

const NO_CAMERA = {
  NotAllowedError: "The camera is off for this page. Allow it in the browser’s settings, or choose a photo.",
  NotFoundError: "There is no camera here. Choose a photo, or drop one onto this page.",
  NotReadableError: "Another program is using the camera. Close it, or choose a photo.",
  NotSupportedError: "The camera needs a page with https. Choose a photo, or drop one onto this page.",
};

function showNoCamera(reason) {
  closeCamera();
  setState("no-camera");
  notice(NO_CAMERA[reason] ?? "The camera does not start. Choose a photo, or drop one onto this page.", true);
  $("detail").textContent = `Choose a photo of one of ${classes.toLocaleString("en")} things it knows.`;
}

// ------------------------------------------------------------------------------------------------------------ photos

async function openPhoto(file) {
  if (!file || $("choose").disabled) return;
  closeCamera();
  setState("photo");
  $("notice").hidden = true;
  $("rate").textContent = "";
  const address = URL.createObjectURL(file);
  photo.onload = photo.onerror = () => URL.revokeObjectURL(address);
  photo.src = address;
  photo.alt = file.name;
  photo.hidden = false;
  const answer = await ask(file);
  if (answer.kind === "answer") return show(answer, true);
  photo.hidden = true;
  setState("no-camera");
  clearAnswer();
  notice(answer.message, true);
}

// ------------------------------------------------------------------------------------------------------------ answers

function show(answer, atOnce = false) {
  if (answer.kind === "failure") return fail(answer.message);
  const [first] = answer.predictions;
  const isStranger = answer.known === false;
  $("answer").classList.toggle("stranger", isStranger);
  $("verdict").textContent = isStranger ? `None of the ${classes.toLocaleString("en")} classes` : first.name;
  $("detail").textContent = isStranger ? "Most like it, of those it knows:" : `${percent(first.probability)} sure`;
  answer.predictions.slice(0, SHOWN).forEach(showBar);
  speak(isStranger ? $("verdict").textContent : `${first.name}, ${$("detail").textContent}`, atOnce);
  dispatchEvent(new CustomEvent("answer", { detail: { ...answer, held: isHeld } }));
}

function showBar({ name, probability }, place) {
  const row = $("bars").children[place] ?? $("bars").appendChild(newBar());
  row.querySelector(".name").textContent = name;
  row.querySelector(".share").textContent = percent(probability);
  row.querySelector(".fill").style.setProperty("--share", probability.toFixed(3));
}

function newBar() {
  const row = document.createElement("li");
  for (const kind of ["name", "share", "track"]) {
    row.appendChild(document.createElement("span")).className = kind;
  }
  row.querySelector(".track").appendChild(document.createElement("span")).className = "fill";
  return row;
}

function clearAnswer() {
  $("answer").classList.remove("stranger");
  $("verdict").textContent = $("detail").textContent = "\u00a0";
  $("bars").replaceChildren();
}

// Only certainty is 100 %, so nothing else is rounded to it, or to 0 %.
function percent(share) {
  const rounded = Math.min(Math.max(Math.round(100 * share), 1), 99);
  if (share > 0.995) return "> 99 %";
  return share < 0.005 ? "< 1 %" : `${rounded} %`;
}

// Tells a screen reader of another answer, but not of every frame.
function speak(text, atOnce) {
  const name = text.split(",")[0];
  if (name === spoken || (!atOnce && performance.now() - spokenAt < SPEAK_EVERY)) return;
  [spoken, spokenAt] = [name, performance.now()];
  $("spoken").textContent = text;
}

function notice(text, canRetry) {
  $("notice-text").textContent = text;
  $("again").hidden = !canRetry;
  $("notice").hidden = false;
}

function fail(message) {
  closeCamera();
  setState("failed");
  $("loading").hidden = true;
  $("choose").disabled = true;
  notice(message, false);
}

// ----------------------------------------------------------------------------------------------------------- controls

function setState(state) {
  document.body.dataset.state = state;
  setHeld(false);
  $("hold").disabled = state !== "live" && state !== "photo";
  $("hold").hidden = state === "no-camera" || state === "failed";
  $("choose").classList.toggle("main", $("hold").hidden);
  $("hold").firstElementChild.textContent = state === "photo" ? "Camera" : "Hold";
}

function showLive() {
  setState("live");
  photo.hidden = true;
  $("notice").hidden = true;
  clearAnswer();
  placeFinder();
}

function setHeld(held) {
  isHeld = held;
  $("hold").setAttribute("aria-pressed", String(held));
  if (document.body.dataset.state === "live") $("hold").firstElementChild.textContent = held ? "Go on" : "Hold";
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
  setHeld(true);
  const answer = await ask(await createImageBitmap(video));
  if (isHeld) show(answer, true);
}

// Puts the corners around what the network sees: the middle of the picture, of which the stage may hide the sides.
function placeFinder() {
  if (!preprocessing || !video.videoWidth) return;
  const { clientWidth: width, clientHeight: height } = video;
  const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
  const share = preprocessing.crop_size / preprocessing.resize_size;
  const side = scale * share * Math.min(video.videoWidth, video.videoHeight);
  const [across, down] = [Math.max((width - side) / 2, MARGIN.side), (height - side) / 2];
  finder.style.inset = `${Math.max(down, MARGIN.top)}px ${across}px ${Math.max(down, MARGIN.bottom)}px`;
}

function watchControls() {
  $("hold").addEventListener("click", pressHold);
  $("choose").addEventListener("click", () => $("file").click());
  $("again").addEventListener("click", openCamera);
  $("turn").addEventListener("click", turnCamera);
  $("file").addEventListener("change", () => {
    openPhoto($("file").files[0]);
    $("file").value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => openPhoto(event.clipboardData?.files[0]));
  addEventListener("keydown", pressKey);
  addEventListener("resize", placeFinder);
  video.addEventListener("resize", placeFinder);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) addEventListener(kind, drag);
}

function turnCamera() {
  facing = facing === "environment" ? "user" : "environment";
  openCamera();
}

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.tagName !== "BUTTON") pressHold();
  else if (event.key === "o") $("choose").click();
  else if (event.key === "c" && !$("turn").hidden) turnCamera();
  else return;
  event.preventDefault();
}

function drag(event) {
  event.preventDefault();
  document.body.classList.toggle("dropping", event.type === "dragenter" || event.type === "dragover");
  if (event.type === "drop") openPhoto(event.dataTransfer.files[0]);
}

start();
