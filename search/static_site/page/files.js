// Reads the files of the page, and keeps them for when there is no network.

// The folder of the page, so that several pages on one host keep their files apart.
const CACHE = `search ${new URL(".", location.href).pathname}`;
// Only secure pages have it.
const cached = globalThis.caches?.open(CACHE).catch(() => undefined);
const writing = [];

async function fetched(name, options) {
  const response = await fetch(name, options);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response;
}

// A file whose name says what is in it, so that it never changes.
async function response(name) {
  const cache = await cached;
  const known = await cache?.match(name);
  if (known) return known;
  const found = await fetched(name);
  // The search also works if the disk is full.
  if (cache) writing.push(cache.put(name, found.clone()).catch(() => undefined));
  return found;
}

async function unpacked(name) {
  const { body } = await response(name);
  return new Response(body.pipeThrough(new DecompressionStream("gzip")));
}

export const readBytes = async (name) => (await response(name)).arrayBuffer();
export const readPackedBytes = async (name) => (await unpacked(name)).arrayBuffer();
export const readPackedJson = async (name) => (await unpacked(name)).json();
export const readManifest = async () => (await fetched("site.json", { cache: "no-cache" })).json();

// Keep all files of a site, and forget those of earlier ones.
export async function keep(files) {
  const cache = await cached;
  if (!cache) return;
  await Promise.all(writing);
  const kept = new Set(files.map((name) => new URL(name, location.href).href));
  for (const { url } of await cache.keys()) {
    if (url.endsWith(".bin") && !kept.has(url)) await cache.delete(url);
  }
  for (const name of files) if (!(await cache.match(name))) await cache.add(name);
}
