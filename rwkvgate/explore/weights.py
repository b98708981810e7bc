"""The weight file of the page engine: arms, tokenizer and weights in one binary that `web/weights.js` reads.

It holds, in this order: `MAGIC`; the number of bytes of the header and of the body, unsigned 32-bit integers, the
lowest byte first; the SHA-256 of both; the header, JSON; the body. The header lists each arm's tensors with shape, type
and offset in the body. Tensors that arms share are stored once. Matrices are float16; vectors, such as those of norms
and decays, are float32.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.patch import gate_config, is_patched
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.inference import PREFIX_ID
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

MAGIC = b"rwkvgat1"
"""The first bytes of every weight file; the last of them is the layout's version."""
SHIFTS = ("previous", "offset", "convolution", "recurrent")
GATINGS = ("sigmoid", "fixed", "low-rank", "per-head", "routing")
"""Values of `GateConfig` that the page engine computes."""
TRANSPOSED = ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")
"""Maps that the network keeps as (in, out); in the file every matrix is (out, in)."""
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "head_size", "layer_norm_epsilon", "group_norm_epsilon")
LARGEST = 400_000_000
"""Bytes of the largest body: what a browser can be asked to hold."""


def pack(
    models: Mapping[str, Rwkv6ForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    *,
    labels: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "",
    untrained: str | None = None,
) -> bytes:
    """The weight file of several arms that read the same vocabulary.

    Args:
        models: each arm's model by the arm's name, patched or not.
        tokenizer: a byte-level BPE, as `train_tokenizer` makes.
        labels, notes: of arms, by name; a label defaults to the name.
        title: what the page calls the models.
        untrained: the arm whose gate is untrained, a baseline.

    Raises:
        SettingsError: no arm, an arm that the page engine does not compute, a tokenizer that it does not read, weights
            beyond float16, or more of them than a page can hold. The message names the arm.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from tokenizers.pre_tokenizers import ByteLevel
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
        >>> bpe = Tokenizer(models.BPE({byte: i for i, byte in enumerate(ByteLevel.alphabet())}, []))
        >>> bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)
        >>> sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "head_size": 16}
        >>> model = patch(Rwkv6ForCausalLM(Rwkv6Config(**sizes)), GateConfig.preset("enhanced"))
        >>> pack({"enhanced": model}, PreTrainedTokenizerFast(tokenizer_object=bpe))[:8]
        b'rwkvgat1'
    """
    if not models:
        raise SettingsError("there is no arm to pack; give at least one model")
    if untrained is not None and untrained not in models:
        raise SettingsError(f"untrained is {untrained!r}; it must be one of {', '.join(models)}")
    bpe = read_tokenizer(tokenizer)
    body, places = bytearray(), dict[bytes, int]()
    arms = []
    for name, model in models.items():
        check_arm(name, model, len(bpe["model"]["vocab"]))
        tensors = {key: _stored(f"{name}: {key}", key, tensor) for key, tensor in _named(model).items()}
        arms.append(
            {
                "name": name,
                "label": (labels or {}).get(name, name),
                "note": (notes or {}).get(name, ""),
                "config": {size: getattr(model.config, size) for size in SIZES},
                "ends": _several(model.config.eos_token_id),
                "gate": gate_config(model).model_dump() if is_patched(model) else None,
                "tensors": {key: _placed(tensor, body, places) for key, tensor in tensors.items()},
            }
        )
        if len(body) > LARGEST:
            raise SettingsError(f"arm {name!r}: over {LARGEST:,} bytes of weights; the page engine holds no more")
    about = {"title": title, "untrained": untrained, "prefix": PREFIX_ID}
    header = json.dumps({**about, "arms": arms, "tokenizer": bpe}).encode()
    header += b" " * (-len(header) % 8)
    sizes = len(header).to_bytes(4, "little") + len(body).to_bytes(4, "little")
    return b"".join((MAGIC, sizes, sha256(header + body).digest(), header, body))


def embedded(weights: bytes) -> str:
    """A weight file as text for a page that is a single file; `pageEngine` takes it as it takes the file.

    The text belongs alone into a script element of type text/plain. It is zlib's of the even bytes and then the odd
    ones, as the upper bytes of float16 weights compress and their lower ones do not, in characters of seven bits each;
    the three that HTML does not keep have 256 added. Base64 would take a seventh more.

    Example:
        >>> text = embedded(bytes(10**6))
        >>> len(text), text.count("<")
        (1133, 0)
    """
    packed = np.frombuffer(zlib.compress(weights[::2] + weights[1::2], 9), np.uint8)
    bits = np.unpackbits(packed)
    sevens = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7)
    text = np.packbits(np.pad(sevens, ((0, 0), (1, 0)))).tobytes().decode("ascii")
    return text.translate({code: code + 256 for code in b"\0\r<"})


def rounded(tensor: Tensor) -> Tensor:
    """A parameter in the type in which the file holds it, float16 for a matrix and float32 for a vector.

    Example:
        >>> rounded(torch.ones(2, 2)).dtype, rounded(torch.ones(2)).dtype
        (torch.float16, torch.float32)
    """
    vector = sum(size > 1 for size in tensor.shape) < 2
    return tensor.detach().cpu().to(torch.float32 if vector else torch.float16)


def read_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """The parts of tokenizer.json that the page engine reads.

    Raises:
        SettingsError: it is no plain byte-level BPE.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise SettingsError(
            f"the tokenizer is a {type(tokenizer).__name__}; the page engine reads a byte-level BPE of `tokenizers`"
        )
    file = json.loads(backend.to_str())
    model, before = file["model"], file["pre_tokenizer"] or {}
    plain = before.get("type") == "ByteLevel" and before["use_regex"] and not before["add_prefix_space"]
    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    unusual = [name for name in options if model.get(name)]
    unusual += ["bytes that are no token"] if not set(ByteLevel.alphabet()) <= set(model.get("vocab", ())) else []
    special = file["added_tokens"] and not tokenizer.split_special_tokens
    if model["type"] != "BPE" or not plain or file["normalizer"] or unusual or special:
        raise SettingsError(
            f"the tokenizer is a {model['type']} with {before.get('type', 'no')} pre-tokenizer; the page engine reads "
            "a byte-level BPE of all bytes, without normalizer, prefix space, special tokens in a text or other options"
        )
    return {"model": {"vocab": model["vocab"], "merges": model["merges"]}}


def check_arm(name: str, model: Any, vocabulary: int) -> None:
    """Check that the page engine computes an arm whose tokenizer has so many tokens.

    Raises:
        SettingsError: it does not; the message names the arm and the reason.
    """
    if not isinstance(model, Rwkv6ForCausalLM):
        raise SettingsError(f"arm {name!r} is a {type(model).__name__}; the page engine runs Rwkv6ForCausalLM")
    if any(".lora_" in key for key, _ in model.named_parameters()):
        raise SettingsError(f"arm {name!r} has LoRA adapters; the page engine runs it once they are merged")
    if model.config.vocab_size < vocabulary:
        raise SettingsError(
            f"arm {name!r} reads {model.config.vocab_size:,} tokens and the tokenizer has {vocabulary:,}; "
            "they must belong together"
        )
    if 2 * model.num_parameters() > LARGEST:
        raise SettingsError(f"arm {name!r} has {model.num_parameters():,} parameters; a page holds {LARGEST // 2:,}")
    if is_patched(model) and (problem := _unsupported(gate_config(model))):
        raise SettingsError(f"arm {name!r}: {problem}")


def _unsupported(config: GateConfig) -> str | None:
    """What the page engine cannot compute of a gate, as a sentence."""
    for field, allowed in (("shift", SHIFTS), ("gating", GATINGS), ("site", ("output",))):
        if (value := getattr(config, field)) not in allowed:
            return f"{field} is {value!r}, which the page engine does not compute; it computes {', '.join(allowed)}"
    return None


def _several(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def _named(model: Rwkv6ForCausalLM) -> dict[str, Tensor]:
    return {key.removeprefix("rwkv."): tensor for key, tensor in model.state_dict().items()}


def _stored(where: str, key: str, tensor: Tensor) -> Tensor:
    """A parameter as the file holds it: rounded, and a matrix as (out, in)."""
    if key.endswith(TRANSPOSED):
        tensor = tensor.transpose(-1, -2)
    stored = rounded(tensor).contiguous()
    if not bool(stored.isfinite().all()):
        raise SettingsError(f"arm {where} holds values that are not finite in float16")
    return stored


def _placed(tensor: Tensor, body: bytearray, places: dict[bytes, int]) -> dict[str, Any]:
    """Append a tensor to the body, unless the same bytes are there; returns its entry in the header."""
    data = tensor.numpy().astype("<f2" if tensor.dtype == torch.float16 else "<f4").tobytes()
    digest = sha256(data).digest()
    if digest not in places:
        places[digest] = len(body)
        body += data + b"\0" * (-len(data) % 8)
    type_ = str(tensor.dtype).removeprefix("torch.")
    return {"shape": list(tensor.shape), "type": type_, "offset": places[digest], "length": math.prod(tensor.shape)}
