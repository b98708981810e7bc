"""Long texts: what an item holds, what known networks gain from context, and the rule on planted gains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rwkvgate.experiment.study.design import SIZES, build, cost
from rwkvgate.experiment.study.long_range import (
    CONTEXTS,
    FOREIGN,
    MOST,
    NEAR,
    OWN,
    SCORED,
    LongTexts,
    differences,
    gains,
    items,
    name_of,
    scored_losses,
    section,
    verdict,
)
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Plan, Trial
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.likelihood import token_losses

SIZE, WINDOW = SIZES["64x4"], CONTEXTS[-1] + SCORED
SECONDS = {"64x4": {"base": 1.0, "enhanced": 1.1, "fixed-gate": 1.1}}


def works(kind: int, count: int) -> list[list[list[int]]]:
    """Works of two windows and a half each, whose tokens name the kind and the work, and count."""
    return [[[100 * kind + 10 * work + 1] * (2 * WINDOW + WINDOW // 2)] for work in range(count)]


def test_an_item_is_of_one_part_and_its_foreign_context_of_another_work_of_the_kind() -> None:
    found = items([works(0, 2), works(1, 3)])
    assert set(found) == {name_of(OWN, c) for c in CONTEXTS} | {name_of(FOREIGN, c) for c in CONTEXTS[1:]}
    for name, rows in found.items():
        context = int(name.split()[1])
        assert rows.shape == (2 * 5, 1 + context + SCORED) and not rows[:, 0].any()
        near, early = rows[:, -NEAR - SCORED :], rows[:, 1 : -NEAR - SCORED]
        torch.testing.assert_close(near, rows[:, -1:].expand_as(near))
        if context > NEAR and name.startswith(FOREIGN):
            assert (early[:, 0] != rows[:, -1]).all() and (early[:, 0] // 100 == rows[:, -1] // 100).all()
        else:
            torch.testing.assert_close(early, rows[:, -1:].expand_as(early))


def test_a_longer_context_ends_with_the_shorter_one() -> None:
    counting = [[list(range(WINDOW))], [list(range(5000, 5000 + WINDOW))]]
    found = items([counting])
    for whose in (OWN, FOREIGN):
        longest = found[name_of(whose, CONTEXTS[-1])]
        for context in CONTEXTS[1:]:
            torch.testing.assert_close(found[name_of(whose, context)][:, 1:], longest[:, -context - SCORED :])
    assert found["own 64"][0, 1:].tolist() == list(range(WINDOW - NEAR - SCORED, WINDOW))


def test_a_long_part_is_read_in_evenly_spaced_windows() -> None:
    long, other = list(range(100 * WINDOW)), [-1] * (3 * WINDOW)
    rows = items([[[long], [other]]])["own 1024"]
    starts = sorted(int(row[1]) // WINDOW for row in rows if row[1] >= 0)
    assert len(rows) == MOST + 3 and starts == [100 * i // MOST for i in range(MOST)]


def test_a_kind_of_one_long_work_is_refused() -> None:
    with pytest.raises(SettingsError, match="1 works have a part of 1,088 tokens; a foreign context needs two"):
        items([[[[1] * WINDOW], [[1] * (WINDOW - 1)]]])


class Counting(nn.Module):
    """Predicts by how often each token was read before, or not at all: a cache whose loss is known."""

    def __init__(self, vocabulary: int, reads: bool) -> None:
        super().__init__()
        self.vocabulary, self.reads = vocabulary, reads

    def forward(self, input_ids: Tensor, logits_to_keep: int, **_: Any) -> SimpleNamespace:
        counts = torch.nn.functional.one_hot(input_ids, self.vocabulary).cumsum(1)[:, -logits_to_keep:]
        return SimpleNamespace(logits=(self.reads * counts + 1).log())


def test_a_cache_gains_by_the_counts_and_a_blind_network_nothing() -> None:
    rows = items([[[[1, 2] * WINDOW], [[3] * WINDOW]]])
    cache, blind = Counting(5, True), Counting(5, False)
    assert scored_losses(blind, rows["own 128"]) == pytest.approx([np.log(5)] * len(rows["own 128"]))
    for whose in (OWN, FOREIGN):
        loss = scored_losses(cache, rows[name_of(whose, 256)])[0]
        # Of the tokens before the scored one, half are like it where they are own; the prefix is not.
        known = 256 if whose == OWN else NEAR
        exact = np.mean([-np.log(((known + i) // 2 + 1) / (1 + 256 + i + 5)) for i in range(SCORED)])
        assert loss == pytest.approx(exact, abs=1e-5)


def test_the_scored_losses_are_those_of_the_whole_text() -> None:
    model = build("enhanced", SIZES["64x2"], 0)
    rows = torch.randint(1, 2048, (3, 1 + 128 + SCORED), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = 0
    whole = token_losses(model, rows[:, 1:].tolist(), batch_size=2, window=50)
    assert scored_losses(model, rows, batch_size=2) == pytest.approx([x[-SCORED:].mean() for x in whole], abs=1e-5)


def test_the_task_trains_on_longer_rows_and_scores_every_item() -> None:
    texts = tuple(f"The fox met hare {i} at dawn, and both ran into the {i + 1}th wood. " * 60 for i in range(30))
    long = [[" ".join(texts[i : i + 9])] for i in (0, 9)]
    task = LongTexts(StudyTexts(texts, texts[:1], texts[1:2]), [long], [long])
    rows, labels = task.rows(2, seed=0)
    assert np.shape(rows) == np.shape(labels) == (8, 512)
    assert task.inputs != LongTexts(StudyTexts(texts, texts[:1], texts[1:2]), [long], [long[::-1]]).inputs
    found = task.score(build("base", SIZES["64x2"], 0))
    assert len(found["test"]) == len(task.weights) > 2
    assert found["test"] == found["contexts"]["own 1024"]
    assert found["validation"] == pytest.approx(np.log(2048), abs=0.5)


def trial(network: str, seed: int, gain: float, loss: float, noise: float = 0.002) -> Trial:
    """A network with this gain of every longer context, and this loss after its own, with noise by seed and item."""
    rng = np.random.default_rng([seed, sum(map(ord, network))])
    shared = np.random.default_rng(seed).normal(0, 0.05, 60)
    budgets = (300, 345, 390) if network == "base" else (300,)
    contexts = {}
    for whose, context in ((w, c) for w in (OWN, FOREIGN) for c in CONTEXTS):
        more = gain if whose == FOREIGN else 0.0
        contexts[name_of(whose, context)] = (loss + more + shared + rng.normal(0, noise, 60)).tolist()
    parameters, flops = cost(network, SIZE)
    return Trial(
        plan=Plan(SIZE, network, 4e-3, seed, budgets, "long"),
        parameters=parameters,
        flops=flops,
        validation=dict.fromkeys(budgets, loss),
        test=dict.fromkeys(budgets, contexts["own 1024"]),
        weights=[SCORED] * 60,
        losses=[],
        diverged=None,
        seconds=1.0,
        processor="a processor",
        contexts=dict.fromkeys(budgets, contexts),
    )


def decided(gain: float, loss: float, seeds: int = 5, base: float = 0.05) -> dict[str, Any]:
    """The verdict where the base gains `base` and has loss 4, and the enhanced network so much more."""
    trials = [trial("base", seed, base, 4.0) for seed in range(seeds)]
    trials += [trial("enhanced", seed, base + gain, 4.0 + loss) for seed in range(seeds)]
    return verdict(gains(trials), differences(trials, SECONDS))


@pytest.mark.parametrize(
    ("gain", "loss", "expected"),
    [
        (0.03, -0.03, "reproduced"),
        (0.03, 0.03, "undecided here"),
        (0.0, -0.03, "not reproduced"),
        (-0.03, -0.03, "contradicted"),
    ],
)
def test_the_rule_asks_for_a_larger_gain_and_a_lower_loss(gain: float, loss: float, expected: str) -> None:
    found = decided(gain, loss)
    assert found["verdict"] == expected
    assert found["ours"] == pytest.approx(gain, abs=0.003) and found["low"] < found["ours"] < found["high"]


def test_few_seeds_and_a_base_that_gains_nothing_decide_nothing() -> None:
    assert decided(0.03, -0.03, seeds=3)["verdict"] == "undecided here"
    assert decided(0.03, -0.03, base=0.0)["verdict"] == "undecided here"


def test_the_page_shows_gains_of_every_context_and_a_diverged_seed(tmp_path: Any) -> None:
    trials = [trial("base", seed, 0.05, 4.0) for seed in range(4)]
    trials += [trial("fixed-gate", seed, 0.02, 4.1) for seed in range(4)]
    parts, tables = section(tmp_path, trials, SECONDS)
    assert "no trial of one seed" in "\n".join(parts)
    drawn = (tmp_path / "long-range.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {words} -->" in drawn for words in ("128", "512", "1,024", "gain (nats per token)", "fixed-gate"))
    assert "95 % intervals" in " ".join(drawn.split())
    found = tables["long-gains"].set_index(["network", "context"])
    assert np.isnan(found.loc[("base", 64), "gain"])
    assert found.loc[("fixed-gate", 512), "gain"] == pytest.approx(0.02, abs=0.003)
    parts, _ = section(tmp_path, [*trials, *(trial("enhanced", seed, 0.09, 3.8) for seed in range(4))], SECONDS)
    gained = next(line for line in parts[parts.index("After 1,024 tokens, the arm's gain minus its control's:") + 1 :])
    assert "| enhanced | 4 | +0.039" in gained and "| fixed-gate | 4 | −0.0" in gained
    wide = [trial("base-wide", seed, 0.05, 4.0) for seed in range(4)]
    assert "no trial of one seed" in "\n".join(section(tmp_path, [*trials[:4], *wide], SECONDS)[0])
    whole = [*trials, *wide, *(trial("enhanced", seed, 0.09, 3.8) for seed in range(4))]
    told = "\n".join(section(tmp_path, whole, SECONDS)[0])
    assert "| base-wide | 4 |" in told and told.count("| – |\n") == 2  # it is of no other's parameters
    broken = trial("enhanced", 0, 0.0, 0.0)
    broken.contexts.clear()
    broken.test[300] = [np.inf] * 60
    parts, tables = section(tmp_path, [*trials, broken], SECONDS)
    assert tables["long-verdict"]["verdict"].tolist() == ["undecided here"]
    assert section(tmp_path, [], SECONDS) == ([], {})
