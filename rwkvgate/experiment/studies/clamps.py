"""What does the gate do to a tuned model? Its loss on test documents while gates are clamped, and what gates let in.

A clamp takes one thing from the gate and leaves the rest. At one number it can no longer open and close; at the mean of
each channel over validation texts it no longer depends on the text; with another text's values it has the distribution
of its own and the wrong content. The model was tuned with its gate and is not tuned again: a loss that rises shows what
this model uses, not that a model without the gate would be worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from rwkvgate.experiment import rules
from rwkvgate.experiment.analysis.tables import signed_interval
from rwkvgate.experiment.rules import (
    CONTRADICTED,
    FEWEST,
    FIRST,
    NOT_REPRODUCED,
    OWN,
    REPRODUCED,
    UNDECIDED,
    VERSION,
)
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.steps import Texts, ensure_arm, ensure_texts
from rwkvgate.experiment.steps.probes import CELLS, sample_size
from rwkvgate.experiment.studies.study import Study, documents_read, moving_gates
from rwkvgate.explore.interventions import clamp_gate
from rwkvgate.explore.observing import gate_names, observing, require_gates
from rwkvgate.explore.reading import read
from rwkvgate.gate.gating import Gated
from rwkvgate.gate.layer import wide_values
from rwkvgate.gate.past import Past, gather_rows
from rwkvgate.metrics.inference import PREFIX_ID, device_of
from rwkvgate.metrics.measures import ratio_of_sums
from rwkvgate.metrics.retrained import retrained_difference

CLAMP_COLUMNS = ("arm", "seed", "layer", "clamp", "document", "nll", "tokens")
LET_IN_COLUMNS = ("arm", "seed", "layer", "document", "share")
ALL_LAYERS = 0
"""The number that stands for all layers at once."""
NONE, MEAN, CHANNEL_MEANS, OTHER_TEXT = "none", "mean", "channel means", "another text"
NUMBERS = {"0": 0.0, "0.25": 0.25, "0.5": 0.5, "0.75": 0.75, "1": 1.0}
TOGETHER = (*NUMBERS, CHANNEL_MEANS, OTHER_TEXT)
"""Clamps of all layers at once."""
ALONE = ("0", MEAN, "1", CHANNEL_MEANS)
"""Clamps of one layer alone."""
DECIDING = ("0", CHANNEL_MEANS, OTHER_TEXT)
"""Those of them that decide claims, which read every test document; all others read a sample."""
ARM = "enhanced"
"""The arm that the claims are about."""

Clamps = Sequence[tuple[int, str]]
"""Layer, from 1 or `ALL_LAYERS`, and clamp."""


def channel_means(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, batch_size: int, prefix_id: int = PREFIX_ID
) -> list[Tensor]:
    """The mean gate of each channel over all tokens of some texts, (channel,) for each layer.

    Raises:
        ValueError: the model carries no gate, or a layer of it two.
    """
    sums: list[Any] = [0.0] * len(_one_a_layer(model))
    for rows in batches(sequences, batch_size):
        ids, mask = padded(model, [sequences[row] for row in rows], prefix_id)
        for layer, values in enumerate(_recorded(model, ids, mask)):
            sums[layer] = sums[layer] + values[mask].double().sum(dim=0)
    tokens = sum(len(sequence) + 1 for sequence in sequences)
    return [(total / tokens).float() for total in sums]


def clamped_losses(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    clamps: Clamps,
    means: Sequence[Tensor],
    *,
    batch_size: int,
    prefix_id: int = PREFIX_ID,
) -> pd.DataFrame:
    """The loss of each text while gates are clamped.

    "another text" gives a text the values that the gates had in the next one in the order of length, and the shortest
    those of the longest; they are cut or repeated to its length.

    Args:
        sequences: token ids, without the prefix.
        clamps: layer and name: "none", a key of `NUMBERS`, "mean", "channel means" or "another text".
        means: of `channel_means`.

    Returns:
        One row a clamp and text: `layer`, `clamp`, `document`, `nll` (nats, summed over tokens), `tokens`.

    Raises:
        ValueError: the model carries no gate, or a layer of it two.
    """
    layers, rows = len(_one_a_layer(model)), []
    order = [row for batch in batches(sequences, len(sequences)) for row in batch]
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    for batch in batches(sequences, batch_size):
        ids, mask = padded(model, [sequences[row] for row in batch], prefix_id)
        values: dict[str, Sequence[Tensor | float]] = {name: [number] * layers for name, number in NUMBERS.items()}
        values |= {MEAN: [float(mean.mean()) for mean in means], CHANNEL_MEANS: means}
        if any(name == OTHER_TEXT for _, name in clamps):
            others = [sequences[following[row]] for row in batch]
            values[OTHER_TEXT] = _as_long(_recorded(model, *padded(model, others, prefix_id)), others, ids.shape[1])
        for layer, name in clamps:
            with ExitStack() as held:
                for one in _layers(layer, layers) if name != NONE else ():
                    held.enter_context(clamp_gate(model, one, values[name][one - 1]))
                nats = read(model, ids, mask, losses=True)
            assert nats is not None
            losses = nats.double().nansum(dim=1).tolist()
            rows += [(layer, name, row, nll, len(sequences[row])) for row, nll in zip(batch, losses, strict=True)]
    return pd.DataFrame(rows, columns=["layer", "clamp", "document", "nll", "tokens"])


def let_in(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, batch_size: int, prefix_id: int = PREFIX_ID
) -> pd.DataFrame:
    """How much of its past each layer's gate lets in, beside the state that it is added to.

    Returns:
        One row a layer and text: `layer`, `document` and `share`, the mean over its tokens of |g_t * h_{t-1}| / |h_t|,
        Euclidean norms over channels, before LayerNorm. For other shifts and gating functions, of the norm of what
        the gate adds to h_t.

    Raises:
        ValueError: the model carries no gate, a layer of it two, or the shift is recurrent.
    """
    gates, shares, rows = _one_a_layer(model), dict[int, list[Tensor]](), []
    if any(gate.config.shift == "recurrent" for gate in gates):
        raise ValueError("shift is 'recurrent', whose past is the gate's own results; shares are of other shifts")

    def watch(layer: int) -> Any:
        def keep(module: Any, inputs: tuple[Past, Any], gated: Gated) -> None:
            past, scale = inputs[0], gates[layer].gate_scale
            added = wide_values(gated._replace(values=None), past.now) * gated.moved * (1 if scale is None else scale)
            shares[layer].append(added.norm(dim=-1) / past.now.norm(dim=-1).clamp_min(torch.finfo(added.dtype).tiny))

        return keep

    with ExitStack() as watched:
        for layer, gate in enumerate(gates):
            watched.callback(gate.gating.register_forward_hook(watch(layer)).remove)
        for batch in batches(sequences, batch_size):
            shares.update((layer, []) for layer in range(len(gates)))
            read(model, *padded(model, [sequences[row] for row in batch], prefix_id))
            for layer, parts in shares.items():
                for row, share in zip(batch, torch.cat(parts, dim=1), strict=True):
                    if tokens := len(sequences[row]):
                        rows.append((layer + 1, row, float(share[1 : tokens + 1].mean())))
    return pd.DataFrame(rows, columns=["layer", "document", "share"])


def seed_changes(table: pd.DataFrame) -> pd.DataFrame:
    """How far each clamp raises the loss, in nats per token, by seed.

    Args:
        table: of the study `CLAMPS`.

    Returns:
        One row an arm, seed, layer and clamp but "none": `arm`, `seed`, `layer`, `clamp`, `change`.
    """
    by = ["arm", "layer", "clamp", "seed"]
    sums = _rises(table).groupby(by, sort=False)[["rise", "tokens"]].sum()
    return (sums["rise"] / sums["tokens"]).rename("change").reset_index()


def loss_changes(table: pd.DataFrame) -> pd.DataFrame:
    """How far each clamp raises the loss, in nats per token, with an interval over seeds and documents.

    Args:
        table: of the study `CLAMPS`.

    Returns:
        One row an arm, layer and clamp but "none": `arm`, `layer`, `clamp`, `estimate`, its 95 % interval `low` and
        `high` (nan with one seed or one document), `seeds`, and `n` documents.
    """
    rows = []
    for group, part in _rises(table).groupby(["arm", "layer", "clamp"], sort=False):
        columns = part.pivot(index="seed", columns="document", values=["nll", "nll_own", "tokens"])
        nll, own, tokens = (columns[name].to_numpy() for name in ("nll", "nll_own", "tokens"))  # (seed, document)
        clamped, plain = (np.stack((losses, tokens), axis=-1) for losses in (nll, own))
        found = retrained_difference(clamped, plain, ratio_of_sums)
        rows.append((*group, found.estimate, *found.interval(), found.seeds, found.n))
    return pd.DataFrame(rows, columns=["arm", "layer", "clamp", "estimate", "low", "high", "seeds", "n"])


WORTH = rules.WORTH["loss"]
"""Nats per token from which on a change is worth knowing."""
_CLAIMS = {
    "gate-matters": ("the gate matters to the tuned model", ("0", CHANNEL_MEANS), max),
    "gate-content": ("content of the gate matters beyond its mean", (CHANNEL_MEANS, OTHER_TEXT), min),
}
"""Claims, the clamps that decide them, and whether one of these (`max`) or each (`min`) must raise the loss."""
_RULE = (
    f"reproduced if the loss over the test documents is shown to rise by {WORTH} nats per token or more when all "
    "layers are clamped to {}: if the 95 % interval, over seeds and documents together, begins there; not reproduced "
    f"if it ends below {WORTH}, contradicted if at or below -{WORTH}; else, and with fewer than {FEWEST} seeds, "
    "undecided. It is about what a network that was tuned with the gate uses, and not about whether one without a gate "
    "would be worse"
)
_BOUNDS = ("estimate", "low", "high")


def gate_claims(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The verdicts on this study's own claims, which are not the paper's: records as of `claims.decide_claims`.

    Args:
        table: of the study `CLAMPS`; without rows of the arm `enhanced` the claims are undecided.
    """
    changes = loss_changes(table)
    changes = changes[(changes["arm"] == ARM) & (changes["layer"] == ALL_LAYERS)]
    found: dict[str, dict[str, Any]] = {row["clamp"]: dict(row) for _, row in changes.iterrows()}
    records = []
    for claim, (text, names, choose) in _CLAIMS.items():
        record: dict[str, Any] = {"claim": claim, "text": text, "source": "this project", "stated": OWN}
        record |= {"arithmetic": None, "verdict": UNDECIDED, "reason": "this run does not measure it"}
        if found:
            rows = [found[name] for name in names]
            record |= _decided(rows, choose(rows, key=lambda row: (FIRST.index(_verdict(row)), row["estimate"])))
        rule = _RULE.format((" or to " if choose is max else ", and when they are clamped to ").join(names))
        records.append(record | {"rule": rule, "rules": VERSION})
    return records


def _decided(rows: Sequence[dict[str, Any]], deciding: dict[str, Any]) -> dict[str, Any]:
    """What the ledger says of some changes, of which one decides."""
    known = (float(deciding[bound]) if np.isfinite(deciding[bound]) else None for bound in _BOUNDS)
    n, seeds = int(deciding["n"]), int(deciding["seeds"])
    parts = [f"to {row['clamp']} {signed_interval(*(row[bound] for bound in _BOUNDS))}" for row in rows]
    reason = f"all layers clamped {', '.join(parts)} nats per token; {n} documents, {seeds} seed{'s' * (seeds > 1)}"
    return {
        **dict(zip(("ours", "low", "high"), known, strict=True)),
        "n": n,
        "seeds": seeds,
        "unit": "nats per token",
        "rests_on": ["clamps"],
        "verdict": _verdict(deciding),
        "reason": reason + (f", and fewer than {FEWEST} decide nothing" if seeds < FEWEST else ""),
    }


def _verdict(change: dict[str, Any]) -> str:
    """What one clamp says of the claim that it raises the loss."""
    if change["seeds"] < FEWEST or np.isnan(change["low"]):
        return UNDECIDED
    if change["low"] >= WORTH:
        return REPRODUCED
    if change["high"] <= -WORTH:
        return CONTRADICTED
    return NOT_REPRODUCED if change["high"] < WORTH else UNDECIDED


def _rises(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of clamps, with `rise`: the text's loss above that without a clamp, in nats, summed over tokens."""
    by = ["arm", "seed", "document"]
    own = table.loc[table["clamp"] == NONE, [*by, "nll"]]
    rows = table[table["clamp"] != NONE].merge(own, on=by, suffixes=("", "_own"))
    return rows.assign(rise=rows["nll"] - rows["nll_own"])


def _one_a_layer(model: PreTrainedModel) -> list[Any]:
    """The gates, in the order of the layers.

    Raises:
        ValueError: the model carries no gate, or a layer of it two.
    """
    gates, layers = require_gates(model), {name.layer for name in gate_names(model)}
    if len(gates) > len(layers):
        raise ValueError(f"the model has {len(gates)} gates in {len(layers)} layers; this study clamps one a layer")
    return gates


def _layers(layer: int, count: int) -> Sequence[int]:
    return range(1, count + 1) if layer == ALL_LAYERS else (layer,)


def batches(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Places of the texts, longest first: there is little padding."""
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    return (order[start : start + size] for start in range(0, len(order), size))


def padded(model: PreTrainedModel, sequences: Sequence[Sequence[int]], prefix_id: int) -> tuple[Tensor, Tensor]:
    """Token ids after the prefix, padded on the right, and which are real, each (batch, 1 + longest)."""
    device = device_of(model)
    rows = [torch.tensor([prefix_id, *sequence], device=device) for sequence in sequences]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    ids = pad_sequence(rows, batch_first=True, padding_value=prefix_id)
    return ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]


def _recorded(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The gate of each layer, (batch, time, channel)."""
    parts: list[list[Tensor]] = [[] for _ in require_gates(model)]
    with observing(model, lambda gate, values: parts[gate].append(values)):
        read(model, ids, mask)
    return [torch.cat(part, dim=1) for part in parts]


def _as_long(gates: Sequence[Tensor], sequences: Sequence[Sequence[int]], time: int) -> list[Tensor]:
    """Recorded gates cut or repeated to `time` tokens."""
    lengths = torch.tensor([len(sequence) + 1 for sequence in sequences], device=gates[0].device)
    columns = torch.arange(time, device=lengths.device) % lengths[:, None]
    return [gather_rows(values, columns).clamp(0, 1) for values in gates]  # a sum of weights may round to above 1


def reading(run: Run, texts: Texts, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How texts are read: in batches whose logits stay small, after the end-of-text token."""
    fit = CELLS // (max(map(len, sequences), default=1) + 1) // len(texts.tokenizer)
    return {
        "batch_size": max(1, min(run.settings.evaluation.batch_size, fit)),
        "prefix_id": texts.tokenizer.bos_token_id or PREFIX_ID,
    }


def _clamps(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts, few = ensure_texts(run), sample_size(run)
    test = texts.encode(texts.corpus.test[: run.settings.evaluation.documents])
    validation = texts.encode(texts.corpus.validation[:few])
    options = reading(run, texts, [*test, *validation])
    for variant in variants:
        print(f"clamping the gate, {variant}", flush=True)
        model = ensure_arm(variant)
        means = channel_means(model, validation, **options)
        plan = [(test[:few], [(ALL_LAYERS, name) for name in (NONE, *TOGETHER)])]
        if variant.arm.name == ARM:
            others = [(ALL_LAYERS, name) for name in TOGETHER if name not in DECIDING]
            others += [(layer, name) for layer in range(1, len(means) + 1) for name in ALONE]
            plan = [(test, [(ALL_LAYERS, name) for name in (NONE, *DECIDING)]), (test[:few], others)]
        for sequences, clamps in plan:
            found = clamped_losses(model, sequences, clamps, means, **options)
            yield found.assign(arm=variant.arm.name, seed=variant.seed)


def _let_in(run: Run, variants: Sequence[Variant]) -> Iterator[pd.DataFrame]:
    texts = ensure_texts(run)
    test = texts.encode(texts.corpus.test[: sample_size(run)])
    options = reading(run, texts, test)
    for variant in variants:
        yield let_in(ensure_arm(variant), test, **options).assign(arm=variant.arm.name, seed=variant.seed)


def _one_gate(run: Run) -> list[Variant]:
    return [variant for variant in moving_gates(run) if variant.gate and variant.gate.site != "mixers"]


CLAMPS = Study(
    "clamps",
    CLAMP_COLUMNS,
    _clamps,
    documents_read,
    lambda run: [variant for variant in _one_gate(run) if variant.arm.trained],
)
"""The columns of `clamped_losses`, of every tuned gate that can move; of `ARM` also with one layer clamped alone. The
clamps of `ARM` that decide claims read every test document, all others a sample of them."""
LET_IN = Study(
    "let_in",
    LET_IN_COLUMNS,
    _let_in,
    documents_read,
    lambda run: [variant for variant in _one_gate(run) if variant.gate and variant.gate.shift != "recurrent"],
)
"""The columns of `let_in`, tuned and untuned, on a sample of the test documents."""
