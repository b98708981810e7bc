"""The World vocabulary from folders of the hub and from files, and files that are another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rwkvgate.rwkv6 import vocabulary as module
from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer
from rwkvgate.rwkv6.vocabulary import END_OF_TEXT, IDS, VOCABULARY_FILE
from tests.rwkv6.trie import LINES, TOK, greedy

SAMPLE = ["def f(n):\n    return n", f"{END_OF_TEXT} <s> </s>", "猫 🐈 \udc80", ""]


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A folder as the hub has it, with code that must not run."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / VOCABULARY_FILE).write_bytes(TOK._vocabulary.text)
    files: dict[str, Any] = {
        "tokenizer_config.json": {
            "name_or_path": "rwkv-6-tokenizer",
            "add_bos_token": True,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": True,
            "tokenizer_class": "Rwkv6Tokenizer",
            "use_fast": False,
            "auto_map": {"AutoTokenizer": ["hf_rwkv_tokenizer.Rwkv6Tokenizer", None]},
        },
        "added_tokens.json": {"<s>": 0},
        "special_tokens_map.json": dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<s>"),
        "config.json": {
            "model_type": "rwkv6",
            "architectures": ["Rwkv6ForCausalLM"],
            "auto_map": {"AutoConfig": "configuration_rwkv6.Rwkv6Config"},
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    for name in ("hf_rwkv_tokenizer.py", "configuration_rwkv6.py"):
        (folder / name).write_text("raise SystemExit('remote code was run')\n")
    return folder


@pytest.mark.parametrize("loader", [Rwkv6Tokenizer, AutoTokenizer])
def test_a_hub_folder_without_its_code(hub_folder: Path, loader: Any) -> None:
    tok = loader.from_pretrained(str(hub_folder))
    assert type(tok) is Rwkv6Tokenizer
    assert tok(SAMPLE)["input_ids"] == TOK(SAMPLE)["input_ids"]
    assert tok.bos_token_id == tok.eos_token_id == tok.pad_token_id == tok.unk_token_id == 0
    assert tok.padding_side == "left" and len(tok) == IDS
    assert tok.decode(tok.encode(" . , 's")) == " . , 's" and tok.decode([0, 98]) == f"{END_OF_TEXT}a"


@pytest.mark.parametrize("loader", [Rwkv6Tokenizer, AutoTokenizer])
def test_it_comes_back_from_disk_as_it_was(tmp_path: Path, loader: Any) -> None:
    Rwkv6Tokenizer(model_max_length=512, padding_side="right").save_pretrained(tmp_path / "one")
    tok = loader.from_pretrained(str(tmp_path / "one"))
    assert type(tok) is Rwkv6Tokenizer
    assert (tok.model_max_length, tok.padding_side) == (512, "right")
    assert tok(SAMPLE)["input_ids"] == TOK(SAMPLE)["input_ids"]
    assert (tmp_path / "one" / VOCABULARY_FILE).read_bytes() == TOK._vocabulary.text
    tok.save_pretrained(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_saved_hub_folder_names_no_code(hub_folder: Path, tmp_path: Path) -> None:
    Rwkv6Tokenizer.from_pretrained(str(hub_folder)).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert "auto_map" not in config and config["bos_token"] == END_OF_TEXT
    assert str(tmp_path) not in json.dumps(config)


def test_without_the_package(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("vocabulary", "tokenizer"):
        monkeypatch.setattr(f"rwkvgate.rwkv6.{home}.package_file", lambda: None)
    module._rust.cache_clear()
    try:
        tok = Rwkv6Tokenizer.from_pretrained(str(hub_folder))
        assert tok(SAMPLE)["input_ids"] == TOK.encode_batch(SAMPLE) == [tok.encode(text) for text in SAMPLE]
        assert module._rust() is None
        with pytest.raises(ImportError, match="pyrwkv-tokenizer"):
            Rwkv6Tokenizer()
    finally:
        module._rust.cache_clear()
    assert TOK(SAMPLE)["input_ids"] == [greedy(x.encode("utf-8", "surrogatepass")) for x in SAMPLE]


@pytest.mark.parametrize("text", ["\r\n".join([*LINES, ""]), "\n".join(LINES)], ids=["windows", "no last one"])
def test_line_ends_do_not_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(text.encode())
    assert Rwkv6Tokenizer(tmp_path / VOCABULARY_FILE)(SAMPLE)["input_ids"] == TOK(SAMPLE)["input_ids"]


def test_nor_do_quotes(tmp_path: Path) -> None:
    lines = list(LINES)
    assert lines[97] == "98 'a' 1"
    lines[97] = '98 "\\x61" 1'
    (tmp_path / VOCABULARY_FILE).write_text("\n".join(lines), encoding="utf-8")
    tok = Rwkv6Tokenizer(tmp_path / VOCABULARY_FILE)
    assert tok._vocabulary.entries == TOK._vocabulary.entries


def changed(place: int, line: str) -> bytes:
    return "\n".join([*LINES[:place], line, *LINES[place + 1 :], ""]).encode()


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES).encode()[:500_000],
        "\n".join([*LINES[:1000], ""]).encode(),
        "\n".join([*LINES, "65530 'zzzzzzzz' 8", ""]).encode(),
        b"",
        b'{"the": 0}',
        b"\xff\xfe1\x00",
        changed(400, "401 __import__('os').abort() 3"),
        changed(400, "401 [1, 2] 2"),
        changed(400, "401 'abc' 2"),
        changed(400, "402 'abc' 3"),
        changed(97, "98 'b' 1"),
    ],
    ids=["cut", "short", "long", "empty", "json", "bytes", "code", "list", "length", "id", "entry"],
)
def test_another_vocabulary_is_refused(tmp_path: Path, hub_folder: Path, text: bytes) -> None:
    path = hub_folder / VOCABULARY_FILE
    path.write_bytes(text)
    for load in (lambda: Rwkv6Tokenizer(path), lambda: Rwkv6Tokenizer.from_pretrained(str(hub_folder))):
        with pytest.raises(ValueError, match=f"(?s){VOCABULARY_FILE} is not the World vocabulary"):
            load()


def test_a_folder_without_a_vocabulary_is_refused(hub_folder: Path) -> None:
    (hub_folder / VOCABULARY_FILE).unlink()
    with pytest.raises(ValueError, match=f"no {VOCABULARY_FILE} in .*hub"):
        Rwkv6Tokenizer.from_pretrained(str(hub_folder))
    with pytest.raises(FileNotFoundError):
        Rwkv6Tokenizer(hub_folder / VOCABULARY_FILE)


def test_a_folder_with_more_tokens_is_refused(hub_folder: Path) -> None:
    (hub_folder / "added_tokens.json").write_text(json.dumps({"<s>": 0, "\n\n": 65_530}))
    with pytest.raises(ValueError, match="has one special token"):
        Rwkv6Tokenizer.from_pretrained(str(hub_folder))
