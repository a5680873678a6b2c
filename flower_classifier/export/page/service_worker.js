// Keeps the page for times without a network. Every export has a version of its own, and so a cache of its own.
// Of the host's other files it touches none.

const VERSION = "{{version}}";
const SHELL = {{shell}}; // fetched at once
const LATER = {{later}}; // kept when they are first fetched
const CACHE = `classifier ${new URL(registration.scope).pathname} `; // of this page; a host may have others
const PATIENCE = 3000; // ms for the host to show the page, before the one that is kept is shown
const MARK = "data-card-sha256"; // in index.html of every export

const addressOf = (name) => new URL(name, registration.scope).href;
const ours = new Set([...SHELL, ...LATER].map(addressOf));

addEventListener("install", (event) => {
  event.waitUntil(keepShell().then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  event.waitUntil(dropCaches(CACHE + VERSION).then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  const { request } = event;
  const [address] = request.url.split(/[?#]/);
  if (request.method !== "GET" || !ours.has(address)) return;
  event.respondWith(request.mode === "navigate" ? page(request, address) : file(request, address));
});

async function keepShell() {
  const cache = await caches.open(CACHE + VERSION);
  await cache.addAll(SHELL.map((name) => new Request(name, { cache: "reload" })));
}

async function dropCaches(but) {
  const names = await caches.keys();
  const old = names.filter((name) => name.startsWith(CACHE) && name !== but);
  await Promise.all(old.map((name) => caches.delete(name)));
}

// Shows the page that is kept, since its files are kept too; another export in its place comes with its own service
// worker. Where the host shows something else at this address, the page has gone, and so does this.
async function page(request, address) {
  const shown = await Promise.race([
    fetch(address, { cache: "no-cache" }).catch(() => null),
    new Promise((resolve) => setTimeout(resolve, PATIENCE, null)),
  ]);
  if (shown?.ok && !(await shown.clone().text()).includes(MARK)) {
    await Promise.all([registration.unregister(), dropCaches("")]);
    return shown;
  }
  return file(request, address);
}

// Answers from the cache; what is not in it yet, or is asked for anew, is fetched and kept.
async function file(request, address) {
  const cache = await caches.open(CACHE + VERSION);
  const kept = request.cache === "reload" ? null : await cache.match(address);
  if (kept) return isolated(kept);
  const fetched = await fetch(address, { cache: "reload" });
  if (fetched.status === 200) await cache.put(address, fetched.clone());
  return isolated(fetched);
}

// Adds the headers without which a browser gives a page no threads. Nothing from elsewhere is ever loaded here.
function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
