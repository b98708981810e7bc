"""Does the tuned gate attend to clause boundaries, and to names mentioned again? Its values there and what they do.

Three numbers, each of a group's tokens against matched controls (`boundaries.matched`):

- the gate, in standard deviations;
- the same of random gates that read the same hidden states: any function of them tells tokens apart;
- the loss of the tokens that follow, when the gates are clamped at that token alone to their means by channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rwkvgate.experiment.analysis.comparison import ENHANCED
from rwkvgate.experiment.analysis.tables import number, signed_interval
from rwkvgate.experiment.judgements import Records, decided
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    FEWEST,
    FOLLOWING,
    NOT_REPRODUCED,
    RANDOM_GATES,
    REPRODUCED,
    SMALLEST_EFFECT,
    UNDECIDED,
    WORTH,
    of_parts,
)
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import ensure_arm, ensure_texts
from rwkvgate.experiment.steps.probes import sample_size
from rwkvgate.experiment.studies.boundaries import AGAIN, Matched, label_frame, matched
from rwkvgate.experiment.studies.clamps import CLAMPS, batches, channel_means, padded, reading
from rwkvgate.experiment.studies.study import Study, documents_read
from rwkvgate.explore.interventions import Clamp, applied
from rwkvgate.explore.observing import observing, require_gates
from rwkvgate.explore.reading import read
from rwkvgate.gate.gating import Sigmoid
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.past import Past
from rwkvgate.metrics.inference import PREFIX_ID
from rwkvgate.metrics.retrained import retrained_difference

RESPONSE_COLUMNS = ("group", "measure", "layer", "item", "effect", "tokens", "controls")
GATE, RANDOM, THERE, BEYOND = "gate", "random gate", "loss there", "loss beyond controls"
CLAIMS = {"syntactic-boundaries": "boundary", "entity-mentions": AGAIN}
"""The group of tokens that decides each claim."""
NAMES = {"boundary": "clause boundaries", AGAIN: "second mentions of a name"}
SAMPLED = 16
"""The standard deviation of a gate is taken over every token of so many."""
CLAMPED = 700
"""Tokens and controls of a group from which on only those in every second, third, ... document are clamped."""
CHANCE, HALF = 0.05, 0.5
"""The share of random gates that may differ as much, and that from which on the tuned gate is no different."""


@dataclass(frozen=True)
class _ClampAt(Clamp):
    """A clamp at one token of each text, its position in the document, (batch,)."""

    places: Tensor | None = None

    def chosen(self, past: Past) -> Tensor:
        assert self.places is not None
        return (past.positions() == self.places[:, None]).unsqueeze(-1)


class _Reading(NamedTuple):
    """`values`: mean gate over channels, (layer, row). `states`: what each gate reads, (row, channel) a layer.
    `nats`: the loss of each document's tokens, nan at the prefix."""

    values: NDArray[np.float64]
    states: list[Tensor]
    nats: dict[int, NDArray[np.float32]]


def responses(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    frame: pd.DataFrame,
    means: Sequence[Tensor],
    *,
    batch_size: int,
    prefix_id: int = PREFIX_ID,
    seed: int = 0,
    draws: int = RANDOM_GATES,
) -> pd.DataFrame:
    """What the gates do at the tokens of each group beyond what they do at matched controls.

    Random gates are drawn as fresh ones are, for gates whose gating function is "sigmoid"; others have none.

    Args:
        sequences: token ids of each document, without the prefix.
        frame: of `label_frame`.
        means: of `channel_means`, which the clamp puts in a token's place.
        seed: of the random gates.
        draws: random gates, each one of its own in every layer.

    Returns:
        `group`, the numbers of its matched `tokens` and `controls`, and `measure`, one of

        - `GATE`: `item` is a document and `effect` its part of the layer's effect, which the parts sum to, in
          standard deviations of the layer's gate;
        - `RANDOM`: `item` is a draw, from 1, and `effect` that of the whole gate;
        - `THERE` and `BEYOND`, with layer 0: `item` is a document and `effect` its part of how much the loss of the
          next `FOLLOWING` tokens rises, nats per token, at the group's tokens, and by how much more than at controls.

        Groups without a control are left out.

    Raises:
        ValueError: the model carries no gate.
    """
    found = {group: part for group in CLAIMS.values() if len((part := matched(frame, group)).rows)}
    if not found:
        return pd.DataFrame(columns=list(RESPONSE_COLUMNS))
    clamped = {group: _thinned(frame, group, len(part.rows)) for group, part in found.items()}
    touched = np.unique(np.concatenate([part.rows for part in clamped.values()]))
    sampled = np.arange(0, len(frame), SAMPLED)
    rows = np.unique(np.concatenate([sampled, *(part.rows for part in found.values())]))
    options = {"batch_size": batch_size, "prefix_id": prefix_id}
    own = _read(model, sequences, frame.iloc[rows], **options)
    rises = _rises(model, sequences, frame.iloc[touched], own.nats, means, **options)
    at_rows = np.searchsorted(rows, sampled)
    every = []  # (1 + draws, row) a layer: the gate, then random ones
    for values, drawn in zip(own.values, _random_gates(model, own.states, draws, seed), strict=True):
        together = np.concatenate([values[None], drawn])
        every.append(together / together[:, at_rows].std(axis=1, keepdims=True).clip(min=1e-12))
    document, parts = frame["document"].to_numpy(), []
    for group, tokens in found.items():
        gates = np.stack(every)[..., np.searchsorted(rows, tokens.rows)]  # (layer, 1 + draws, token)
        few = clamped[group]
        made = (
            (tokens, _of_gates(tokens, document[tokens.rows], gates)),
            (few, _of_losses(few, document[few.rows], rises[np.searchsorted(touched, few.rows)])),
        )
        for of, frames in made:
            inside = int(of.inside.sum())
            sizes = {"tokens": inside, "controls": len(of.rows) - inside}
            parts += [part.assign(group=group, **sizes) for part in frames]
    return pd.concat(parts, ignore_index=True)[list(RESPONSE_COLUMNS)]


def attention(table: pd.DataFrame) -> pd.DataFrame:
    """The effects over seeds, with intervals over seeds and documents together.

    Args:
        table: of the study `RESPONSES`.

    Returns:
        One row a group, measure and layer: `group`, `measure`, `layer`, `estimate`, its 95 % interval `low` and `high`
        (of gates, for all layers together by Bonferroni's correction; nan with one seed or one document), `seeds`, `n`
        documents, `tokens`, `controls`; and of `GATE` the size that 95 % of the random gates stay below, `random`, and
        the shares of these that differ as much, `p`, and in any layer as much as the tuned one does in any, `p_any`.
    """
    own, rows = table[table["measure"] != RANDOM], []
    for (group, measure), same in own.groupby(["group", "measure"], sort=False):
        layers = same["layer"].nunique()
        for layer, part in same.groupby("layer"):
            effects = part.pivot(index="seed", columns="item", values="effect").to_numpy()  # (seed, document)
            n = effects.shape[1]
            found = retrained_difference(n * effects[..., None], np.zeros((n, 1)))
            numbers = (found.estimate, *found.interval(1 - CHANCE / layers), found.seeds, n)
            rows.append((group, measure, layer, *numbers, *part[["tokens", "controls"]].iloc[0]))
    columns = ["group", "measure", "layer", "estimate", "low", "high", "seeds", "n", "tokens", "controls"]
    made = pd.DataFrame(rows, columns=columns).assign(random=np.nan, p=np.nan, p_any=np.nan)
    for name, part in table[table["measure"] == RANDOM].groupby("group", sort=False):
        null = part.pivot_table(index="item", columns="layer", values="effect").abs().to_numpy()  # (draw, layer)
        here = ((made["group"] == name) & (made["measure"] == GATE)).to_numpy()
        sizes = made["estimate"].abs().to_numpy()[here]
        p = (1 + (null >= sizes).sum(axis=0)) / (1 + len(null))
        p_any = (1 + (null.max(axis=1) >= sizes.max()).sum()) / (1 + len(null))
        found_random = np.stack([np.quantile(null, 1 - CHANCE, axis=0), p, np.full(len(p), p_any)], axis=1)
        made.loc[here, ["random", "p", "p_any"]] = found_random
    return made


def decide_attention(table: pd.DataFrame | None, claim: str) -> Records:
    """What the study says of a claim of `CLAIMS`, by its rule; keys as of `claims.decide_claims`.

    Args:
        table: of the study `RESPONSES`; None or empty where it was not made.
    """
    group = CLAIMS[claim]
    rows = None if table is None else table[(table["arm"] == ENHANCED) & (table["group"] == group)]
    if rows is None or rows.empty:
        missing = "the tuned gate was not read there, or no token has a control of the same token and token before"
        return decided(UNDECIDED, f"{NAMES[group]}: {missing}")
    effects = attention(rows)
    gates = effects[effects["measure"] == GATE]
    best = gates.iloc[int(gates["estimate"].abs().to_numpy().argmax())]
    there, beyond = (effects[effects["measure"] == measure].iloc[0] for measure in (THERE, BEYOND))
    verdicts = (_of_size(gates), _of_chance(float(best["p_any"])), _of_loss(there, beyond))
    verdict = of_parts(verdicts) if best["seeds"] >= FEWEST else UNDECIDED
    bounds = ("estimate", "low", "high")
    gate, one, other = (signed_interval(*(row[bound] for bound in bounds)) for row in (best, there, beyond))
    share = f"p {number(best['p_any'], 2)} among" if np.isfinite(best["p_any"]) else "not held against"
    seeds = f"{best['seeds']} seed{'s' if best['seeds'] > 1 else ''}"
    reason = (
        f"layer {best['layer']} differs by {gate} sd at {NAMES[group]} from matched controls ({_counts(best)}), "
        f"{share} {RANDOM_GATES} random gates; clamping the gates there raises the loss of the next {FOLLOWING} tokens "
        f"by {one} nats per token, by {other} more than at the controls ({_counts(there)}); {seeds}"
        + (f", and fewer than {FEWEST} decide nothing" if best["seeds"] < FEWEST else "")
    )
    numbers = dict(zip(("ours", "low", "high"), (float(best[bound]) for bound in bounds), strict=True))
    extra: Records = {"n": int(best["tokens"]), "seeds": int(best["seeds"]), "unit": "sd of the gate"}
    return numbers | extra | {"rests_on": ["responses"]} | decided(verdict, reason)


def _counts(row: pd.Series) -> str:
    return f"{row['tokens']:,} tokens, {row['controls']:,} controls, {row['n']} documents"


def _of_size(gates: pd.DataFrame) -> str:
    if gates["low"].ge(SMALLEST_EFFECT).any() or gates["high"].le(-SMALLEST_EFFECT).any():
        return REPRODUCED
    within = gates["low"].gt(-SMALLEST_EFFECT) & gates["high"].lt(SMALLEST_EFFECT)
    return NOT_REPRODUCED if within.all() else UNDECIDED


def _of_chance(p: float) -> str:
    return REPRODUCED if p <= CHANCE else NOT_REPRODUCED if p >= HALF else UNDECIDED


def _of_loss(there: pd.Series, beyond: pd.Series) -> str:
    if there["low"] > 0 and beyond["low"] > 0:
        return REPRODUCED
    if beyond["high"] < 0:
        return CONTRADICTED
    return NOT_REPRODUCED if min(there["high"], beyond["high"]) < WORTH["loss"] else UNDECIDED


def _thinned(frame: pd.DataFrame, group: str, tokens: int) -> Matched:
    """The matched tokens of as many documents, evenly spaced, as hold about `CLAMPED`."""
    kept = np.flatnonzero(frame["document"] % -(-tokens // CLAMPED) == 0)
    found = matched(frame.iloc[kept], group)
    return found._replace(rows=kept[found.rows])


def _of_gates(tokens: Matched, documents: NDArray[np.int64], gates: NDArray[np.float64]) -> Iterator[pd.DataFrame]:
    """The rows of `GATE` and `RANDOM` from gates in standard deviations, (layer, 1 + draws, token)."""
    contrast = tokens.contrast()
    centred = tokens.centred(gates[:, 0].T)  # (token, layer)
    for layer, own in enumerate(gates, start=1):
        yield _by_document(documents, contrast * centred[:, layer - 1], GATE, layer)
        effects = own[1:] @ contrast
        yield pd.DataFrame({"measure": RANDOM, "layer": layer, "item": range(1, len(own)), "effect": effects})


def _of_losses(tokens: Matched, documents: NDArray[np.int64], rises: NDArray[np.float64]) -> Iterator[pd.DataFrame]:
    """The rows of `THERE` and `BEYOND` from the rise at each token, (token,)."""
    contrast = tokens.contrast()
    yield _by_document(documents, np.where(tokens.inside, contrast, 0) * rises, THERE, 0)
    yield _by_document(documents, contrast * tokens.centred(rises[:, None])[:, 0], BEYOND, 0)


def _by_document(documents: NDArray[np.int64], parts: NDArray[np.float64], measure: str, layer: int) -> pd.DataFrame:
    numbers, index = np.unique(documents, return_inverse=True)
    sums = np.bincount(index, weights=parts)
    return pd.DataFrame({"measure": measure, "layer": layer, "item": numbers, "effect": sums})


def _random_gates(
    model: PreTrainedModel, states: Sequence[Tensor], draws: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Mean over channels of fresh gates at hidden states, (draw, row) for each layer."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for gate, of_layer in zip(require_gates(model), states, strict=True):
            drawn = [_fresh(gate, of_layer) for _ in range(draws)] if isinstance(gate.gating, Sigmoid) else []
            yield np.stack(drawn) if drawn else np.empty((0, len(of_layer)))


def _fresh(gate: GatedShift, states: Tensor) -> NDArray[np.float64]:
    linear = Sigmoid(states.shape[1], gate.config).linear.to(states)
    return linear(states).sigmoid_().mean(dim=1).double().cpu().numpy()


def _read(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], rows: pd.DataFrame, *, batch_size: int, prefix_id: int
) -> _Reading:
    """Read every document once, and keep what the gates do at some tokens of the frame."""
    document, place = rows["document"].to_numpy(), rows["position"].to_numpy() + 1  # after the prefix
    states: list[Tensor] = []
    values, nats = np.empty((len(require_gates(model)), len(rows))), dict[int, NDArray[np.float32]]()
    for batch in batches(sequences, batch_size):
        ids, mask = padded(model, [sequences[number] for number in batch], prefix_id)
        gates, inputs, losses = _watched(model, ids, mask)
        nats.update(zip(batch, losses, strict=True))
        here = np.flatnonzero(np.isin(document, batch))
        line = {number: at for at, number in enumerate(batch)}
        at = (torch.tensor([line[number] for number in document[here]]), torch.tensor(place[here]))
        for layer, (gate, read_by_it) in enumerate(zip(gates, inputs, strict=True)):
            values[layer, here] = gate[at].double().cpu().numpy()
            if layer == len(states):
                states.append(read_by_it.new_empty(len(rows), read_by_it.shape[-1]))
            states[layer][torch.tensor(here)] = read_by_it[at]
    return _Reading(values, states, nats)


def _watched(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor], NDArray[Any]]:
    """Of a batch: each gate's mean over channels, (batch, time), what it reads, (batch, time, channel), and losses."""
    gates = require_gates(model)
    means: list[list[Tensor]] = [[] for _ in gates]
    inputs: list[list[Tensor]] = [[] for _ in gates]

    def watch(number: int) -> Any:
        return lambda module, given, gated: inputs[number].append(given[0].now)

    with ExitStack() as watched:
        for number, gate in enumerate(gates):
            watched.callback(gate.gating.register_forward_hook(watch(number)).remove)
        watched.enter_context(observing(model, lambda number, values: means[number].append(values.mean(dim=-1))))
        nats = read(model, ids, mask, losses=True)
    assert nats is not None
    return [torch.cat(part, dim=1) for part in means], [torch.cat(part, dim=1) for part in inputs], nats.numpy()


def _rises(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    rows: pd.DataFrame,
    nats: dict[int, NDArray[np.float32]],
    means: Sequence[Tensor],
    *,
    batch_size: int,
    prefix_id: int,
) -> NDArray[np.float64]:
    """How much the loss of the tokens after each token rises when all gates are clamped at that one alone, (row,).

    The mean over the next `FOLLOWING` tokens, or as many as there are; 0 where none follows.
    """
    document, place = rows["document"].to_numpy(), rows["position"].to_numpy() + 1
    texts = [sequences[number][: end + FOLLOWING] for number, end in zip(document, place, strict=True)]
    found = np.zeros(len(rows))
    for batch in batches(texts, batch_size):
        ids, mask = padded(model, [texts[row] for row in batch], prefix_id)
        places = torch.tensor(place[batch], device=ids.device)
        with ExitStack() as held:
            for layer, mean in enumerate(means, start=1):
                held.enter_context(applied(model, _ClampAt(layer, mean, places=places)))
            losses = read(model, ids, mask, losses=True)
        assert losses is not None
        for row, clamped in zip(batch, losses.numpy(), strict=True):
            after = slice(place[row] + 1, len(texts[row]) + 1)
            if after.start < after.stop:
                found[row] = (clamped[after] - nats[document[row]][after]).mean()
    return found


def _responses(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts = ensure_texts(run)
    documents = texts.corpus.test[: run.settings.evaluation.documents]
    frame, test = label_frame(texts.tokenizer, documents), texts.encode(documents)
    validation = texts.encode(texts.corpus.validation[: sample_size(run)])
    options: dict[str, Any] = reading(run, texts, [*test, *validation])
    for variant in variants:
        print(f"clamping the gate at clause boundaries and mentions, {variant}", flush=True)
        model = ensure_arm(variant)
        means = channel_means(model, validation, **options)
        found = responses(model, test, frame, means, seed=variant.seed, **options)
        yield found.assign(arm=variant.arm.name, seed=variant.seed)


RESPONSES = Study(
    "responses",
    ("arm", "seed", *RESPONSE_COLUMNS),
    _responses,
    documents_read,
    lambda run: [variant for variant in CLAMPS.variants(run) if variant.arm.name == ENHANCED],
    claim="syntactic-boundaries",
)
"""The columns of `responses`, of the paper's gate, tuned, on the test documents."""
