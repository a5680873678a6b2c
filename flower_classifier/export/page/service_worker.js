// Keeps the page for times without a network. Every export has a version of its own, and so a cache of its own.

const VERSION = "{{version}}";
const SHELL = {{shell}};
const CACHE = `classifier ${new URL(registration.scope).pathname} `; // of this page; a host may have others

addEventListener("install", (event) => {
  event.waitUntil(keepShell().then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  event.waitUntil(dropOthers().then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  const isOurs = event.request.method === "GET" && event.request.url.startsWith(registration.scope);
  if (isOurs) event.respondWith(answer(event.request));
});

async function keepShell() {
  const cache = await caches.open(CACHE + VERSION);
  await cache.addAll(SHELL.map((name) => new Request(name, { cache: "reload" })));
}

async function dropOthers() {
  const names = await caches.keys();
  const old = names.filter((name) => name.startsWith(CACHE) && name !== CACHE + VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}

// Answers from the cache; what is not in it yet, such as the network, is fetched and kept.
async function answer(request) {
  const cache = await caches.open(CACHE + VERSION);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return isolated(kept);
  const fetched = await fetch(new Request(request.url, { cache: "reload" }));
  if (fetched.status === 200) await cache.put(request, fetched.clone());
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
