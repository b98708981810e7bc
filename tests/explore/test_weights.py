"""The weight file: what it holds, what it refuses, and how a damaged one is noticed."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.explore import GateExplorer, page
from rwkvgate.explore.weights import MAGIC, embedded, pack
from rwkvgate.gate.validation import SettingsError

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not on the path")
OPEN = Path(__file__).parent / "web" / "open.mjs"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([], 257)


@pytest.fixture
def base() -> Rwkv6ForCausalLM:
    return Rwkv6ForCausalLM(Rwkv6Config(vocab_size=257, hidden_size=16, num_hidden_layers=2, head_size=8)).eval()


def opened(data: bytes | str, folder: Path, *wanted: str) -> Any:
    """What the page makes of a file: its arms, or a sentence."""
    path = folder / ("weights.bin" if isinstance(data, bytes) else "weights.txt")
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    done = subprocess.run([str(NODE), OPEN, path, *wanted], capture_output=True, encoding="utf-8", check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout.strip()


def test_weights_that_arms_share_are_stored_once(base: Any, tokenizer: Any) -> None:
    gated = patch(copy.deepcopy(base), GateConfig.preset("enhanced"))
    alone, both = pack({"base": base}, tokenizer), pack({"base": base, "enhanced": gated}, tokenizer)
    gates = sum(p.numel() * (2 if p.dim() > 1 else 4) for name, p in gated.named_parameters() if "gated" in name)
    header = len(both) - len(alone) - gates
    assert header < 12_000  # the names of an arm's tensors, in the header


def test_a_file_begins_with_its_sizes_and_digest(base: Any, tokenizer: Any) -> None:
    data = pack({"base": base}, tokenizer)
    header, body = (int.from_bytes(data[i : i + 4], "little") for i in (8, 12))
    assert data.startswith(MAGIC) and len(data) == 48 + header + body
    assert data[16:48] == sha256(data[48:]).digest()
    assert pack({"base": base}, tokenizer) == data


@needs_node
def test_a_file_in_a_page_is_the_same_file(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = pack({"base": base}, tokenizer)
    text = embedded(data)
    assert not set(text) & set("<\r\0") and all(ord(letter) < 0x180 for letter in text)
    assert opened(text, tmp_path) == opened(data, tmp_path)
    for damaged in (text[:-1000], text[:500] + chr(ord(text[500]) ^ 1) + text[501:], "AAAA"):
        assert "damaged" in opened(damaged, tmp_path) or "no weight file" in opened(damaged, tmp_path)


@needs_node
def test_a_damaged_file_or_one_of_another_arm_is_refused_in_words(base: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = pack({"base": base, "same": base}, tokenizer)
    whole = opened(data, tmp_path, "same")
    assert whole["names"] == ["base", "same"] and whole["arrays"] <= len(base.state_dict())
    assert opened(data, tmp_path, "enhanced") == (
        "the weight file is of other arms: it holds base, same, and not enhanced"
    )
    cut = f"the weight file is cut off: it has {len(data) - 9} bytes and must have {len(data)}"
    assert opened(data[:-9], tmp_path) == cut
    assert opened(data + b"\0", tmp_path).startswith("the weight file is too long")
    assert opened(data[:40], tmp_path).startswith("this is no weight file of this version: it has 40 bytes")
    assert opened(b"other" + data, tmp_path).startswith("this is no weight file")
    for place in (60, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        assert opened(bytes(changed), tmp_path).startswith("the weight file is damaged: its SHA-256")


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("attention-gate", "arm 'attention-gate': shift is 'window'"),
        ("hierarchical", "arm 'hierarchical': gating is 'hierarchical'"),
        ("learned-shift", "arm 'learned-shift': shift is 'learned'"),
        ("ungated-shift", "arm 'ungated-shift': site is 'mixers'"),
    ],
)
def test_an_arm_that_the_page_does_not_compute_is_named(arm: str, words: str, base: Any, tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match=words):
        pack({arm: patch(base, GateConfig.preset(arm))}, tokenizer)


def test_what_does_not_fit_is_refused_in_words(base: Any, tokenizer: Any) -> None:
    with pytest.raises(SettingsError, match="there is no arm to pack"):
        pack({}, tokenizer)
    with pytest.raises(SettingsError, match="untrained is 'other'; it must be one of base"):
        pack({"base": base}, tokenizer, untrained="other")
    with pytest.raises(SettingsError, match="the tokenizer is a Rwkv6Tokenizer"):
        pack({"base": base}, Rwkv6Tokenizer())
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.split_special_tokens = False
    with pytest.raises(SettingsError, match="special tokens in a text"):
        pack({"base": base}, tokenizer)
    tokenizer.split_special_tokens = True
    with torch.no_grad():
        base.head.weight[3, 3] = 1e6
    with pytest.raises(SettingsError, match=r"arm base: head\.weight holds values that are not finite in float16"):
        pack({"base": base}, tokenizer)
    small = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=9, hidden_size=16, num_hidden_layers=1, head_size=8))
    with pytest.raises(SettingsError, match="arm 'small' reads 9 tokens and the tokenizer has 257"):
        pack({"small": small}, tokenizer)


def test_the_explorers_page_is_live_where_it_can_be_and_says_what_it_cannot_run(base: Any, tokenizer: Any) -> None:
    gated, other = (patch(copy.deepcopy(base), GateConfig.preset(name)) for name in ("enhanced", "hierarchical"))
    live = GateExplorer(gated, tokenizer, "Once", arms={"base": base, "deep": other}).to_html()
    assert 'id="weights"' in live and "$recorded" not in live
    recorded = GateExplorer(other, tokenizer, "Once", arms={"enhanced": gated}).to_html()
    assert 'id="weights"' not in recorded and "recorded readings of one text" in recorded
    assert "arm 'model': gating is 'hierarchical', which the page engine does not compute" in recorded


def test_the_page_names_the_arms_that_it_leaves_out(base: Any, tokenizer: Any, monkeypatch: Any) -> None:
    written: list[Any] = []
    monkeypatch.setattr(page, "pack", lambda models, *_, **options: written.append((models, options)) or b"12345678")
    gated, other = (patch(copy.deepcopy(base), GateConfig.preset(name)) for name in ("enhanced", "hierarchical"))
    GateExplorer(gated, tokenizer, "Once", arms={"untrained": lambda: base, "deep": other}).to_html()
    ((models, options),) = written
    assert list(models) == ["model", "untrained"] and options["untrained"] == "untrained"
    assert options["notes"]["model"].startswith("This page cannot run it: arm 'deep': gating is 'hierarchical'")
