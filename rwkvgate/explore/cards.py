"""Cards of channels: how a channel's gate is spread over many documents, and where it is highest.

All cards of a model are made in one pass over the documents, a document at a step, and packed for the front end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.explore.observing import gates_over, require_gates
from rwkvgate.explore.tokens import token_texts
from rwkvgate.metrics.inference import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOP = 5
"""Contexts of a card, each of another document."""
BINS = 20
"""Bins of a histogram over [0, 1]; values above, of a scaled gate, are in the last."""
BEFORE, AFTER = 7, 3
"""Tokens of a context before and after the one at which the gate is highest."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""Steps from 0 to 1 in which a packed histogram holds the square root of each bin's share."""


class ChannelCards:
    """The cards of every channel of a model's gates over documents, each read after the prefix token.

    Args:
        model: with gates.
        documents: texts; the empty ones are passed over.

    Attributes:
        read: documents that were read so far.

    Raises:
        ValueError: the model has no gate.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
        >>> config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> cards = ChannelCards(model, Rwkv6Tokenizer(), ["Once upon a time", "A robot"])
        >>> list(cards.steps())
        [1, 2]
        >>> packed = cards.packed()
        >>> packed["documents"], packed["tokens"], len(packed["mean"]), len(packed["mean"][0])  # (gate, channel)
        (2, 6, 2, 32)
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> None:
        self.model, self.tokenizer, self.read = model, tokenizer, 0
        self._documents = documents
        self._ids: list[list[int]] = []
        gates, channels = len(require_gates(model)), int(model.config.hidden_size)
        self._sums = torch.zeros(gates, channels, dtype=torch.float64)
        self._counts = torch.zeros(gates, channels, BINS)
        self._values = torch.full((gates, channels, TOP), -torch.inf)
        self._places = torch.full((gates, channels, TOP, 2), -1)  # of each value its document and position

    @property
    def shape(self) -> tuple[int, int]:
        """Gates, and channels of each."""
        return self._sums.shape[0], self._sums.shape[1]

    def steps(self) -> Iterator[int]:
        """Read what is left of the documents; yields after each how many were read."""
        while self.read < len(self._documents):
            ids = encode(self.tokenizer, [self._documents[self.read]])[0]
            self._ids.append(ids)
            if ids:
                self._add(ids)
            self.read += 1
            yield self.read

    def _add(self, ids: list[int]) -> None:
        values = gates_over(self.model, ids)  # (gate, time, channel)
        self._sums += values.double().sum(1)
        bins = (values * BINS).long().clamp(0, BINS - 1).transpose(1, 2)  # (gate, channel, time)
        self._counts.scatter_add_(2, bins, torch.ones(1).expand(bins.shape))
        highest, positions = values.max(1)
        places = torch.stack((torch.full_like(positions, self.read), positions), dim=-1)
        every = torch.cat((self._values, highest.unsqueeze(-1)), dim=-1)
        self._values, chosen = every.topk(TOP)
        pairs = torch.cat((self._places, places.unsqueeze(2)), dim=2)
        self._places = pairs.gather(2, chosen.unsqueeze(-1).expand(*chosen.shape, 2))

    def packed(self, untrained: ChannelCards | None = None) -> dict[str, Any]:
        """All cards as JSON, as `cards.js` takes them. Lists are by gate.

        Args:
            untrained: the cards of the untrained gate, whose histograms stand beside; left out if of another shape.
        """
        known: dict[tuple[int, int], int] = {}
        tops = [
            [known.setdefault((document, position), len(known)) if document >= 0 else -1 for document, position in gate]
            for gate in self._places.flatten(1, 2).tolist()
        ]
        contexts = [(max(0, at - BEFORE), at, self._ids[document]) for document, at in known]
        cut = [(at - start, ids[start : at + AFTER + 1]) for start, at, ids in contexts]
        used = sorted({token for _, ids in cut for token in ids})
        number = {token: i for i, token in enumerate(used)}
        control = untrained if untrained is not None and untrained.shape == self.shape else None
        return {
            "documents": self.read,
            "of": len(self._documents),
            "tokens": sum(map(len, self._ids)),
            "pieces": token_texts(self.tokenizer, used),
            "contexts": [[at, *(number[token] for token in ids)] for at, ids in cut],
            "top": tops,
            "value": _rounded(self._values.flatten(1).nan_to_num(neginf=0)),
            **self._spread(),
            "untrained": None if control is None else control._spread(),
        }

    def _spread(self) -> dict[str, Any]:
        """Means and histograms of every channel."""
        count = max(1, sum(map(len, self._ids)))
        steps = ((self._counts / count).sqrt() * (len(LETTERS) - 1)).round().long().flatten(1)
        histograms = ["".join(LETTERS[step] for step in gate) for gate in steps.tolist()]
        return {"mean": _rounded(self._sums / count), "histogram": histograms}


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in gate] for gate in values.tolist()]
