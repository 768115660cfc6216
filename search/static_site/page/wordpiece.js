// Splits texts into the tokens of a WordPiece tokenizer like BERT's, as the Python library tokenizers does. They differ
// only in a few hundred signs of rare scripts that Unicode has added since 2015, which the library does not know.

const SPACE = /\p{White_Space}/u;
const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/u;
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/u;
const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/u;
const ACCENTS = /\p{Mn}/gu;

export class WordPiece {
  // The fields are those that `wordpiece_fields` in Python writes.
  constructor({ tokens, special, unknown, prefix, longest_word, clean, chinese, accents, lowercase }) {
    Object.assign(this, { unknown, prefix, clean, chinese, accents, lowercase });
    this.longestWord = longest_word;
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.special = special.map((id) => tokens[id]).sort((a, b) => b.length - a.length);
  }

  // The ids of the tokens of a text, without the special tokens that a model may need around them.
  tokenize(text) {
    return this.#split(text).flatMap((part) =>
      this.special.includes(part) ? [this.ids.get(part)] : this.#words(part).flatMap((word) => this.#pieces(word)),
    );
  }

  #split(text) {
    if (!this.special.length) return [text];
    const names = this.special.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
    return text.split(new RegExp(`(${names.join("|")})`, "u"));
  }

  #words(text) {
    let cleaned = "";
    for (const character of text) {
      if (this.clean && SPACE.test(character)) cleaned += " ";
      else if (this.clean && CONTROL.test(character)) continue;
      else if (this.chinese && CHINESE.test(character)) cleaned += ` ${character} `;
      else cleaned += character;
    }
    if (this.accents) cleaned = cleaned.normalize("NFD").replace(ACCENTS, "");
    // Not of the whole text, in which a sigma at the end of a word would become another letter.
    if (this.lowercase) cleaned = Array.from(cleaned, (character) => character.toLowerCase()).join("");
    const words = [];
    let word = "";
    const end = () => {
      if (word) words.push(word);
      word = "";
    };
    for (const character of cleaned) {
      if (SPACE.test(character)) end();
      else if (PUNCTUATION.test(character)) {
        end();
        words.push(character);
      } else word += character;
    }
    end();
    return words;
  }

  // The longest token that a word starts with, then the longest one that the rest starts with, and so on.
  #pieces(word) {
    const characters = Array.from(word);
    if (characters.length > this.longestWord) return [this.unknown];
    const pieces = [];
    let start = 0;
    while (start < characters.length) {
      let end = characters.length;
      let id;
      for (; end > start; --end) {
        const piece = characters.slice(start, end).join("");
        id = this.ids.get(start ? this.prefix + piece : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return [this.unknown];
      pieces.push(id);
      start = end;
    }
    return pieces;
  }
}
