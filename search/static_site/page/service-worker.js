// Sends the page when there is no network. The page itself keeps its data; see files.js.

const SHELL = ["./", ...{{shell}}];
const CACHE = `search ${new URL(".", location.href).pathname}`;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// The newest page, or else the one that was there last.
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const { pathname } = new URL(self.registration.scope);
  const name = url.pathname.slice(pathname.length) || "./";
  if (url.origin !== location.origin || !SHELL.includes(name === "index.html" ? "./" : name)) return;
  event.respondWith(newest(event.request, name === "index.html" ? "./" : name));
});

async function newest(request, name) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(name, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(name);
    if (kept) return kept;
    throw error;
  }
}
