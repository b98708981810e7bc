// Tokens as legible text: visible white space, no character that acts unseen. No DOM.

const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
const JOINERS = "\u200c\u200d\ufe0e\ufe0f"; // they shape their neighbours, in Persian or in emoji
const SIGNS = { "\n": "⏎", "\t": "⇥" };
const RIGHT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/gu;

function sign(letter, joins) {
  if (joins && JOINERS.includes(letter)) return letter;
  return SIGNS[letter] ?? (UNSEEN.test(letter) || JOINERS.includes(letter) ? "□" : letter);
}

/** A token for running text; the background makes its spaces visible. */
export function readable(piece) {
  if (/^ +$/.test(piece)) return "·".repeat(piece.length);
  const letters = [...piece];
  const shown = letters.map((letter) => sign(letter, letters.length > 1)).join("");
  return /^\p{M}/u.test(piece) ? `◌${shown}` : shown; // a mark alone would stand on the token before
}

/** A token as a label, its spaces as dots, cut at `most` characters. */
export function tokenLabel(piece, most = 24) {
  const letters = [...piece];
  const cut = letters.length > most ? [...letters.slice(0, most - 1), "…"] : letters;
  return cut.map((letter) => (letter === " " ? "·" : sign(letter, letters.length > 1))).join("");
}

/** A text without controls and without characters that turn the direction of others; line ends and tabs stay. */
export function visible(text) {
  return [...text].map((letter) => (letter === "\n" || letter === "\t" ? letter : sign(letter, true))).join("");
}

/** The direction of most letters of a text. */
export function direction(text) {
  const right = (text.match(RIGHT) ?? []).length;
  return right > ((text.match(/\p{L}/gu) ?? []).length - right) ? "rtl" : "ltr";
}

/** The beginning of a text in quotation marks, for captions. */
export function quoted(text, most = 48) {
  return text ? `“${tokenLabel(text.replace(/\s+/gu, " "), most).replaceAll("·", " ")}”` : "no text";
}
