"""Readings for the front end: a text's gates, what they let in, its losses and the likeliest next tokens.

A reading goes forward a window at a time, so that whoever asked can show its progress or give it up.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.gated_text import VALUES_LIMIT
from rwkvgate.explore.interventions import Clamp, applied
from rwkvgate.explore.observing import observing
from rwkvgate.explore.reading import WINDOW, check_text, model_lock
from rwkvgate.explore.tokens import token_texts
from rwkvgate.gate.gating import Gated
from rwkvgate.gate.layer import GatedShift, wide_values
from rwkvgate.gate.past import Past
from rwkvgate.gate.patch import gates_of
from rwkvgate.metrics.inference import PREFIX_ID, device_of, encode, evaluating
from rwkvgate.rwkv6.prefill import in_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOP = 10
"""Likeliest next tokens that are kept."""
LONGEST = 32_768
"""Tokens that are read of a text; the rest is counted."""


@dataclass(frozen=True)
class LiveReading:
    """A text as an arm reads it, without the prefix.

    Attributes:
        tokens: the text of each token.
        means: mean gate over channels, (gate, time); no rows without a gate.
        gates: (gate, time, channel), float16; None without a gate, or where they would take more than `VALUES_LIMIT`.
        let_in: norm over channels of what the gate adds, over that of the state that it is added to, (gate, time).
        surprisal: negative log-likelihood of each token, nats, (time,); nan for the first.
        top_ids, top_p: the likeliest tokens after each, and their probabilities, (time, `TOP` or the vocabulary).
        left: tokens of the text that were not read.
        seconds: that the passes took.
    """

    tokens: list[str]
    means: Tensor
    gates: Tensor | None
    let_in: Tensor
    surprisal: Tensor
    top_ids: Tensor
    top_p: Tensor
    left: int
    seconds: float


def read_live(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, clamps: Sequence[Clamp] = ()
) -> Generator[tuple[int, int], None, LiveReading]:
    """Read a text after the prefix token, a window at each step; the model is free between two steps.

    Yields:
        Tokens read, and tokens in all.

    Raises:
        ValueError, TypeError: as `clamp_gate` says; the model may have no gate if nothing is clamped.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
        >>> config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> reading = finished(read_live(model, Rwkv6Tokenizer(), "Once upon a time"))
        >>> reading.tokens, reading.gates.shape
        (['Once', ' upon', ' a', ' time'], torch.Size([2, 4, 32]))
    """
    every = encode(tokenizer, [text])[0]
    sequence = every[:LONGEST]
    ids = torch.tensor([[PREFIX_ID, *sequence]], device=device_of(model))
    check_text(model, ids)
    gates, size = gates_of(model), int(getattr(model.config, "hidden_size", 0)) or 1
    keeping = bool(gates) and 2 * size * len(gates) * len(sequence) <= VALUES_LIMIT
    means: list[list[Tensor]] = [[] for _ in gates]
    values: list[list[Tensor]] = [[] for _ in gates]
    shares: list[list[Tensor]] = [[] for _ in gates]

    def keep(gate: int, window: Tensor) -> None:
        means[gate].append(window[0].float().mean(-1).cpu())
        if keeping:
            values[gate].append(window[0].to("cpu", torch.float16))

    windows = in_windows(model, ids, window=WINDOW, keep=lambda _: 0)
    parts, last, seconds = [], ids.new_empty(1, 0, 0), 0.0
    while True:
        start = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(model_lock(model))
            for clamp in clamps:
                stack.enter_context(applied(model, clamp))
            if gates:
                stack.enter_context(observing(model, keep))
                stack.enter_context(_letting_in(gates, shares))
            stack.enter_context(evaluating(model))
            step = next(windows, None)
            if step is None:
                break
            part, logits = step[0], step[1].logits[0].float()  # (window, vocabulary)
            parts.append(_predictions(logits, ids[0, part], last))
            last = logits[-1:]
        seconds += time.perf_counter() - start
        yield part.stop, ids.shape[1]
    losses, top_ids, top_p = (torch.cat(each) for each in zip(*parts, strict=True))
    surprisal = losses[1:].clone()
    surprisal[:1] = torch.nan
    return LiveReading(
        tokens=_texts(tokenizer, sequence),
        means=_stacked(means),
        gates=torch.stack([torch.cat(each)[1:] for each in values]) if keeping else None,
        let_in=_stacked(shares),
        surprisal=surprisal,
        top_ids=top_ids[1:],
        top_p=top_p[1:],
        left=len(every) - len(sequence),
        seconds=seconds,
    )


def finished(steps: Generator[Any, None, LiveReading]) -> LiveReading:
    """The reading of all steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            reading: LiveReading = end.value
            return reading


@contextmanager
def _letting_in(gates: Sequence[GatedShift], shares: Sequence[list[Tensor]]) -> Iterator[None]:
    """Record what each gate lets in, after the clamps, which are overrides too."""
    before = [gate.override for gate in gates]

    def watch(number: int) -> Any:
        gate, inner = gates[number], before[number]

        def override(gated: Gated, past: Past) -> Gated:
            changed = gated if inner is None else inner(gated, past)
            moved = changed.moved
            if gate.config.shift == "recurrent":  # it lets in its own results, which the pass makes after this
                gate.recurred(past, changed)
                moved = past.tap(1)
            added = wide_values(changed._replace(values=None), past.now) * moved
            if gate.gate_scale is not None:
                added = added * gate.gate_scale
            share = added.norm(dim=-1) / past.now.norm(dim=-1).clamp_min(torch.finfo(added.dtype).tiny)
            shares[number].append(share[0])
            return changed

        return override

    try:
        for number, gate in enumerate(gates):
            gate.override = watch(number)
        yield
    finally:
        for gate, override in zip(gates, before, strict=True):
            gate.override = override


def _predictions(logits: Tensor, ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of a window's tokens (time,), nan for a text's first, and the likeliest after each (time, `TOP`).

    Args:
        logits: (time, vocabulary).
        ids: (time,).
        last: the logits before the window, (1, vocabulary); (1, 0, 0) at the start.
    """
    before = logits[:-1] if last.numel() == 0 else torch.cat((last, logits[:-1]))
    losses = torch.nn.functional.cross_entropy(before, ids[len(ids) - len(before) :], reduction="none")
    if len(before) < len(ids):
        losses = torch.cat((losses.new_full((1,), torch.nan), losses))
    scores, likeliest = logits.topk(min(TOP, logits.shape[-1]))
    chances = (scores - logits.logsumexp(-1, keepdim=True)).exp()
    return losses.cpu(), likeliest.int().cpu(), chances.cpu()


def _stacked(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Windows of every gate as (gate, time), without the prefix."""
    return torch.stack([torch.cat(list(each)).float().cpu()[1:] for each in parts]) if parts else torch.zeros(0, 0)


def _texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; each is looked up once."""
    known = sorted(set(ids))
    texts = dict(zip(known, token_texts(tokenizer, known), strict=True))
    return [texts[token] for token in ids]
