// Computes the vectors of queries, and compares them with those of the texts. All vectors are in eight bits.

import { readBytes, readPackedJson } from "./files.js";

// A table with a scale for each row, as `in_eight_bits` in Python writes it: the scales, and then the rows.
class Table {
  constructor(bytes, rows) {
    this.scales = new Float32Array(bytes, 0, rows);
    this.numbers = new Int8Array(bytes, 4 * rows);
    this.channels = rows ? this.numbers.length / rows : 0;
  }

  static async read({ file, rows }) {
    return new Table(await readBytes(file), rows);
  }

  // Add a row to a vector.
  add(row, vector) {
    const scale = this.scales[row];
    const start = row * this.channels;
    for (let channel = 0; channel < this.channels; ++channel) vector[channel] += scale * this.numbers[start + channel];
  }

  // The product of each row with a vector; minus infinity for rows that are 0.
  products(vector) {
    const { scales, numbers, channels } = this;
    const products = new Float32Array(scales.length);
    for (let row = 0, place = 0; row < scales.length; ++row) {
      let product = 0;
      for (let channel = 0; channel < channels; ++channel, ++place) product += vector[channel] * numbers[place];
      products[row] = scales[row] ? scales[row] * product : -Infinity;
    }
    return products;
  }
}

// A model whose vector of a text is the sum of the rows of its tokens, in the direction of their mean.
class StaticModel {
  static async read({ table, tokenizer, is_wordpiece: isWordPiece }) {
    const reading = isWordPiece ? StaticModel.#wordPiece(tokenizer) : StaticModel.#library(tokenizer);
    const [rows, tokenize] = await Promise.all([Table.read(table), reading]);
    return Object.assign(new StaticModel(), { table: rows, tokenize });
  }

  static async #wordPiece(name) {
    const [fields, { WordPiece }] = await Promise.all([readPackedJson(name), import("./wordpiece.js")]);
    const tokenizer = new WordPiece(fields);
    return (text) => tokenizer.tokenize(text);
  }

  static async #library(name) {
    const [content, { Tokenizer }] = await Promise.all([readPackedJson(name), import("./tokenizers.mjs")]);
    const tokenizer = new Tokenizer(content, {});
    return (text) => tokenizer.encode(text).ids;
  }

  async vector(text, { max_length: most, skipped }) {
    const vector = new Float32Array(this.table.channels);
    const tokens = this.tokenize(text).slice(0, most ?? undefined);
    for (const token of tokens.slice(skipped)) this.table.add(token, vector);
    return vector;
  }
}

const MODELS = {
  static: (fields) => StaticModel.read(fields),
  graph: async (fields) => (await import("./graph-model.js")).GraphModel.read(fields),
};

export class Vectors {
  static async read({ vectors, model }) {
    const [table, queries] = await Promise.all([Table.read(vectors), MODELS[model.kind](model)]);
    return Object.assign(new Vectors(), { table, queries, model });
  }

  // The cosine of each text with a query; minus infinity for texts without a vector, and if the query has none.
  async scores(query) {
    const vector = await this.queries.vector(this.model.prompt + query, this.model);
    const length = Math.hypot(...vector);
    if (!length) return new Float32Array(this.table.scales.length).fill(-Infinity);
    return this.table.products(vector.map((value) => value / length));
  }
}
