// Shows what a search finds, as people type. Texts become nodes of text, and never HTML.

import { Search } from "./search.js";
import { partsOf } from "./words.js";

const HITS = 10;
// The characters of a long text to show around the first word of the query.
const SHOWN = 320;
const BEFORE = 80;
// While someone types, every key would start a search.
const PAUSE_MS = 15;
// The page works without a network once it has read all texts. The queries after the first one come before that.
const KEEP_AFTER_MS = 1000;
const [query, status, hits, more] = ["query", "status", "hits", "more"].map((id) => document.getElementById(id));
let search;
let shown = HITS;
let latest = 0;
let timer;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// An address that a link may have; undefined for all others, such as those of scripts.
function address(url) {
  try {
    const found = new URL(url, location.href);
    return ["http:", "https:"].includes(found.protocol) ? found.href : undefined;
  } catch {
    return undefined;
  }
}

// A text with the words of the query marked.
function marked(text, marks) {
  const parts = [...partsOf(text, search.manifest.language)];
  return parts.map((part) => (marks.has(part.word) ? element("mark", { textContent: part.text }) : part.text));
}

// The part of a text to show: from the first word of the query on.
function excerpt(text, marks) {
  if (text.length <= SHOWN) return text;
  let place = 0;
  for (const part of partsOf(text, search.manifest.language)) {
    if (marks.has(part.word)) break;
    place += part.text.length;
  }
  const first = place < text.length ? Math.max(0, Math.min(place - BEFORE, text.length - SHOWN)) : 0;
  // Whole words, in scripts with spaces; and never half of a character outside the basic plane, which takes two places.
  let part = text.slice(first, first + SHOWN);
  if (first) part = part.replace(/^\S{0,20}\s+|^[\udc00-\udfff]/, "");
  const isCut = first + SHOWN < text.length;
  if (isCut) part = part.replace(/\s+\S{0,20}$|[\ud800-\udbff]$/, "");
  return `${first ? "… " : ""}${part.replace(/\s+/g, " ").trim()}${isCut ? " …" : ""}`;
}

function hit([text, fields], marks) {
  const { title, url, ...others } = fields;
  const href = url && address(url);
  const item = element("li");
  const name = title || (href && url);
  if (name) {
    const heading = element(href ? "a" : "span", {}, ...marked(String(name), marks));
    if (href) heading.href = href;
    item.append(element("h2", {}, heading));
  }
  const short = excerpt(text, marks);
  const body = element("p", { className: "text" }, ...marked(short, marks));
  if (short !== text) {
    const whole = element("button", { type: "button", textContent: "Show all" });
    whole.addEventListener("click", () => body.replaceChildren(text));
    body.append(" ", whole);
  }
  item.append(body);
  const facts = Object.entries(others).filter(([, value]) => value !== null && value !== "");
  if (facts.length) {
    const pair = ([key, value]) => [element("dt", { textContent: key }), element("dd", { textContent: String(value) })];
    item.append(element("dl", {}, ...facts.map((fact) => element("div", {}, ...pair(fact)))));
  }
  return item;
}

// Put a query into the address of the page, so that people can link to what it finds.
function remember(asked) {
  const place = new URL(location.href);
  if (asked) place.searchParams.set("q", asked);
  else place.searchParams.delete("q");
  try {
    history.replaceState(null, "", place);
  } catch {
    // Safari allows a hundred changes in half a minute.
  }
}

async function show() {
  const asked = query.value.trim();
  const number = ++latest;
  remember(asked);
  if (!asked) {
    hits.replaceChildren();
    more.hidden = true;
    status.textContent = ready();
    return;
  }
  const rows = await search.rows(asked);
  const found = await search.hits(rows.slice(0, shown));
  // Someone has typed on in the meantime.
  if (number !== latest) return;
  const marks = search.marks(asked);
  hits.replaceChildren(...found.map((each) => hit(each, marks)));
  more.hidden = rows.length <= shown;
  status.textContent = rows.length ? `The best ${found.length} of ${search.manifest.rows} texts` : "No text matches.";
  // For benchmarks/static_site.py.
  performance.mark("shown");
}

function ready() {
  const { rows, model } = search.manifest;
  const count = rows === 1 ? "1 text" : `${rows} texts`;
  return `${count}, searched ${model ? "by meaning and by words" : "by words"} in your browser`;
}

function failed(error) {
  console.error(error);
  status.textContent = `Something went wrong: ${error.message}. Reload the page to try again.`;
}

const update = () => show().catch(failed);

query.addEventListener("input", () => {
  if (!search) return;
  shown = HITS;
  clearTimeout(timer);
  timer = setTimeout(update, PAUSE_MS);
});
query.form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  if (search) update();
});
more.addEventListener("click", () => {
  const next = shown;
  shown += HITS;
  show().then(() => hits.children[next]?.querySelector("a")?.focus(), failed);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === query || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  query.focus();
});

async function start() {
  const opened = await Search.open();
  query.value ||= new URLSearchParams(location.search).get("q") ?? "";
  // Words are there first, and the model improves what they find.
  const vectors = opened.readVectors();
  vectors.catch(() => undefined);
  await opened.readWords();
  search = opened;
  await show();
  await vectors;
  if (search.vectors) await show();
  await new Promise((done) => setTimeout(done, KEEP_AFTER_MS));
  await navigator.serviceWorker?.register("service-worker.js").catch(console.warn);
  await search.keepAll().catch(console.warn);
}

start().catch(failed);
