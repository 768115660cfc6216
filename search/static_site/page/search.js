// Searches in the files of the page: by meaning, by words, and by both. The page shows what this finds.

import { keep, readManifest, readPackedBytes, readPackedJson } from "./files.js";
import { Vectors } from "./vectors.js";
import { Words } from "./words.js";

// The places of the largest scores above a least one, the largest first.
export function best(scores, limit, least) {
  const rows = [];
  for (let row = 0; row < scores.length; ++row) {
    if (!(scores[row] > (rows.length < limit ? least : scores[rows[limit - 1]]))) continue;
    let place = rows.length;
    while (place && scores[rows[place - 1]] < scores[row]) --place;
    rows.splice(place, 0, row);
    if (rows.length > limit) rows.pop();
  }
  return rows;
}

export class Search {
  static async open() {
    const search = new Search();
    search.manifest = await readManifest();
    search.shards = new Map();
    return search;
  }

  async readWords() {
    const { words, rows, language } = this.manifest;
    const [list, bytes] = await Promise.all([readPackedJson(words.list), readPackedBytes(words.arrays)]);
    this.words = new Words(list, bytes, rows, language);
  }

  async readVectors() {
    if (this.manifest.model) this.vectors = await Vectors.read(this.manifest);
  }

  // Keep all files for later, unless the texts are too large to read before anyone asks for them.
  async keepAll() {
    const { files, texts_bytes: size } = this.manifest;
    if (size <= 2 ** 25 && !navigator.connection?.saveData) await keep(files);
  }

  async byMeaning(query, limit) {
    return this.vectors ? best(await this.vectors.scores(query), limit, -Infinity) : [];
  }

  byWords(query, limit) {
    return this.words ? best(this.words.scores(query), limit, 0) : [];
  }

  // The words of a query to mark in texts.
  marks(query) {
    return this.words?.marks(query) ?? new Set();
  }

  // Both rankings, merged by the ranks of their texts, as in ranking.py.
  async rows(query) {
    const { pool, smoothing } = this.manifest.fusion;
    const scores = new Map();
    for (const ranking of [await this.byMeaning(query, pool), this.byWords(query, pool)]) {
      ranking.forEach((row, rank) => scores.set(row, (scores.get(row) ?? 0) + 1 / (smoothing + 1 + rank)));
    }
    return [...scores].sort(([a, x], [b, y]) => y - x || a - b).map(([row]) => row);
  }

  // The texts and fields of rows.
  async hits(rows) {
    return Promise.all(rows.map((row) => this.#hit(row)));
  }

  async #hit(row) {
    const { starts, files } = this.manifest.texts;
    let shard = starts.length - 1;
    while (starts[shard] > row) --shard;
    if (!this.shards.has(shard)) {
      const reading = readPackedJson(files[shard]);
      this.shards.set(shard, reading);
      // The next search tries again.
      reading.catch(() => this.shards.delete(shard));
    }
    const rows = await this.shards.get(shard);
    return rows[row - starts[shard]];
  }
}
