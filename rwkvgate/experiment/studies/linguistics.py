"""Does the gate know the language? Its values at clause boundaries and entity mentions against matched controls.

A boundary's first word is often "and" or "because", and mentions are often names: a raw difference would be one of
words, not of syntax. So a token is compared only with tokens of its own stratum, of the same identity (or, where a kind
of word is never found outside mentions, of like frequency) and of like position in the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.explore.traces import record_gates
from rwkvgate.metrics.statistics import holm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Match = Literal["identity", "frequency"]
GROUPS: dict[str, Match] = {"boundary": "identity", "sentence": "frequency", "mention": "frequency"}
"""Groups of tokens, and what their controls are matched on beside position: names and the first words of sentences are
seldom found elsewhere, so no token of their identity is left to compare with."""
EFFECT_COLUMNS = ("group", "match", "layer", "effect", "low", "high", "p", "p_holm", "tokens", "controls", "strata")


@dataclass(frozen=True)
class LabelledTokens:
    """Every token of some documents: what it is, where, and what each layer's gate did there.

    Attributes:
        values: mean gate over channels, (layer, token).
        frame: one row a token: `document`, `position` (tokens before it), `token` (its id), `boundary` (it begins a
            clause inside a sentence), `sentence` (it begins a sentence), `mention` (it begins a mention).
    """

    values: NDArray[np.float64]
    frame: pd.DataFrame


def token_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The character at which each token's own text begins, white space before it passed over."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [int(a) + len(text[a:b]) - len(text[a:b].lstrip()) for a, b in spans]


def label_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> LabelledTokens:
    """Read documents, each alone after the end-of-text token, and label every token.

    Raises:
        ValueError: the model carries no gate, or there is no document with a token.
    """
    values, rows = [], []
    prefix = tokenizer.bos_token_id or 0
    for number, document in enumerate(documents):
        ids: list[int] = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        if not ids:
            continue
        device = next(model.parameters()).device
        trace = record_gates(model, torch.tensor([[prefix, *ids]], device=device))
        values.append(trace.token_means()[:, 1:].numpy().astype(np.float64))
        starts = np.array(token_starts(tokenizer, document.text))
        # A label belongs to the first token whose own text begins at it or after it.
        rows.append(
            pd.DataFrame(
                {
                    "document": number,
                    "position": range(len(ids)),
                    "token": ids,
                    "boundary": _first_at(starts, document.boundaries),
                    "sentence": _first_at(starts, (0, *document.sentence_ends)),
                    "mention": _first_at(starts, [m.start for m in document.mentions]),
                }
            )
        )
    if not rows:
        raise ValueError("there is no document with a token")
    return LabelledTokens(np.concatenate(values, axis=1), pd.concat(rows, ignore_index=True))


def group_effects(
    labelled: LabelledTokens,
    group: str,
    *,
    match: Match = "identity",
    permutations: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How the gate differs at a group of tokens from controls of the same stratum, layer by layer.

    Strata are token identity (or the octave of its frequency) by octave of position. Of each stratum with both kinds of
    tokens the difference of means counts by n1 n0 / (n1 + n0). Tokens of the other labels are no controls.

    Args:
        group: "boundary", "sentence" or "mention", a column of the frame.

    Returns:
        One row a layer with `EFFECT_COLUMNS`: `effect` in standard deviations of the layer's gate, its 95 % interval
        (bootstrap over documents), `p` by permuting the labels within strata, `p_holm` over the layers, and how many
        tokens, controls and strata it rests on. nan where no stratum has both.
    """
    frame, rng = labelled.frame, np.random.default_rng(seed)
    inside = frame[group].to_numpy(dtype=bool)
    other = frame[[c for c in ("boundary", "sentence", "mention") if c != group]].any(axis=1).to_numpy()
    stratum = _strata(frame, match)
    used = inside | ~other
    counts = pd.DataFrame({"stratum": stratum[used], "inside": inside[used]}).groupby("stratum")["inside"]
    both = counts.sum().between(1, counts.size() - 1, inclusive="both")
    used &= np.isin(stratum, both.index[both])
    layers = labelled.values.shape[0]
    base = {"group": group, "match": match, "tokens": int(inside[used].sum()), "controls": int((~inside[used]).sum())}
    if not used.any():
        rows = [base | {"layer": layer + 1, "strata": 0} for layer in range(layers)]
        return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
    _, strata = np.unique(stratum[used], return_inverse=True)
    values = labelled.values[:, used].T / labelled.values.std(axis=1).clip(min=1e-12)
    values = values - _stratum_means(values, strata)
    label = inside[used]
    observed = _contrast(label, strata) @ values
    extreme = np.ones(layers)
    for _ in range(permutations):
        extreme += np.abs(_contrast(_shuffled(label, strata, rng), strata) @ values) >= np.abs(observed) * (1 - 1e-9)
    p = extreme / (permutations + 1)
    low, high = _over_documents(_contrast(label, strata)[:, None] * values, frame["document"].to_numpy()[used], rng)
    adjusted = holm(list(p))
    rows = [
        base
        | {
            "layer": layer + 1,
            "effect": observed[layer],
            "low": low[layer],
            "high": high[layer],
            "p": p[layer],
            "p_holm": adjusted[layer],
            "strata": int(strata.max() + 1),
        }
        for layer in range(layers)
    ]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def _first_at(starts: NDArray[np.int64], labels: Sequence[int]) -> NDArray[np.bool_]:
    found = np.zeros(len(starts), dtype=bool)
    for at in labels:
        index = int(np.searchsorted(starts, at))
        if index < len(starts):
            found[index] = True
    return found


def _strata(frame: pd.DataFrame, match: Match) -> NDArray[np.int64]:
    octave = np.log2(frame["position"].to_numpy() + 1).astype(np.int64)
    kind = frame["token"].to_numpy()
    if match == "frequency":
        kind = np.log2(frame.groupby("token")["token"].transform("size").to_numpy()).astype(np.int64)
    return kind.astype(np.int64) * 64 + octave


def _stratum_means(values: NDArray[np.float64], strata: NDArray[np.int64]) -> NDArray[np.float64]:
    sizes = np.bincount(strata)
    means = np.stack([np.bincount(strata, weights=column) / sizes for column in values.T], axis=1)
    return means[strata]


def _contrast(label: NDArray[np.bool_], strata: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each token's coefficient in the weighted mean of the strata's differences."""
    size = np.bincount(strata)
    inside = np.bincount(strata, weights=label)
    weight = inside * (size - inside) / size
    one, zero = weight / inside / weight.sum(), weight / (size - inside) / weight.sum()
    return np.where(label, one[strata], -zero[strata])


def _shuffled(label: NDArray[np.bool_], strata: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The labels permuted within every stratum."""
    # Random keys within each stratum's own unit interval: one sort keeps strata together and shuffles inside them.
    order = np.argsort(strata + rng.random(len(label)))
    found = np.empty_like(label)
    found[order] = label[np.argsort(strata, kind="stable")]
    return found


def _over_documents(
    parts: NDArray[np.float64], documents: NDArray[np.int64], rng: np.random.Generator, resamples: int = 2000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of the sum of parts (token, layer) when documents are drawn anew."""
    _, index = np.unique(documents, return_inverse=True)
    sums = np.stack([np.bincount(index, weights=column) for column in parts.T], axis=1)
    n = len(sums)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = counts @ sums
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high
