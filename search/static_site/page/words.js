// Searches for words, and ranks texts with BM25 (Robertson and Zaragoza, 2009). `words.py` splits texts in the same way.

const ALONE =
  "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3ffff}";
const WORD = new RegExp(`[${ALONE}]|(?:(?![${ALONE}])[\\p{L}\\p{N}\\p{M}])+`, "gu");
const ACCENTS = /[\u0300-\u036f]/g;
const MOST_COMPLETIONS = 50;
const MARKED_TEXTS = 10;
const MARKED_SHARE = 0.15;
// How much the number of occurrences and the length of a text count, as in Lucene.
const SATURATION = 1.2;
const LENGTH = 0.75;

export function wordsOf(text, language) {
  const found = text.normalize("NFKD").toLowerCase().replace(ACCENTS, "").match(WORD) ?? [];
  return language === "English" ? found.map(singular) : found;
}

// The same as in words.py.
function singular(word) {
  if (word.length <= 3 || !word.endsWith("s")) return word;
  if (/(sses|shes|xes|nches|tches)$/.test(word)) return word.slice(0, -2);
  if (word.endsWith("ies") && !"ea".includes(word.at(-4))) return `${word.slice(0, -3)}y`;
  if (word.endsWith("es") && !"aeo".includes(word.at(-3))) return word.slice(0, -1);
  return "eus".includes(word.at(-2)) ? word : word.slice(0, -1);
}

// The parts of a text, each with the word that it is, if it is one.
export function* partsOf(text, language) {
  let end = 0;
  for (const { 0: word, index } of text.matchAll(WORD)) {
    if (index > end) yield { text: text.slice(end, index) };
    yield { text: word, word: wordsOf(word, language)[0] };
    end = index + word.length;
  }
  if (end < text.length) yield { text: text.slice(end) };
}

export class Words {
  // The words in ascending order, the bytes that `WordIndex.to_bytes` returns, the number of texts and their language.
  constructor(words, bytes, rows, language) {
    this.words = words;
    this.places = new Map(words.map((word, place) => [word, place]));
    this.language = language;
    const pairs = (bytes.byteLength - 4 * (words.length + 1 + rows)) / 5;
    this.starts = new Uint32Array(bytes, 0, words.length + 1);
    this.steps = new Uint32Array(bytes, 4 * (words.length + 1), pairs);
    this.lengths = new Uint32Array(bytes, 4 * (words.length + 1 + pairs), rows);
    this.counts = new Uint8Array(bytes, 4 * (words.length + 1 + pairs + rows), pairs);
    this.meanLength = this.lengths.reduce((sum, length) => sum + length, 0) / Math.max(rows, 1);
  }

  // What a query asks for: lists of words, any of which will do. Only the last word may be unfinished.
  terms(query) {
    const asked = [...new Set(wordsOf(query, this.language))];
    return asked
      .map((word, index) => {
        if (this.places.has(word)) return [word];
        return index === asked.length - 1 && word.length > 1 ? this.#completions(word) : [];
      })
      .filter((words) => words.length);
  }

  // The words of a query to mark in texts: without the most frequent ones, unless it has no others.
  marks(query) {
    const rows = this.lengths.length;
    const isRare = (word) => {
      const place = this.places.get(word);
      return this.starts[place + 1] - this.starts[place] <= Math.max(MARKED_TEXTS, rows * MARKED_SHARE);
    };
    const words = this.terms(query).flat();
    const rare = words.filter(isRare);
    return new Set(rare.length ? rare : words);
  }

  // The score of each text: 0 without a word of the query.
  scores(query) {
    const rows = this.lengths.length;
    const scores = new Float64Array(rows);
    for (const words of this.terms(query)) {
      const counts = new Map();
      for (const word of words) {
        const place = this.places.get(word);
        let row = 0;
        for (let pair = this.starts[place]; pair < this.starts[place + 1]; ++pair) {
          row += this.steps[pair];
          counts.set(row, (counts.get(row) ?? 0) + this.counts[pair]);
        }
      }
      const rarity = Math.log(1 + (rows - counts.size + 0.5) / (counts.size + 0.5));
      for (const [row, count] of counts) {
        const length = 1 - LENGTH + (LENGTH * this.lengths[row]) / this.meanLength;
        scores[row] += (rarity * count * (SATURATION + 1)) / (count + SATURATION * length);
      }
    }
    return scores;
  }

  #completions(start) {
    let low = 0;
    for (let high = this.words.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (this.words[middle] < start) low = middle + 1;
      else high = middle;
    }
    const found = this.words.slice(low, low + MOST_COMPLETIONS);
    return found.filter((word) => word.startsWith(start));
  }
}
