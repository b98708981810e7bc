"""Does the gate follow language? Its values at clause boundaries and entity mentions, against matched controls.

The first word of a clause is often "and" or "because" and follows a comma, and many mentions are names: a plain
difference would be one between words, not one of syntax. So a token is compared only with tokens of its own stratum:
the same token after the same token (or, where a group's tokens are hardly used outside it, a token of similar
frequency) at a similar position in its document. `responses` compares what the gate does there with the same strata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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

Match = Literal["pair", "frequency"]


class Group(NamedTuple):
    """How controls of a group are chosen: what they are `match`ed on beside position, the labels that they lack."""

    match: Match
    without: tuple[str, ...]


AGAIN = "second mention"
GROUPS: dict[str, Group] = {
    "boundary": Group("pair", ("sentence",)),
    AGAIN: Group("pair", ()),
    "sentence": Group("frequency", ("boundary", "mention")),
    "mention": Group("frequency", ("boundary", "sentence")),
}
"""Groups of tokens by their label. "pair" is the same token after the same token. Mentions and the first words of
sentences hardly have a control of this kind; a second mention has other mentions."""
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
        frame: of `label_frame`.
    """

    values: NDArray[np.float64]
    frame: pd.DataFrame


class Matched(NamedTuple):
    """The tokens of a group that have a control, and these controls.

    Attributes:
        rows: of the frame, (token,).
        inside: whether the token is of the group, (token,).
        strata: numbered from 0, (token,).
    """

    rows: NDArray[np.int64]
    inside: NDArray[np.bool_]
    strata: NDArray[np.int64]

    def contrast(self) -> NDArray[np.float64]:
        """Each token's coefficient in the weighted mean of the strata's differences, (token,)."""
        return _contrast(self.inside, self.strata)

    def centred(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at the tokens, (token, layer), less the mean of their stratum."""
        sizes = np.bincount(self.strata)
        means = np.stack([np.bincount(self.strata, weights=column) / sizes for column in values.T], axis=1)
        return values - means[self.strata]


def token_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The character at which each token begins, after any white space that it starts with."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [int(a) + len(text[a:b]) - len(text[a:b].lstrip()) for a, b in spans]


def label_frame(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> pd.DataFrame:
    """Every token of some documents with its labels.

    Returns:
        One row a token: `document`, `position` (tokens before it), `token` (its id), `before` (the id before it, -1 at
        the start), `boundary` (it begins a clause inside a sentence), `sentence` (it begins a sentence), `mention` (it
        begins a mention), `second mention` (it begins the second mention of a person or machine by name).

    Raises:
        ValueError: there is no document with a token.
    """
    rows = []
    for number, document in enumerate(documents):
        ids: list[int] = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        starts = np.array(token_starts(tokenizer, document.text))
        # A label belongs to the first token that begins where the label does, or after it.
        rows.append(
            pd.DataFrame(
                {
                    "document": number,
                    "position": range(len(ids)),
                    "token": ids,
                    "before": [-1, *ids[:-1]][: len(ids)],
                    "boundary": _first_at(starts, document.boundaries),
                    "sentence": _first_at(starts, (0, *document.sentence_ends)),
                    "mention": _first_at(starts, [m.start for m in document.mentions]),
                    AGAIN: _first_at(starts, _second_mentions(document)),
                }
            )
        )
    if not any(len(part) for part in rows):
        raise ValueError("there is no document with a token")
    return pd.concat([part for part in rows if len(part)], ignore_index=True)


def label_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]
) -> LabelledTokens:
    """Read documents, each alone after the end-of-text token, and label every token.

    Raises:
        ValueError: the model carries no gate, or there is no document with a token.
    """
    frame = label_frame(tokenizer, documents)
    traces = (record_text(model, tokenizer, documents[number].text) for number in frame["document"].unique())
    values = [trace.token_means()[:, 1:].numpy().astype(np.float64) for trace in traces]
    return LabelledTokens(np.concatenate(values, axis=1), frame)


def matched(frame: pd.DataFrame, group: str) -> Matched:
    """The tokens of a group that have a control, and their controls, by `GROUPS`.

    Strata are the token and the one before it (or the octave of the token's frequency) by octave of position.

    Args:
        frame: of `label_frame`.
    """
    inside = frame[group].to_numpy(dtype=bool)
    match, without = GROUPS[group]
    stratum = _strata(frame, match)
    used = inside | ~frame[list(without)].any(axis=1).to_numpy(dtype=bool)
    counts = pd.DataFrame({"stratum": stratum[used], "inside": inside[used]}).groupby("stratum")["inside"]
    both = counts.sum().between(1, counts.size() - 1, inclusive="both")
    used &= np.isin(stratum, both.index[both])
    _, strata = np.unique(stratum[used], return_inverse=True)
    return Matched(np.flatnonzero(used), inside[used], strata)


def group_effects(labelled: LabelledTokens, group: str, *, permutations: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How the gate at a group of tokens differs from matched controls, layer by layer.

    A stratum with n1 tokens of the group and n0 controls has weight n1 n0 / (n1 + n0).

    Args:
        group: a key of `GROUPS`, which is a column of the frame.

    Returns:
        One row a layer with `EFFECT_COLUMNS`: `effect` in standard deviations of the layer's gate, its 95 % interval
        (bootstrap over documents), `p` (labels permuted within strata), `p_holm` (corrected over the layers), and the
        numbers of tokens, controls and strata. The effect is nan where no stratum has both.
    """
    found, rng = matched(labelled.frame, group), np.random.default_rng(seed)
    layers, tokens = labelled.values.shape[0], int(found.inside.sum())
    table = pd.DataFrame({"layer": range(1, layers + 1)}, columns=list(EFFECT_COLUMNS))
    table = table.assign(group=group, match=GROUPS[group].match, tokens=tokens, controls=len(found.rows) - tokens)
    if not len(found.rows):
        return table.assign(strata=0)
    strata = found.strata
    values = labelled.values[:, found.rows].T / labelled.values.std(axis=1).clip(min=1e-12)  # (token, layer)
    values = found.centred(values)
    contrast = found.contrast()
    observed = contrast @ values  # (layer,)
    extreme = np.ones(layers)
    for _ in range(permutations):
        shuffled = _shuffled(found.inside, strata, rng)
        extreme += np.abs(_contrast(shuffled, strata) @ values) >= np.abs(observed) * (1 - 1e-9)
    p = extreme / (permutations + 1)
    documents = labelled.frame["document"].to_numpy()[found.rows]
    low, high = _over_documents(contrast[:, None] * values, documents, rng)
    return table.assign(effect=observed, low=low, high=high, p=p, p_holm=holm(list(p)), strata=int(strata.max() + 1))


def _effects(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts, count = ensure_texts(run), run.settings.evaluation.documents
    pieces = natural_pieces(texts.corpus.natural_validation, sample_size(run))
    # The label of a boundary in natural text is the punctuation before it: no control stands after the same token.
    sources = {
        "stories": (texts.corpus.test[:count], tuple(GROUPS)),
        "natural": ([weak_document(piece, "natural", "") for piece in pieces], ("sentence",)),
    }
    for variant in variants:
        print(f"reading the gate at clause boundaries and mentions, {variant}", flush=True)
        model = ensure_arm(variant)
        for text, (documents, groups) in sources.items():
            labelled = label_tokens(model, texts.tokenizer, documents)
            for group in groups:
                if labelled.frame[group].any():
                    found = group_effects(labelled, group, permutations=PERMUTATIONS)
                    yield found.assign(arm=variant.arm.name, seed=variant.seed, text=text)


def _first_at(starts: NDArray[np.int64], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each token is the first that begins at one of the labels, or after it."""
    first = np.zeros(len(starts) + 1, dtype=bool)  # one more, for labels behind the last token
    first[np.searchsorted(starts, np.asarray(labels, dtype=np.int64))] = True
    return first[:-1]


def _second_mentions(document: Document) -> list[int]:
    """The characters at which a person or machine is called by name for the second time."""
    seen, found = Counter[str](), []
    for mention in document.mentions:
        if mention.kind in ("person", "machine") and document.text[mention.start : mention.end] == mention.entity:
            seen[mention.entity] += 1
            if seen[mention.entity] == 2:
                found.append(mention.start)
    return found


def _strata(frame: pd.DataFrame, match: Match) -> NDArray[np.int64]:
    keys = [np.log2(frame["position"] + 1).astype(int)]
    if match == "pair":
        keys += [frame["token"], frame["before"]]
    else:
        keys.append(np.log2(frame.groupby("token")["token"].transform("size")).astype(int))
    return np.asarray(frame.groupby(keys).ngroup(), dtype=np.int64)


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
)
"""The gate at boundaries, sentence starts and mentions. `text` is "stories", whose labels the generator knows, or
"natural", where punctuation is a weak label."""
