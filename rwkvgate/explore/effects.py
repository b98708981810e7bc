"""What a clamp does: to the loss of every token, and to the continuation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.explore.reading import model_lock, read
from rwkvgate.explore.tokens import token_texts
from rwkvgate.metrics.generation import end_ids
from rwkvgate.metrics.inference import PREFIX_ID, at_least_one, device_of, encode, evaluating
from rwkvgate.rwkv6.prefill import prefill

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Held:
    """A clamp as a user sets it: a layer from 1, None for all, and the value that its gate is held at."""

    layer: int | None
    value: float

    def __str__(self) -> str:
        where = "every layer" if self.layer is None else f"layer {self.layer}"
        return f"{where} held at {self.value:.2f}"


@dataclass(frozen=True)
class ClampEffect:
    """A text read and continued twice, with its gates as they are and with a clamp.

    Attributes:
        free, clamped: negative log-likelihood of each token, nats, (time,).
        free_text, clamped_text: the continuations.
    """

    held: Held
    tokens: list[str]
    free: NDArray[np.float32]
    clamped: NDArray[np.float32]
    free_text: str
    clamped_text: str


def clamp_effect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    held: Held,
    *,
    new_tokens: int = 40,
    prefix_id: int = PREFIX_ID,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> ClampEffect:
    """Read the text after the prefix token and continue it greedily, twice.

    Raises:
        ValueError: the model carries no gate, the layer or the value is out of range, or `new_tokens` is below 1.
        Stopped: `stopped`, asked before each window, said so.
    """
    sequence = encode(tokenizer, [text])[0]
    ids = torch.tensor([[prefix_id, *sequence]], device=device_of(model))
    losses, texts = [], []
    for clamp in (None, held):
        found = None
        if sequence:
            with clamped(model, clamp):
                found = read(model, ids, losses=True, progress=progress, stopped=stopped)
        losses.append(np.zeros(0, np.float32) if found is None else found[0, 1:].numpy())
        texts.append("")
        for written in stream(
            model, tokenizer, text, held=clamp, new_tokens=new_tokens, prefix_id=prefix_id, stopped=stopped
        ):
            texts[-1] = written
    return ClampEffect(held, token_texts(tokenizer, sequence), losses[0], losses[1], texts[0], texts[1])


def clamped(model: PreTrainedModel, held: Held | None) -> Any:
    """`clamp_gate` for what a user has set; without anything set, the model's lock alone."""
    return model_lock(model) if held is None else clamp_gate(model, held.layer, held.value)


def stream(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    held: Held | None = None,
    new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    prefix_id: int = PREFIX_ID,
    stopped: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """The continuation as it grows, one token longer at each step, until the end of text or `new_tokens`.

    The clamp is on and the model locked inside a step only: between steps others may use the model. A character
    that is not complete yet shows as U+FFFD.

    Args:
        temperature: 0 is greedy; otherwise logits are divided by it and a token is drawn.
        stopped: asked before each step; the continuation then ends there.

    Raises:
        ValueError: the temperature is below 0 or not finite, `new_tokens` below 1, or the model is none of this
            package's.
    """
    at_least_one(new_tokens=new_tokens)
    if not (temperature >= 0 and np.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}; it must be a finite number of at least 0")
    if not hasattr(model, "rwkv"):
        raise ValueError(f"the model is a {type(model).__name__}; continuations need a Rwkv6ForCausalLM")
    generator = torch.Generator().manual_seed(seed)
    ends = end_ids(model, tokenizer)
    following = torch.tensor([[prefix_id, *encode(tokenizer, [text])[0]]], device=device_of(model))
    state, written = None, list[int]()
    for _ in range(new_tokens):
        if stopped is not None and stopped():
            return
        with clamped(model, held), evaluating(model):
            logits, state = prefill(model, following, past_key_values=state)
            scores = logits[0].float().cpu()
        if temperature == 0:
            chosen = int(scores.argmax())
        else:
            chosen = int(torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator))
        if chosen in ends:
            return
        written.append(chosen)
        following = following.new_tensor([[chosen]])
        yield str(tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))
