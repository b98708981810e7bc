"""Does the gate follow language? Its values at clause boundaries and entity mentions, against matched controls.

The first word of a clause is often "and" or "because", and many mentions are names: a plain difference would be one
between words, not one of syntax. So a token is compared only with tokens of its own stratum: the same token (or, where
a group's tokens are hardly used outside it, a token of similar frequency) at a similar position in its document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import ensure_arm, ensure_texts
from rwkvgate.experiment.steps.probes import natural_pieces, sample_size
from rwkvgate.experiment.studies.study import Study, documents_read, record_text, variants_of
from rwkvgate.metrics.statistics import holm

Match = Literal["identity", "frequency"]
GROUPS: dict[str, Match] = {"boundary": "identity", "sentence": "frequency", "mention": "frequency"}
"""Groups of tokens, and what their controls are matched on beside position. Names and the first words of sentences are
hardly used elsewhere, so no control of their identity is left."""
EFFECT_COLUMNS = ("group", "match", "layer", "effect", "low", "high", "p", "p_holm", "tokens", "controls", "strata")
ARMS_READ = ("enhanced", "enhanced-untrained")
"""The paper's gate, and the same gate before training, the control: any function of the hidden state tells tokens
apart, a random one too."""
PERMUTATIONS, DRAWS = 400, 2000
"""Permutations of the labels for a test, and bootstrap resamples of the documents for an interval."""


@dataclass(frozen=True)
class LabelledTokens:
    """Every token of some documents, with its labels and the gate of each layer at it.

    Attributes:
        values: mean gate over channels, (layer, token).
        frame: one row a token: `document`, `position` (tokens before it), `token` (its id), `boundary` (it begins a
            clause inside a sentence), `sentence` (it begins a sentence), `mention` (it begins a mention).
    """

    values: NDArray[np.float64]
    frame: pd.DataFrame


def token_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The character at which each token begins, after any white space that it starts with."""
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
    for number, document in enumerate(documents):
        trace = record_text(model, tokenizer, document.text)
        ids = trace.input_ids[0, 1:].tolist()
        if not ids:
            continue
        values.append(trace.token_means()[:, 1:].numpy().astype(np.float64))
        starts = np.array(token_starts(tokenizer, document.text))
        # A label belongs to the first token that begins where the label does, or after it.
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
    """How the gate at a group of tokens differs from matched controls, layer by layer.

    Strata are token identity (or the octave of its frequency) by octave of position. A stratum with n1 tokens of the
    group and n0 controls has weight n1 n0 / (n1 + n0). Tokens of the other groups are no controls.

    Args:
        group: "boundary", "sentence" or "mention", a column of the frame.

    Returns:
        One row a layer with `EFFECT_COLUMNS`: `effect` in standard deviations of the layer's gate, its 95 % interval
        (bootstrap over documents), `p` (labels permuted within strata), `p_holm` (corrected over the layers), and the
        numbers of tokens, controls and strata. The effect is nan where no stratum has both.
    """
    frame, rng = labelled.frame, np.random.default_rng(seed)
    inside = frame[group].to_numpy(dtype=bool)
    other = frame[[name for name in GROUPS if name != group]].any(axis=1).to_numpy()
    stratum = _strata(frame, match)
    used = inside | ~other
    counts = pd.DataFrame({"stratum": stratum[used], "inside": inside[used]}).groupby("stratum")["inside"]
    both = counts.sum().between(1, counts.size() - 1, inclusive="both")
    used &= np.isin(stratum, both.index[both])
    layers = labelled.values.shape[0]
    found = pd.DataFrame({"layer": range(1, layers + 1)}, columns=list(EFFECT_COLUMNS))
    found = found.assign(group=group, match=match, tokens=int(inside[used].sum()), controls=int((~inside[used]).sum()))
    if not used.any():
        return found.assign(strata=0)
    _, strata = np.unique(stratum[used], return_inverse=True)
    values = labelled.values[:, used].T / labelled.values.std(axis=1).clip(min=1e-12)  # (token, layer)
    values = values - _stratum_means(values, strata)
    label = inside[used]
    observed = _contrast(label, strata) @ values  # (layer,)
    extreme = np.ones(layers)
    for _ in range(permutations):
        extreme += np.abs(_contrast(_shuffled(label, strata, rng), strata) @ values) >= np.abs(observed) * (1 - 1e-9)
    p = extreme / (permutations + 1)
    low, high = _over_documents(_contrast(label, strata)[:, None] * values, frame["document"].to_numpy()[used], rng)
    return found.assign(effect=observed, low=low, high=high, p=p, p_holm=holm(list(p)), strata=int(strata.max() + 1))


def _effects(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts, count = ensure_texts(run), run.settings.evaluation.documents
    pieces = natural_pieces(texts.corpus.natural_validation, sample_size(run))
    sources = {
        "stories": texts.corpus.test[:count],
        "natural": [weak_document(piece, "natural", "") for piece in pieces],
    }
    for variant in variants:
        print(f"reading the gate at clause boundaries and mentions, {variant}", flush=True)
        model = ensure_arm(variant)
        for text, documents in sources.items():
            labelled = label_tokens(model, texts.tokenizer, documents)
            for group, match in GROUPS.items():
                if labelled.frame[group].any():
                    found = group_effects(labelled, group, match=match, permutations=PERMUTATIONS)
                    yield found.assign(arm=variant.arm.name, seed=variant.seed, text=text)


def _first_at(starts: NDArray[np.int64], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each token is the first that begins at one of the labels, or after it."""
    first = np.zeros(len(starts) + 1, dtype=bool)  # one more, for labels behind the last token
    first[np.searchsorted(starts, np.asarray(labels, dtype=np.int64))] = True
    return first[:-1]


def _strata(frame: pd.DataFrame, match: Match) -> NDArray[np.int64]:
    octave = np.log2(frame["position"].to_numpy() + 1).astype(np.int64)
    matched = frame["token"].to_numpy()
    if match == "frequency":
        matched = np.log2(frame.groupby("token")["token"].transform("size").to_numpy())
    return matched.astype(np.int64) * 64 + octave


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
    shuffled = np.empty_like(label)
    shuffled[order] = label[np.argsort(strata, kind="stable")]
    return shuffled


def _over_documents(
    parts: NDArray[np.float64], documents: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of the sum of parts (token, layer), by bootstrap over documents."""
    _, index = np.unique(documents, return_inverse=True)
    sums = np.stack([np.bincount(index, weights=column) for column in parts.T], axis=1)
    n = len(sums)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    low, high = np.percentile(counts @ sums, [2.5, 97.5], axis=0)
    return low, high


EFFECTS = Study(
    "effects",
    (*EFFECT_COLUMNS, "arm", "seed", "text"),
    _effects,
    documents_read,
    lambda run: variants_of(run, ARMS_READ),
    claim="syntactic-boundaries",
)
"""The gate at boundaries, sentence starts and mentions. `text` is "stories", whose labels the generator knows, or
"natural", where punctuation is a weak label."""
