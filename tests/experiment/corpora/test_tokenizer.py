"""The byte-level BPE: nothing is lost, and no text can fake the end of text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.tokenizer import END_OF_TEXT, load_tokenizer, save_tokenizer, train_tokenizer
from rwkvgate.gate.validation import SettingsError

TRAINED = train_tokenizer(["the cat sat on the mat, and the dog saw the cat."] * 4, 320)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_string_comes_back(text: str) -> None:
    ids = TRAINED(text)["input_ids"]
    assert TRAINED.decode(ids) == text
    assert 0 not in ids


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b", f" {END_OF_TEXT} " * 3, " .  , n't ' s", "\r\n\t "])
def test_awkward_strings_come_back(text: str) -> None:
    for ids in (TRAINED(text)["input_ids"], TRAINED.encode(text)):
        assert 0 not in ids
        assert TRAINED.decode(ids) == text


def test_special_token() -> None:
    assert TRAINED.bos_token_id == TRAINED.eos_token_id == TRAINED.pad_token_id == 0
    assert TRAINED.convert_ids_to_tokens(0) == END_OF_TEXT
    assert TRAINED.unk_token is None
    assert TRAINED.padding_side == "left"
    batch = TRAINED(["the", "the cat sat on the mat"], padding=True)
    assert batch["input_ids"][0][0] == 0
    assert batch["attention_mask"][0][0] == 0


def test_it_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    assert save_tokenizer(TRAINED, tmp_path).is_file()
    loaded = load_tokenizer(tmp_path)
    text = f"the cat {END_OF_TEXT} día 猫 🐈"
    assert loaded(text)["input_ids"] == TRAINED(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.padding_side == "left"
    assert loaded.pad_token_id == 0
    with pytest.raises(SettingsError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path / "none")


def test_training_is_deterministic(train_stories: list[Document], tmp_path: Path) -> None:
    texts = [document.text for document in train_stories[:200]]
    one, two = (train_tokenizer(texts, 600).backend_tokenizer.to_str() for _ in range(2))
    assert one == two


def test_size(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 2048
    with pytest.raises(ValueError, match="at least 257"):
        train_tokenizer(["a"], 256)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\0", "[" * 10**5])
def test_a_damaged_tokenizer_is_answered_in_one_line(tmp_path: Path, name: str, content: str) -> None:
    save_tokenizer(TRAINED, tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match=r"cannot be loaded: .") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
