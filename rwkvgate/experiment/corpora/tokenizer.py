"""The byte-level BPE of a base pretrained on the spot; it encodes and decodes any string exactly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rwkvgate.gate.validation import SettingsError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
FEWEST_ENTRIES = 257
"""The special token and the 256 bytes, which can encode every string."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` entries, trained on `texts`; the same for the same texts.

    `<|endoftext|>` has id 0 and is the token for beginning, end and padding; there is no unknown token, since all 256
    bytes are entries. Padding is on the left, for generation. The same characters inside a text are ordinary text and
    never become id 0.

    Raises:
        ValueError: `vocab_size` is below 257.
    """
    if vocab_size < FEWEST_ENTRIES:
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least {FEWEST_ENTRIES}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        add_prefix_space=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> Path:
    """Write the tokenizer's files into `folder`; returns the path of its `TOKENIZER_FILE`."""
    tokenizer.save_pretrained(str(folder))
    return Path(folder) / TOKENIZER_FILE


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer from `save_tokenizer`.

    Raises:
        SettingsError: the folder holds no `TOKENIZER_FILE`, or one that is damaged.
    """
    if not (Path(folder) / TOKENIZER_FILE).is_file():
        raise SettingsError(f"no {TOKENIZER_FILE} in {folder}; train the base model there first")
    # Local files only: transformers must not take an unknown path for a name on the hub.
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raises plain ones, and json its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(f"the tokenizer in {folder} cannot be loaded: {reason}") from None
