"""Cases that the page engine and PyTorch both answer, and PyTorch's answers.

The reference has the weights of the weight file, matrices rounded to float16, and computes in float64: the networks are
random, and in float32 PyTorch's own error on some of them exceeds what is asked of the engine.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
from rwkvgate.experiment.corpora.tokenizer import END_OF_TEXT, train_tokenizer
from rwkvgate.explore import clamp_gate
from rwkvgate.explore.observing import gates_over, observing
from rwkvgate.explore.weights import GATINGS, SHIFTS, pack, rounded
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import is_patched
from rwkvgate.metrics.inference import PREFIX_ID

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "head_size": 8, "time_mix_rank": 5, "time_decay_rank": 6}
VOCABULARY = 400
PROMPTS, NEW, CHECKED = 50, 50, 2
"""Prompts, tokens after each, and the prompts whose continuations are compared number by number."""
LONGEST = 400
"""Tokens of a text and its continuation at most."""
ARMS = [
    "base",
    *(
        name
        for name, gate in PRESETS.items()
        if gate.shift in SHIFTS and gate.gating in GATINGS and gate.site == "output"
    ),
]
"""Every arm that the page engine supports."""
CLAMPS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "closed": [{"layer": None, "value": 0.0}],
    "one layer": [{"layer": 2, "value": 1.0, "channels": [0, 5, 31]}],
    "nested": [
        {"layer": None, "scale": 1.5},
        {"layer": 1, "value": 0.25, "tokens": [1, 2, 30, 31]},
        {"layer": 1, "scale": 0.5, "channels": [1, 2]},
    ],
    "by channel": [{"layer": 3, "value": (np.arange(32) / 31).tolist()}],
    "another text": [{"layer": None, "replace": "A fox."}, {"layer": 2, "value": 0.5, "channels": [3], "tokens": [4]}],
    "by token": [{"layer": 3, "value": (np.arange(32 * 6).reshape(6, 32) / 200).tolist()}],
}
PIECES = ["don't", "we'LL", "  two", "\t\n x", "x \n", "123 456", "٣٤", "½", "漢字仮名", "नमस्ते", "עברית", "العربية"]
PIECES += ["e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "\u200f", "\u0085", "\ufeff", "\u00a0", "\u2028", "\x00"]
PIECES += ["___", "--", "...", "it's", "'s", "'", " ' ", "the", " the", "The end", "ﬁ", "İ", "ß", "\U0010ffff"]
PIECES += ["<script>", END_OF_TEXT, "\x1c", "\ufffd"]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A small byte-level BPE of this Python's own documentation."""
    return train_tokenizer(list(topics.values()), VOCABULARY)


@cache
def model(arm: str) -> Rwkv6ForCausalLM:
    """An arm with every weight moved at random, then rounded as the weight file rounds it, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=VOCABULARY, **SIZES)).eval()
        if arm != "base":
            patch(made, GateConfig.preset(arm))
        with torch.no_grad():
            for parameter in made.parameters():
                width = 0.3 if parameter.dim() > 1 and parameter.shape[0] > 1 else 0.2
                parameter.add_(width * torch.randn_like(parameter))
                parameter.copy_(rounded(parameter))
    return made.double()


@cache
def weights() -> bytes:
    """The weight file of all arms."""
    models = {arm: model(arm) for arm in ARMS}
    return pack(models, tokenizer(), labels={"base": "Base"}, notes={"base": "untouched"}, title="Test")


@cache
def awkward() -> list[str]:
    """1,000 strings that tokenizers stumble over, without lone surrogates, which Python's cannot read."""
    draw = random.Random(0)
    known = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = ["", " ", "\n", "a" * 3000, "ab" * 1000, " " * 500]
    while len(texts) < 1000:
        parts = [draw.choice(PIECES) if draw.random() < 0.7 else draw.choice(known) for _ in range(draw.randint(1, 12))]
        texts.append(draw.choice(["", " ", ""]).join(parts))
    return texts


@cache
def prompts() -> list[str]:
    """Prompts of several lengths, one of them of parts of characters."""
    words = " ".join(topics["with"].split()).split(" ")
    return ["猫は👩‍👩‍👧", *(" ".join(words[i : i + 1 + i % 12]) for i in range(PROMPTS - 1))]


@cache
def asked() -> list[tuple[str, str]]:
    """Every arm with every intervention that it can have."""
    return [(arm, name) for arm in ARMS for name in CLAMPS if name == "none" or arm != "base"]


def texts() -> list[str]:
    """What is read."""
    return [prompts()[0], topics["with"][:120]]


def continued(name: str, most: int) -> list[str]:
    """The prompts that are continued under an intervention."""
    return prompts()[: most if name == "none" else CHECKED]


def cases(most: int = PROMPTS, new: int = NEW) -> dict[str, Any]:
    """What the engine is asked; `most` prompts are continued without intervention, by each arm, by `new` tokens."""
    base = {"arm": "enhanced", "text": "a"}
    return {
        "texts": awkward(),
        "readings": [{"arm": a, "text": t, "interventions": CLAMPS[c]} for a, c in asked() for t in texts()],
        "continuations": [
            {"arm": arm, "text": text, "interventions": CLAMPS[name], "tokens": new}
            for arm, name in asked()
            for text in continued(name, most)
        ],
        "refused": [
            ["read", base | {"text": ""}],
            ["read", base | {"arm": "enhnced"}],
            ["read", {"arm": "base", "text": "a", "interventions": [{"value": 0}]}],
            ["read", base | {"interventions": [{"value": 2}]}],
            ["read", base | {"interventions": [{"value": 0, "scale": 1}]}],
            ["read", base | {"interventions": [{"scale": -1}]}],
            ["read", base | {"interventions": [{"value": [0, 1]}]}],
            ["read", base | {"interventions": [{"value": 0, "layer": 4}]}],
            ["read", base | {"interventions": [{"value": 0, "channels": [32]}]}],
            ["read", base | {"interventions": [{"value": 0, "tokens": [-1]}]}],
            ["read", base | {"interventions": [{"replace": ""}]}],
            ["read", base | {"interventions": [{"replace": "b", "value": 0}]}],
            ["continue", base | {"tokens": 0}],
            ["continue", base | {"tokens": 1, "temperature": -1}],
        ],
    }


def clamped(arm: str, name: str) -> ExitStack:
    """The same interventions on the arm's model, as a context manager. Its positions count the prefix."""
    stack = ExitStack()
    for one in CLAMPS[name]:
        if "replace" in one:
            gates = gates_over(model(arm), ids_of(one["replace"]))
            gates = gates.repeat(1, -(-LONGEST // gates.shape[1]), 1)
            for layer, rows in enumerate(gates, start=1):
                stack.enter_context(clamp_gate(model(arm), layer, torch.cat((rows[:1], rows)), tokens=slice(1, None)))
            continue
        options = one | ({"tokens": [token + 1 for token in one["tokens"]]} if "tokens" in one else {})
        if isinstance(one.get("value"), list):
            options["value"] = torch.tensor(one["value"])
            if options["value"].dim() == 2:
                options["tokens"] = slice(1, None)
                options["value"] = torch.cat((torch.zeros_like(options["value"][:1]), options["value"]))
        stack.enter_context(clamp_gate(model(arm), **options))
    return stack


def ids_of(text: str) -> list[int]:
    """A text's tokens."""
    return list(tokenizer()(text)["input_ids"])


@torch.no_grad()
def reading(arm: str, name: str, ids: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """PyTorch's logits (time, vocabulary) and gates (layer, time, channel), of a text's tokens after the prefix."""
    tokens, gates = torch.tensor([[PREFIX_ID, *ids]]), list[Tensor]()
    if not is_patched(model(arm)):
        return model(arm)(tokens).logits[0, 1:], None
    with clamped(arm, name), observing(model(arm), lambda _, values: gates.append(values[0, 1:])):
        logits = model(arm)(tokens).logits[0, 1:]
    return logits, torch.stack(gates)


@torch.no_grad()
def continuations(arm: str, name: str, texts: Sequence[str], new: int) -> list[list[int]]:
    """PyTorch's greedy continuations, up to the end of text."""
    sequences = [[PREFIX_ID, *ids_of(text)] for text in texts]
    batch = tokenizer().pad({"input_ids": sequences}, return_tensors="pt")
    with clamped(arm, name):
        output = model(arm).generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=new, do_sample=False
        )
    rows = output[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(0)] if 0 in row else row for row in rows]
