"""The World tokenizer against a trie written here, and as transformers uses it."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer
from rwkvgate.rwkv6.vocabulary import END_OF_TEXT, ENTRIES, IDS, Vocabulary
from tests.rwkv6.trie import BYTES, TOK, greedy

SPECIAL = (END_OF_TEXT, "<s>", "</s>", "<unk>", "<pad>", "<|unused_65530|>", "<|im_start|>")


def check(text: str) -> None:
    """A text's ids are the oracle's by every way in, and every way back gives the text."""
    data = text.encode("utf-8", "surrogatepass")
    ids = greedy(data)
    assert TOK(text)["input_ids"] == TOK.encode(text) == TOK.encode_batch([text])[0] == ids
    assert TOK.encode_bytes(data) == TOK._vocabulary.match(data) == ids
    assert TOK.decode_bytes(ids) == data
    assert TOK.decode(ids, errors="surrogatepass") == text
    assert 0 not in ids


SCRIPTS = [
    "hello ",
    "Ünïcode",
    "Привет",
    "你好，世界",
    "こんにちは",
    "مرحبا",
    "नमस्ते",
    "한국어",
    "ไทย",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "e\u0301",
    "\u2028",
    "\ufeff",
    "\x00",
]
TEXTS = st.one_of(
    st.text(),
    st.text("ab \t\n\r\u00a0\u3000"),
    st.lists(st.sampled_from(sorted(BYTES.values())).map(lambda x: x.decode(errors="ignore"))).map("".join),
    st.lists(st.sampled_from([*SCRIPTS, *SPECIAL, " ", "\n"])).map("".join),
)
PIECES = st.sampled_from(sorted(BYTES.values())).flatmap(lambda x: st.integers(0, len(x)).map(lambda n: x[n:]))
DATA = st.one_of(st.binary(), st.lists(st.one_of(PIECES, st.binary(max_size=3))).map(b"".join))


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_any_text_is_matched_greedily_and_comes_back(text: str) -> None:
    check(text)
    assert TOK.decode(TOK.encode(text)) == text


@settings(max_examples=400, deadline=None)
@given(DATA)
def test_any_bytes_are_matched_greedily_and_come_back(data: bytes) -> None:
    ids = TOK.encode_bytes(data)
    assert ids == greedy(data) == TOK._vocabulary.match(data)
    assert TOK.decode_bytes(ids) == data
    assert TOK.decode(ids) == data.decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("def fibonacci(n):\n    ", [7334, 21676, 41943, 41, 111, 501, 28352]),
        ("The Eiffel tower is in the city of", [6699, 304, 25740, 109, 39990, 4600, 4596, 22590, 30449, 4706]),
        (
            "Today is a beautiful day. 今天是美好的一天。",
            [33520, 4600, 332, 59219, 21509, 47, 33, 10381, 11639, 13091, 15597, 11685, 14734, 10250, 11639, 10080],
        ),
        ("\n", [11]),
        (" ", [33]),
        ("\n\n", [261]),
        ("<s>", [61, 116, 63]),
        ("", []),
    ],
)
def test_known_ids(text: str, ids: list[int]) -> None:
    assert TOK.encode(text) == ids
    check(text)


def test_every_entry_is_its_own_id() -> None:
    assert sorted(BYTES) == list(range(1, ENTRIES + 1)) and len(set(BYTES.values())) == ENTRIES
    assert TOK._vocabulary.entries[1 : ENTRIES + 1] == tuple(BYTES.values())
    assert all(TOK.encode_bytes(entry) == [index] for index, entry in BYTES.items())
    texts = {index: entry.decode() for index, entry in BYTES.items() if entry.decode(errors="ignore").encode() == entry}
    assert TOK.encode_batch(list(texts.values())) == [[index] for index in texts]
    assert TOK.decode([[index] for index in texts]) == list(texts.values())


@pytest.mark.parametrize("text", ["a", " ", "\n", "é", "猫", "🐈", "=", "ab \n", "".join(SCRIPTS)], ids=ascii)
def test_a_long_text_of_one_thing_repeated(text: str) -> None:
    text *= 200_000 // len(text.encode())
    ids = TOK.encode(text)
    assert ids == greedy(text.encode())
    assert TOK.decode(ids) == text


def test_a_long_text_with_bytes_that_are_no_text() -> None:
    data = (" ".join(SCRIPTS).encode() + b"\xe4\xbd\xff\x80\xf0\x9f") * 1_000
    ids = TOK.encode_bytes(data)
    assert ids == greedy(data)
    assert TOK.decode_bytes(ids) == data


def test_an_entry_may_reach_across_the_border_of_what_is_text() -> None:
    whole = b"\xe0\xa4\x88\x98"
    assert TOK.encode_bytes(whole) == greedy(whole) == [2973, 2415]
    assert TOK.encode_bytes(whole[:3]) + TOK.encode_bytes(whole[3:]) == [2973, 137, 153]
    assert TOK.encode_bytes(b"a" + whole + b"a") == greedy(b"a" + whole + b"a")


@pytest.mark.parametrize("special", SPECIAL)
def test_no_text_gives_id_0(special: str) -> None:
    for text in (special, f"a{special}b", f" {special} " * 3, f"{special}\n{special}"):
        check(text)
        assert TOK([text])["input_ids"][0] == TOK.encode(text)
        assert TOK.convert_tokens_to_ids(TOK.tokenize(text)) == TOK.encode(text)
    with pytest.raises(ValueError, match="no text gives id 0"):
        TOK(special, split_special_tokens=False)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00", "é\udc80猫", "\udc80" * 9 + END_OF_TEXT])
def test_lone_surrogates_come_back(text: str) -> None:
    check(text)
    assert TOK([text, "b", "猫"])["input_ids"] == [TOK.encode(x) for x in (text, "b", "猫")]
    assert "\ufffd" in TOK.decode(TOK.encode(text))
    with pytest.raises(UnicodeDecodeError):
        TOK.decode(TOK.encode(text), errors="strict")


def test_special_token() -> None:
    assert TOK.bos_token_id == TOK.eos_token_id == TOK.pad_token_id == TOK.unk_token_id == 0
    assert TOK.bos_token == TOK.eos_token == TOK.pad_token == TOK.unk_token == END_OF_TEXT
    assert TOK.all_special_ids == [0] and TOK.all_special_tokens == [END_OF_TEXT]
    assert TOK.padding_side == "left" and TOK.model_input_names == ["input_ids", "attention_mask"]
    assert TOK.get_special_tokens_mask([0, 5, 0], already_has_special_tokens=True) == [1, 0, 1]


def test_id_0_only_where_asked_for() -> None:
    ids = TOK.encode("猫 cat")
    assert TOK("猫 cat")["input_ids"] == TOK("猫 cat", add_special_tokens=False)["input_ids"] == ids
    assert TOK.encode("猫 cat", add_bos=True) == [0, *ids]
    batch = TOK(
        ["猫 cat", ""], add_bos=True, padding=True, return_special_tokens_mask=True, return_offsets_mapping=True
    )
    assert batch["input_ids"] == [[0, *ids], [0] * (1 + len(ids))]
    assert batch["attention_mask"] == [[1] * (1 + len(ids)), [0] * len(ids) + [1]]
    assert batch["special_tokens_mask"] == [[1] + [0] * len(ids), [1] * (1 + len(ids))]
    assert batch["offset_mapping"][0][0] == (0, 0) and batch["offset_mapping"][1] == [(0, 0)] * (1 + len(ids))
    assert TOK.encode("one two three four", add_bos=True, truncation=True, max_length=3) == [
        0,
        *TOK.encode("one two three four")[:2],
    ]


def test_decoding_ids_without_text() -> None:
    ids = [0, *TOK.encode("a b"), 65_530, 65_535, 0]
    assert TOK.decode(ids) == f"{END_OF_TEXT}a b{END_OF_TEXT}"
    assert TOK.decode(ids, skip_special_tokens=True) == TOK.decode_bytes(ids).decode() == "a b"
    assert TOK.decode([]) == "" and TOK.decode_bytes([]) == b""
    assert TOK.decode(98) == TOK.decode(torch.tensor(98)) == "a"
    assert TOK.decode(torch.tensor(ids)) == TOK.decode(np.array(ids)) == TOK.decode(ids)
    assert TOK.decode_bytes(torch.tensor(ids)) == TOK.decode_bytes(np.array(ids)) == b"a b"
    assert TOK.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["a b", "a b"]


def test_nothing_is_cleaned_up() -> None:
    text = " .  , n't ' s 's ?\r\n\t "
    assert TOK.decode(TOK.encode(text), clean_up_tokenization_spaces=True) == text


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert TOK.decode([200]) == "\ufffd"
    assert TOK.decode([200], errors="ignore") == ""
    assert TOK.decode_bytes([200]) == b"\xc7"
    assert TOK.decode([*TOK.encode_bytes(b"\xe7\x8c"), *TOK.encode_bytes(b"\xab")]) == "猫"


@pytest.mark.parametrize("wrong", [-1, -100, 65_536, 2**40])
def test_an_id_out_of_range_is_refused(wrong: int) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: TOK.decode([5, wrong]),
        lambda: TOK.decode(wrong),
        lambda: TOK.decode_bytes([5, wrong]),
        lambda: TOK.convert_ids_to_tokens([wrong]),
        lambda: TOK.convert_ids_to_tokens(wrong),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=f"id {wrong} is no token; allowed are 0 to 65535"):
            way()


def test_printable_tokens_are_reversible() -> None:
    tokens = TOK.convert_ids_to_tokens(list(range(IDS)))
    assert len(set(tokens)) == IDS and all(token.isprintable() and " " not in token for token in tokens)
    assert TOK.convert_tokens_to_ids(tokens) == list(range(IDS))
    assert TOK.get_vocab() == {token: index for index, token in enumerate(tokens)}
    assert len(TOK) == TOK.vocab_size == len(TOK.get_vocab()) == IDS
    assert TOK.convert_ids_to_tokens([0, 98, 33, 261], skip_special_tokens=True) == ["a", "Ġ", "ĊĊ"]
    assert TOK.tokenize(" 猫") == TOK.convert_ids_to_tokens(TOK.encode(" 猫"))
    assert TOK.convert_tokens_to_string(TOK.tokenize(" 猫\n")) == " 猫\n"
    assert TOK.convert_tokens_to_ids([END_OF_TEXT, "<s>"]) == [0, 0]
    for wrong in ("<unk>", "no token", ""):
        with pytest.raises(ValueError, match="is no token"):
            TOK.convert_tokens_to_ids(wrong)


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_a_batch_is_its_texts_one_by_one(texts: list[str]) -> None:
    one_by_one = [TOK.encode(text) for text in texts]
    batch = TOK(texts)
    assert batch["input_ids"] == TOK(tuple(texts))["input_ids"] == TOK.encode_batch(texts) == one_by_one
    assert batch["attention_mask"] == [[1] * len(ids) for ids in one_by_one]
    if texts:
        padded = TOK(texts, padding=True, return_tensors="pt")
        for ids, row, mask in zip(one_by_one, padded["input_ids"], padded["attention_mask"], strict=True):
            assert row.dtype == mask.dtype == torch.int64
            assert row[mask.bool()].tolist() == ids and not row[~mask.bool()].any()
            assert mask.tolist() == sorted(mask.tolist())


def test_padding_and_truncation() -> None:
    texts = ["one two three four five", "猫", ""]
    ids = [TOK.encode(text) for text in texts]
    four = TOK(texts, padding="max_length", truncation=True, max_length=4, return_tensors="np")
    assert four["input_ids"].tolist() == [ids[0][:4], [0] * (4 - len(ids[1])) + ids[1], [0] * 4]
    right = TOK(texts, padding=True, padding_side="right", pad_to_multiple_of=8)
    assert [len(row) for row in right["input_ids"]] == [8] * 3 and right["input_ids"][1][: len(ids[1])] == ids[1]
    assert TOK(texts, max_length=2)["input_ids"] == [row[:2] for row in ids]
    assert TOK(texts, max_length=0, truncation=True)["input_ids"] == [[], [], []]
    assert TOK(texts[0], truncation=True, max_length=2, return_length=True)["length"] == 2
    left = Rwkv6Tokenizer(truncation_side="left", padding_side="right", model_max_length=3)
    assert left(texts, truncation=True, padding=True)["input_ids"] == [ids[0][-3:], [*ids[1], 0, 0][:3], [0] * 3]
    assert left(texts[0], truncation=True, return_offsets_mapping=True)["offset_mapping"][-1] == (18, 23)
    long = TOK(texts, padding="max_length", max_length=3, return_special_tokens_mask=True, return_tensors="pt")
    assert long["input_ids"].shape == (3, len(ids[0])) and long["input_ids"][0].tolist() == ids[0]
    assert torch.equal(long["special_tokens_mask"], 1 - long["attention_mask"])
    with pytest.raises(ValueError, match="activate truncation and/or padding"):
        TOK(texts, return_tensors="pt")
    with pytest.raises(ValueError, match="padding_side is 'middle'; allowed are 'left' and 'right'"):
        TOK(texts, padding=True, padding_side="middle")


def test_shapes_of_single_texts_and_empty_batches() -> None:
    assert TOK("猫 cat", return_tensors="pt")["input_ids"].tolist() == [TOK.encode("猫 cat")]
    assert TOK.encode("猫 cat", return_tensors="np").shape == (1, len(TOK.encode("猫 cat")))
    empty = TOK("", return_tensors="pt", return_offsets_mapping=True)
    assert [tuple(empty[name].shape) for name in ("input_ids", "attention_mask", "offset_mapping")] == [
        (1, 0),
        (1, 0),
        (1, 0, 2),
    ]
    assert empty["input_ids"].dtype == torch.int64
    assert TOK([])["input_ids"] == [] and TOK([], padding=True)["input_ids"] == []
    assert TOK([], padding=True, return_tensors="pt")["input_ids"].shape == (0, 0)
    assert "attention_mask" not in TOK("a", return_attention_mask=False)
    features = [dict(TOK(text)) for text in ("one two", "three")]
    assert TOK.pad(features, return_tensors="pt")["attention_mask"].tolist() == [[1, 1], [0, 1]]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_spans_are_the_characters_a_token_touches(text: str) -> None:
    owners = [place for place, letter in enumerate(text) for _ in letter.encode("utf-8", "surrogatepass")]
    start, wanted = 0, []
    for index in greedy(text.encode("utf-8", "surrogatepass")):
        end = start + len(BYTES[index])
        wanted.append((owners[start], owners[end - 1] + 1))
        start = end
    assert TOK(text, return_offsets_mapping=True)["offset_mapping"] == wanted
    batch = TOK([text, "a b c"], return_offsets_mapping=True, padding=True, return_tensors="pt")
    assert batch["offset_mapping"].shape == (*batch["input_ids"].shape, 2)
    real = batch["attention_mask"].bool()
    assert list(map(tuple, batch["offset_mapping"][0][real[0]].tolist())) == wanted
    assert not batch["offset_mapping"][~real].any()


def test_what_transformers_does_with_tokens_ids_and_pairs() -> None:
    cat, dog = TOK.encode("cat"), TOK.encode(" dog")
    assert TOK("cat", " dog")["input_ids"] == cat + dog
    assert TOK([("cat", " dog")])["input_ids"] == [cat + dog]
    assert TOK(["cat", " dog"], is_split_into_words=True)["input_ids"] == cat + dog
    assert TOK("cat", text_target=" dog")["labels"] == dog
    assert TOK(cat)["input_ids"] == cat
    cut = TOK("one two three", truncation=True, max_length=1, return_overflowing_tokens=True)
    assert cut["input_ids"] + cut["overflowing_tokens"] == TOK.encode("one two three")
    for wish in ("add_bos", "return_offsets_mapping"):
        with pytest.raises(ValueError, match=f"{wish} needs one text or a list of texts"):
            TOK("cat", " dog", **{wish: True})
    for wrong in (b"cat", 5, ["cat", None]):
        with pytest.raises(ValueError):
            TOK(wrong)


def test_a_chat_template() -> None:
    tok = Rwkv6Tokenizer(chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}")
    chat = [{"role": "User", "content": f"hi {END_OF_TEXT}"}]
    ids = tok.apply_chat_template(chat, return_dict=False)
    assert ids == TOK.encode(f"User: hi {END_OF_TEXT}\n\n")


def test_generation_from_a_padded_batch_up_to_a_stop_string(tiny_model: Any) -> None:
    model = tiny_model(vocab_size=len(TOK))
    batch = TOK(["one two three", "猫"], padding=True, return_tensors="pt")
    out = model.generate(**batch, max_new_tokens=6, do_sample=False)
    alone = model.generate(**TOK("猫", return_tensors="pt"), max_new_tokens=6, do_sample=False)
    assert out[1].tolist()[-len(alone[0]) :] == alone[0].tolist()
    whole = TOK.decode(out[0], skip_special_tokens=True)
    stop = TOK.decode(out[0][-4:-2])
    out = model.generate(**batch, max_new_tokens=6, do_sample=False, stop_strings=stop, tokenizer=TOK)
    assert whole.startswith(TOK.decode(out[0], skip_special_tokens=True))


@pytest.mark.parametrize("wrong", [{"pad_token": "<pad>"}, {"extra_special_tokens": ["\n\n"]}, {"image_token": "<i>"}])
def test_another_special_token_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has one special token"):
        Rwkv6Tokenizer(**wrong)


def test_changing_tokens_is_refused() -> None:
    tok = Rwkv6Tokenizer()
    ways: list[Callable[[], Any]] = [
        lambda: tok.add_tokens(["<image>"]),
        lambda: tok.add_special_tokens({"pad_token": "<pad>"}),
        lambda: tok.add_special_tokens({"additional_special_tokens": [END_OF_TEXT, "<image>"]}),
        lambda: setattr(tok, "pad_token", "a"),
        lambda: setattr(tok, "eos_token_id", 261),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=r"has one special token, .*; not allowed:"):
            way()
    tok.pad_token, tok.sep_token_id = "<s>", 0
    assert tok.add_tokens([]) == tok.add_tokens(END_OF_TEXT) == tok.add_special_tokens({"cls_token": "<s>"}) == 0
    assert tok.special_tokens_map == dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token"), END_OF_TEXT
    )
    assert tok.all_special_ids == [0] and len(tok) == IDS
    with pytest.raises(ValueError, match="add_bos=True"):
        Rwkv6Tokenizer(add_bos_token=True)


def test_the_vocabulary_is_parsed_once_and_only_when_needed() -> None:
    assert Rwkv6Tokenizer()._vocabulary is TOK._vocabulary
    fresh = Vocabulary(TOK._vocabulary.text)
    fresh.encode("a 猫"), fresh.encode_batch(["a", "b"])
    assert vars(fresh).keys() == {"text"}


def test_copies() -> None:
    for other in (copy.deepcopy(TOK), pickle.loads(pickle.dumps(TOK))):
        assert other._vocabulary is TOK._vocabulary
        assert other("a 猫")["input_ids"] == TOK("a 猫")["input_ids"] and other.pad_token_id == 0


def encode_in_a_child(texts: list[str]) -> list[list[int]]:
    return TOK(texts)["input_ids"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_batches_in_a_forked_process() -> None:
    texts = ["one two", "猫"] * 50
    wanted = TOK(texts)["input_ids"]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(encode_in_a_child, (texts,)).get(timeout=60) == wanted
