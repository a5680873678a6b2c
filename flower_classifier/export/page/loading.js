// What is there before the first answer: the service worker that keeps the page, and how far the loading has come.

import { TEXTS } from "./texts.js";

const $ = (id) => document.getElementById(id);
const CONTROL_WITHIN = 4000; // ms in which a service worker takes over, where it can
const KEPT_WITHIN = 20; // s that writing may take, after which no more is said of it
const MODEL = "model.onnx";

// Waits until what is fetched goes through the service worker, which keeps it for the next time without a network.
export async function settleServiceWorker() {
  if (!("serviceWorker" in navigator)) return; // no https
  const isUpdate = Boolean(navigator.serviceWorker.controller);
  const isControlled = new Promise((resolve) => {
    if (isUpdate) resolve();
    navigator.serviceWorker.addEventListener("controllerchange", () => {
      const hasBegun = !["loading", "failed"].includes(document.body.dataset.state);
      if (!isUpdate) resolve();
      else if (!hasBegun) location.reload(); // half of what it has loaded is the earlier export's
    });
  });
  try {
    const { installing } = await navigator.serviceWorker.register("service_worker.js");
    const hasFailed = new Promise((resolve) => {
      installing?.addEventListener("statechange", () => installing.state === "redundant" && resolve());
    });
    const isLate = new Promise((resolve) => setTimeout(resolve, CONTROL_WITHIN));
    await Promise.race([isControlled, hasFailed, isLate]);
  } catch {
    // a private window, say: the page works, but only with a network
  }
}

// Says what a visitor waits for, and in the end whether it is kept: whether a full phone has room shows only then, since
// browsers do not tell. Asks the browser not to drop what this visit has brought.
export async function announceLoading() {
  const isKept = await areKept([MODEL]);
  const canKeep = Boolean(navigator.serviceWorker?.controller);
  if (canKeep && !isKept) $("loading-text").textContent = TEXTS.loadedOnce;
  return async (files) => {
    if (!isKept && canKeep) navigator.storage?.persist?.().catch(() => {});
    for (let tries = 0; canKeep && tries < KEPT_WITHIN; tries++) {
      if (await areKept(files)) return ($("private").textContent = TEXTS.isKept);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  };
}

async function areKept(files) {
  const found = await Promise.all(files.map((file) => self.caches?.match(file).catch(() => null)));
  return found.every(Boolean);
}

export function showProgress({ done, total }) {
  $("progress").value = total ? done / total : 0;
  $("progress-text").textContent = TEXTS.loaded(done, total);
}
