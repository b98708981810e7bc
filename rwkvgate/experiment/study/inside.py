"""What happens inside the networks as they train: the stages for what the paper's discussion says in words.

The paper says that LayerNorm prevents internal covariate shift and stabilises training, that the gate regularises and
filters noisy or irrelevant past, and that stability remains to be analysed (version 1, section 6). A trial here is read
at each of its budgets, and `Trial.measures` holds the readings as flat lists:

    mean, deviation    of the stream after each block, over the tokens of held-out texts: (layer, channel)
    gradient           norm of the loss's gradient on each block's own weights, the gate's left out: (batch, layer)
    jacobian           see `jacobian_norms`: (layer, text)
    state, stream      see `growth`: (octave, layer, text)
    noise, distractor, kept noise, kept distractor, context
                       see `disturbed_losses`: (text,)
    trained            loss of pieces of the training texts, as long as the test documents: (text,)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwkvgate.experiment.study.design import LENGTH
from rwkvgate.experiment.study.tasks import Books, Scores, packed
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.training.rows import Rows
from rwkvgate.gate.patch import blocks_of
from rwkvgate.metrics.inference import evaluating
from rwkvgate.metrics.likelihood import encode, token_losses
from rwkvgate.metrics.statistics import Floats
from rwkvgate.rwkv6.kernels import wkv_backend
from rwkvgate.rwkv6.layouts import GATE
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.rwkv6.prefill import WINDOW, in_windows
from rwkvgate.rwkv6.state import Rwkv6State
from rwkvgate.rwkv6.token_shift import TokenShift

MEASURED = 1
"""Raised with every change to what is read of a network."""
OCTAVES = tuple(LENGTH * 2**i for i in range(10))
"""Lengths at which growth is read: from the trained one to 65,536 tokens."""
LONG_TEXTS, GRADIENT_BATCHES = 4, 8
BEFORE, INSERTED, AFTER = 64, 32, 32
"""Tokens before an insertion, about how many are inserted, and those after it, which are scored."""
PIECE, PIECES = 600, 64
"""Tokens of a piece of the training texts, about as many as a test document has, and how many are scored."""
TOLERANCE, ITERATIONS = 1e-4, 300
"""Power iteration ends when no norm changes by more than this share, or after so many steps."""


class Repeated(Books):
    """Training on every n-th training document alone, in as many passes as the steps ask for.

    The tokenizer is that of all training texts, so losses are comparable.
    """

    passes = 1000

    def __init__(self, texts: StudyTexts, share: int) -> None:
        super().__init__(texts)
        self.share = share

    @property
    def inputs(self) -> dict[str, Any]:
        """The texts, the share of them, and what is read."""
        return super().inputs | {"share": self.share, "measured": MEASURED}

    @property
    def trained(self) -> list[list[int]]:
        """Every n-th training document."""
        return super().trained[:: self.share]

    def score(self, model: nn.Module) -> Scores:
        """The losses of `Books`, and those of the texts that were trained on."""
        pieces = [ids[i : i + PIECE] for ids in self.trained for i in range(0, max(1, len(ids) - PIECE + 1), PIECE)]
        count = min(PIECES, len(pieces))  # none twice, which would make the error of their mean too small
        chosen = [pieces[i * len(pieces) // count] for i in range(count)]
        losses = token_losses(model, chosen, batch_size=32)
        return super().score(model) | {"measures": {"trained": rounded(x.mean() for x in losses)}}


class Inside(Repeated):
    """Training on the books, read inside at every budget."""

    def __init__(self, texts: StudyTexts) -> None:
        super().__init__(texts, share=1)

    def score(self, model: nn.Module) -> Scores:
        """The losses, and every measure of this module."""
        assert isinstance(model, Rwkv6ForCausalLM)
        scores, held_out = super().score(model), self.encoded[1]
        texts = torch.tensor([[0, *np.resize(ids, LENGTH - 1).tolist()] for ids in held_out])
        rows = packed(held_out, GRADIENT_BATCHES * self.batch, LENGTH, 0, self.passes)
        batches = torch.tensor(rows).view(GRADIENT_BATCHES, -1, LENGTH)
        mean, deviation = stream_statistics(model, texts)
        state, stream = growth(model, self._long, OCTAVES)
        tensors = {"mean": mean, "deviation": deviation, "gradient": gradient_norms(model, batches)}
        tensors |= {"jacobian": jacobian_norms(model, texts[::2]), "state": state, "stream": stream}
        scores["measures"] |= {name: rounded(x.flatten().tolist()) for name, x in tensors.items()}
        losses = disturbed_losses(model, self.encoded[2], self._sentences, self.vocabulary)
        scores["measures"] |= {name: rounded(x) for name, x in losses.items()}
        return scores

    @cached_property
    def _long(self) -> Tensor:
        """Spans of the training texts, evenly spaced, (text, time); a short text is read in a ring."""
        stream = np.concatenate([np.array(ids) for ids in self.trained])
        starts = np.arange(LONG_TEXTS) * len(stream) // LONG_TEXTS
        return torch.from_numpy(stream.take(starts[:, None] + np.arange(OCTAVES[-1]), mode="wrap"))

    @cached_property
    def _sentences(self) -> list[list[int]]:
        """Of each test document, the sentence whose length is nearest to `INSERTED` tokens."""
        found = []
        for text in self.texts.test:
            sentences = encode(self.tokenizer, re.split(r"(?<=[.!?:;])\s+", text))
            found.append(min(sentences, key=lambda ids: abs(len(ids) - INSERTED)))
        return found


def rounded(values: Iterable[float]) -> list[float]:
    """Numbers of five significant digits, for a file."""
    return [float(f"{value:.5g}") for value in values]


def stream_statistics(model: Rwkv6ForCausalLM, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the stream after each block over all tokens, (layer, channel) both.

    What comes out of a block, behind its gate if it has one, goes into the next.

    Args:
        ids: (text, time).
    """
    with evaluating(model), _streams(model) as found:
        model.rwkv(input_ids=ids, use_cache=False)
        outputs = torch.stack([output for _, output in found]).flatten(1, 2).double()  # (layer, token, channel)
        return outputs.mean(1), outputs.std(1)


def gradient_norms(model: Rwkv6ForCausalLM, batches: Tensor) -> Tensor:
    """Euclidean norm of the gradient of the mean loss on each block's weights, (batch, layer).

    The gate's own weights are left out, so that all networks have the same.

    Args:
        batches: token ids, (batch, row, time).
    """
    parts = [[p for name, p in block.named_parameters() if GATE not in name] for block in blocks_of(model)]
    norms = []
    for ids in batches:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        gradients = iter(torch.autograd.grad(loss, [p for part in parts for p in part]))
        norms.append(torch.stack([torch.cat([next(gradients).flatten() for _ in part]).norm() for part in parts]))
    return torch.stack(norms)


def jacobian_norms(model: Rwkv6ForCausalLM, ids: Tensor) -> Tensor:
    """How far a change of a block's input at one token moves its output at the next, relatively and at most.

    The spectral norm of the Jacobian of a block's output h_t on its input at t - 1, times the norm of that input and
    over that of the output, so that the stream's scale does not count. By power iteration, with products with the
    Jacobian and its transpose by forward and reverse differentiation of the block as it is, state and gate included.

    Args:
        ids: (text, time), at least 3 tokens; t is the last.

    Returns:
        (layer, text).
    """
    with torch.no_grad(), _streams(model) as found:
        state: Rwkv6State = model.rwkv(input_ids=ids[:, :-2], use_cache=True).past_key_values
        found.clear()
        model.rwkv(input_ids=ids[:, -2:], past_key_values=state)
    tokens, norms = TokenShift(None, state.seen), []
    with wkv_backend("recurrent"):  # the chunked form has no forward differentiation
        for block, layer, (given, output) in zip(blocks_of(model), state.layers, found, strict=True):

            def moved(x: Tensor, block: Any = block, layer: Any = layer, last: Tensor = given[:, 1]) -> Tensor:
                result: Tensor = block(torch.stack((x, last), dim=1), tokens, layer)[0][:, 1]
                return result

            relative = given[:, 0].norm(dim=1) / output[:, 1].norm(dim=1)
            norms.append(_spectral_norms(moved, given[:, 0]) * relative)
    return torch.stack(norms)


def growth(model: Rwkv6ForCausalLM, ids: Tensor, ends: Sequence[int]) -> tuple[Tensor, Tensor]:
    """How large the state and the stream are along a long text, which is read in windows with the state carried.

    Args:
        ids: (text, time), at least as long as the last end.
        ends: ascending numbers of tokens, the ends of the spans.

    Returns:
        (span, layer, text) both: the Frobenius norm of the WKV state at the end of each span, and the root mean square
        of the stream after each block over the span's tokens and channels.
    """
    states, streams, state = [], [], None
    for start, end in pairwise((0, *ends)):
        squares = torch.zeros(())
        with evaluating(model), _streams(model) as found:
            for _, output in in_windows(model.rwkv, ids[:, start:end], window=WINDOW, state=state):
                state = output.past_key_values
                squares = squares + torch.stack([x.square().mean(-1).sum(-1) for _, x in found])
                found.clear()
        assert state is not None
        states.append(torch.stack([layer.wkv.flatten(1).norm(dim=1) for layer in state.layers]))
        streams.append((squares / (end - start)).sqrt())
    return torch.stack(states), torch.stack(streams)


def disturbed_losses(
    model: nn.Module, documents: Rows, sentences: Rows, vocabulary: int, seed: int = 0
) -> dict[str, Floats]:
    """What an insertion between two parts of a text costs the second part, nats per token of it, of each text.

    A *distractor* is a sentence of the text half of all texts further on; *noise* is as many random tokens.

    Args:
        documents: token ids, at least `BEFORE` + `AFTER` of each.
        sentences: one of each document.
        vocabulary: ids of noise are drawn from 1 up to it.

    Returns:
        `noise` and `distractor`: the loss with the insertion less that without; `kept noise` and `kept distractor`:
        what the first part is still worth behind the insertion, the loss without the first part less that with it;
        `context`: the same without an insertion.

    Raises:
        ValueError: a document is too short.
    """
    if short := [len(ids) for ids in documents if len(ids) < BEFORE + AFTER]:
        raise ValueError(f"a document has {min(short)} tokens; each needs {BEFORE + AFTER}")
    rng = np.random.default_rng(seed)
    half = len(documents) // 2
    inserted: dict[str, list[list[int]]] = {"": [[] for _ in documents]}
    inserted["distractor"] = [list(sentences[(i + half) % len(sentences)]) for i in range(len(documents))]
    inserted["noise"] = [rng.integers(1, vocabulary, len(ids)).tolist() for ids in inserted["distractor"]]
    losses = {}
    for name, middles in inserted.items():
        for kept in (BEFORE, 0):
            texts = [
                [*ids[BEFORE - kept : BEFORE], *middle, *ids[BEFORE : BEFORE + AFTER]]
                for ids, middle in zip(documents, middles, strict=True)
            ]
            scored = token_losses(model, texts, batch_size=32)
            losses[name, kept] = np.array([nll[-AFTER:].mean() for nll in scored])
    extra = {name: losses[name, BEFORE] - losses["", BEFORE] for name in ("noise", "distractor")}
    worth = {f"kept {name}": losses[name, 0] - losses[name, BEFORE] for name in extra}
    return extra | worth | {"context": losses["", 0] - losses["", BEFORE]}


@contextmanager
def _streams(model: Rwkv6ForCausalLM) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """A list that every pass extends by the input and the output of each block, (batch, time, channel) both."""
    found: list[tuple[Tensor, Tensor]] = []
    hooks = [
        block.register_forward_hook(lambda _, given, output: found.append((given[0], output[0])))
        for block in blocks_of(model)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _spectral_norms(function: Any, x: Tensor) -> Tensor:
    """Of each row's Jacobian, (row,), of a function of rows (row, channel) that do not meet."""
    _, pull = torch.func.vjp(function, x)
    vector = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    norms = x.new_zeros(len(x))
    for _ in range(ITERATIONS):
        vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        pushed = torch.func.jvp(function, (x,), (vector,))[1]
        before, norms = norms, pushed.norm(dim=1)
        if bool(((norms - before).abs() <= TOLERANCE * norms).all()):
            break
        (vector,) = pull(pushed)
    return norms.detach()
