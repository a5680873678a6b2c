// Keeps the page for times without a network. Every export has a version of its own, and so a cache of its own, which
// takes the place of the earlier one when it is whole. Of the host's other files it touches none.

const VERSION = "{{version}}";
const FILES = {{files}}; // name -> SHA-256 of the file, and of what the host may let the browser unpack of it
const LATER = {{later}}; // kept when they are first fetched: not every browser needs each of them
const CACHE = `classifier ${new URL(registration.scope).pathname} `; // of this page; a host may have others
const PATIENCE = 3000; // ms for the host to show the page, before the one that is kept is shown
const MARK = "data-export="; // in index.html of every export, before its version
const GONE_AFTER = 24 * 3600 * 1000; // ms that a host shows something else in the page's place, before that is its end

const addressOf = (name) => new URL(name, registration.scope).href;
const nameOf = new Map(["", ...Object.keys(FILES)].map((name) => [addressOf(name), name || "index.html"]));
const ELSE = addressOf("something-else"); // of a note in the cache: since when the host has shown that

addEventListener("install", (event) => event.waitUntil(keep().then(() => skipWaiting())));

addEventListener("activate", (event) => event.waitUntil(dropCaches(CACHE + VERSION).then(() => clients.claim())));

addEventListener("fetch", (event) => {
  const { request } = event;
  const [address] = request.url.split(/[?#]/);
  if (request.method !== "GET" || !nameOf.has(address)) return;
  event.respondWith(request.mode === "navigate" ? page(event, address) : file(event, address));
});

// Keeps what every visit needs, and what an earlier export has kept beside that. A file that has not changed is taken
// from there. Fails where one cannot be had, and nothing changes: the earlier export stays.
async function keep() {
  const earlier = await Promise.all((await ourCaches()).map((name) => caches.open(name)));
  const cache = await caches.open(CACHE + VERSION);
  const take = async (address) => {
    for (const kept of earlier) {
      const response = await kept.match(address);
      if (response && (await isOfThis(response.clone(), address))) return cache.put(address, response);
    }
    const fetched = await fetch(address, { cache: "reload" });
    if (!(await isOfThis(fetched.clone(), address, true))) throw new Error(`${address} is not of this export`);
    await cache.put(address, fetched);
  };
  const isKept = async (address) => (await Promise.all(earlier.map((kept) => kept.match(address)))).some(Boolean);
  const takeOne = async ([address, name]) => (!LATER.includes(name) || (await isKept(address))) && take(address);
  await Promise.all([...nameOf].map(takeOne));
}

// Says whether a response is a file of this export. A host may have put a script of its own into a page `asFetched`.
async function isOfThis(response, address, asFetched = false) {
  const name = nameOf.get(address);
  if (response.status !== 200) return false;
  if (asFetched && name === "index.html") return (await response.text()).includes(`${MARK}"${VERSION}"`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await response.arrayBuffer()));
  return FILES[name].includes(Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join(""));
}

const ourCaches = async () => (await caches.keys()).filter((name) => name.startsWith(CACHE));

async function dropCaches(but) {
  await Promise.all((await ourCaches()).filter((name) => name !== but).map((name) => caches.delete(name)));
}

// Shows the page that is kept, since its files are kept too; another export in its place comes with its own service
// worker. Where the page has gone from this address, so does this.
async function page(event, address) {
  const shown = await Promise.race([
    fetch(address, { cache: "no-cache" }).catch(() => null),
    new Promise((resolve) => setTimeout(resolve, PATIENCE, null)),
  ]);
  if (shown?.ok && (await hasGone(await shown.clone().text()))) {
    await Promise.all([registration.unregister(), dropCaches("")]);
    return shown;
  }
  return file(event, address);
}

// Says whether another site has the page's address, by what the host shows there: there is no script of ours beside it,
// or it has been there for a day. Until then it may be a word about maintenance.
async function hasGone(text) {
  const cache = await caches.open(CACHE + VERSION);
  if (text.includes(MARK)) {
    await cache.delete(ELSE);
    return false;
  }
  const script = await fetch(addressOf("service_worker.js"), { cache: "no-store" }).catch(() => null);
  if ([404, 410].includes(script?.status)) return true;
  const since = await cache.match(ELSE);
  if (!since) await cache.put(ELSE, new Response(String(Date.now()))).catch(() => {});
  return since ? Date.now() - Number(await since.text()) > GONE_AFTER : false;
}

// Answers from the cache; what is not in it yet, or is asked for anew, is fetched, and kept beside that if it is of this
// export. Where nothing can be kept, on a full phone say, the page works with a network.
async function file(event, address) {
  const cache = await caches.open(CACHE + VERSION).catch(() => null);
  const kept = event.request.cache === "reload" ? null : await cache?.match(address);
  if (kept) return isolated(kept);
  const fetched = await fetch(address, { cache: "reload" });
  const copies = [fetched.clone(), fetched.clone()];
  const keeping = isOfThis(copies[0], address, true).then((isOurs) => isOurs && cache?.put(address, copies[1]));
  event.waitUntil(keeping.catch(() => {}));
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
