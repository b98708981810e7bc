/** Byte-level BPE: the tokenizer of a base pretrained on the spot, from its tokenizer.json. */

/**
 * How a text is split before merging, as `tokenizers` does it (GPT-2's expression). Its engine counts U+0085 as white
 * space and not U+FEFF: Unicode's White_Space, and not JavaScript's \s.
 */
const WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The character that stands for each byte in the vocabulary: a printable byte is itself, the others count from U+0100. */
function byteCharacters() {
  let others = 0;
  const printed = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printed(byte) ? byte : 0x100 + others++));
}

function shown(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return `⟨${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ")}⟩`;
  }
}

export class Tokenizer {
  /** @param {{model: {vocab: Object<string, number>, merges: string[][]}}} file tokenizer.json */
  constructor({ model: { vocab, merges } }) {
    const characters = byteCharacters();
    const bytes = new Map(characters.map((character, byte) => [character, byte]));
    this.size = Math.max(...Object.values(vocab)) + 1;
    this.pieces = []; // of each id that was asked for
    this.single = characters.map((character) => vocab[character]);
    /** Bytes of each id; those of a special token spell it. */
    this.bytes = new Map();
    for (const [token, id] of Object.entries(vocab)) {
      const known = [...token].every((character) => bytes.has(character));
      const spelt = known ? [...token].map((character) => bytes.get(character)) : new TextEncoder().encode(token);
      this.bytes.set(id, Uint8Array.from(spelt));
    }
    /** Rank and result of each merge, by `key` of its two ids. */
    this.merges = new Map();
    merges.forEach(([left, right], rank) => {
      this.merges.set(this.key(vocab[left], vocab[right]), { rank, id: vocab[left + right] });
    });
  }

  key(left, right) {
    return left * this.size + right;
  }

  /**
   * @param {string} text a lone surrogate is read as U+FFFD.
   * @returns {{ids: Int32Array, pieces: string[]}}
   */
  encode(text) {
    const ids = [];
    for (const [word] of text.matchAll(WORDS)) for (const id of this.merged(new TextEncoder().encode(word))) ids.push(id);
    return { ids: Int32Array.from(ids), pieces: ids.map((id) => this.piece(id)) };
  }

  /** Ids of a word's bytes after all merges, the lowest rank first, from left to right. */
  merged(bytes) {
    let ids = Array.from(bytes, (byte) => this.single[byte]);
    for (;;) {
      let best;
      for (let i = 1; i < ids.length; i++) {
        const merge = this.merges.get(this.key(ids[i - 1], ids[i]));
        if (merge && (!best || merge.rank < best.rank)) best = merge;
      }
      if (!best) return ids;
      const shorter = [];
      for (let i = 0; i < ids.length; i++) {
        if (this.merges.get(this.key(ids[i], ids[i + 1])) === best) {
          shorter.push(best.id);
          i++;
        } else {
          shorter.push(ids[i]);
        }
      }
      ids = shorter;
    }
  }

  /** A token's text; a part of a character is shown as its bytes, ⟨e7 8c⟩. */
  piece(id) {
    return (this.pieces[id] ??= shown(this.bytes.get(id) ?? []));
  }
}
