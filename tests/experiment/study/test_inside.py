"""What is read inside a network, each measure beside an oracle."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rwkvgate.experiment.study.design import LENGTH, Size, build
from rwkvgate.experiment.study.inside import (
    AFTER,
    BEFORE,
    OCTAVES,
    Inside,
    Repeated,
    disturbed_losses,
    gradient_norms,
    growth,
    jacobian_norms,
    stream_statistics,
)
from rwkvgate.experiment.study.tasks import Books
from rwkvgate.experiment.study.texts import StudyTexts
from rwkvgate.experiment.study.trials import Plan, Trials
from rwkvgate.rwkv6.kernels import wkv_backend
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.rwkv6.token_shift import TokenShift

TINY, VOCABULARY = Size("tiny", 16, 2, 8), 50
NETWORKS = ("base", "enhanced", "no-layer-norm", "fixed-gate")
TEXTS = tuple(
    f"The fox met hare {i} at dawn. Both ran into the {i + 1}th wood, and out of it. " * 40 for i in range(40)
)


def network(name: str, seed: int = 0) -> Rwkv6ForCausalLM:
    """A tiny network in float64 whose every weight is drawn, so that no path is closed as at the start of training."""
    model = build(name, TINY, seed, VOCABULARY)
    assert isinstance(model, Rwkv6ForCausalLM)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


def some_ids(rows: int, time: int) -> Tensor:
    return torch.randint(1, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_spectral_norm_is_that_of_the_whole_jacobian(name: str) -> None:
    """Of a block over all tokens at once, differentiated by autograd and decomposed."""
    model, ids = network(name), some_ids(3, 9)
    inputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, given, __: inputs.append(given[0])) for block in model.rwkv.blocks]
    with torch.no_grad():
        model.rwkv(ids)
    for hook in hooks:
        hook.remove()
    found = jacobian_norms(model, ids)
    assert found.shape == (2, 3)
    for layer, block in enumerate(model.rwkv.blocks):
        for row in range(3):
            given = inputs[layer][row : row + 1]

            def last(x: Tensor, block: nn.Module = block, given: Tensor = given) -> Tensor:
                whole = torch.cat((given[:, :-2], x[None, None], given[:, -1:]), dim=1)
                result: Tensor = block(whole, TokenShift(None), None)[0][0, -1]
                return result

            x = given[0, -2]
            with wkv_backend("recurrent"):
                jacobian = torch.autograd.functional.jacobian(last, x)
            expected = torch.linalg.svdvals(jacobian)[0] * x.norm() / last(x).norm()
            assert float(found[layer, row]) == pytest.approx(float(expected.detach()), rel=1e-3)


def test_the_stream_statistics_are_those_of_the_blocks_outputs() -> None:
    model, ids = network("enhanced"), some_ids(4, 7)
    mean, deviation = stream_statistics(model, ids)
    with torch.no_grad():
        inputs = model.rwkv(ids, output_hidden_states=True).hidden_states
    second = inputs[1].flatten(0, 1)  # the second block's input is the first one's output
    torch.testing.assert_close(mean[0], second.mean(0))
    torch.testing.assert_close(deviation[0], second.std(0))
    assert mean.shape == deviation.shape == (2, 16)


@pytest.mark.parametrize("name", ["base", "enhanced"])
def test_gradient_norms_are_those_of_backward_without_the_gate(name: str) -> None:
    model, batches = network(name), some_ids(6, 8).view(3, 2, 8)
    found = gradient_norms(model, batches)
    assert all(parameter.grad is None for parameter in model.parameters())
    model(input_ids=batches[1], labels=batches[1]).loss.backward()
    own = [p.grad for n, p in model.rwkv.blocks[1].named_parameters() if not n.startswith("gated_shift")]
    expected = sum(float(gradient.square().sum()) for gradient in own if gradient is not None) ** 0.5
    assert found.shape == (3, 2)
    assert float(found[1, 1]) == pytest.approx(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_growth_read_by_windows_is_that_of_one_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvgate.experiment.study.inside.WINDOW", 5)
    model, ids = network(name), some_ids(2, 32)
    state, stream = growth(model, ids, (8, 16, 32))
    outputs: list[Tensor] = []
    for block in model.rwkv.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    with torch.no_grad():
        for span, end in enumerate((8, 16, 32)):
            outputs.clear()
            whole = model.rwkv(ids[:, :end], use_cache=True).past_key_values
            for layer, (own, output) in enumerate(zip(whole.layers, outputs, strict=True)):
                torch.testing.assert_close(state[span, layer], own.wkv.flatten(1).norm(dim=1))
                part = output[:, (0, 8, 16)[span] : end]
                torch.testing.assert_close(stream[span, layer], part.square().mean((1, 2)).sqrt())


class Bigram(nn.Module):
    """Predicts from the last token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(2)))

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids], past_key_values=())


def test_a_bigram_model_pays_for_an_insertion_at_the_next_token_alone() -> None:
    model = Bigram()
    documents, sentences = some_ids(6, BEFORE + AFTER + 3).tolist(), some_ids(6, 9).tolist()
    found = disturbed_losses(model, documents, sentences, VOCABULARY)
    logs = -model.table.detach().log_softmax(-1).double().numpy()
    first = np.array([ids[BEFORE] for ids in documents])
    before, other = ([ids[at] for ids in part] for part, at in ((documents, BEFORE - 1), (sentences, -1)))
    moved = np.roll(other, -3)  # the sentence is that of the text half of all further on
    np.testing.assert_allclose(found["distractor"], (logs[moved, first] - logs[before, first]) / AFTER, atol=1e-6)
    np.testing.assert_allclose(found["context"], (logs[0, first] - logs[before, first]) / AFTER, atol=1e-6)
    for kind in ("noise", "distractor"):  # nothing of the first part reaches past an insertion
        np.testing.assert_allclose(found[f"kept {kind}"], 0, atol=1e-6)
    assert np.abs(found["noise"]).max() > 0.01


def test_a_text_too_short_to_disturb_is_refused() -> None:
    with pytest.raises(ValueError, match="a document has 95 tokens; each needs 96"):
        disturbed_losses(Bigram(), [[1] * 95], [[1]], VOCABULARY)


@pytest.fixture(scope="module")
def texts() -> StudyTexts:
    return StudyTexts(TEXTS[:30], TEXTS[30:32], TEXTS[32:36])


def test_a_share_of_the_data_is_read_in_more_passes(texts: StudyTexts) -> None:
    all_of_it, part = Books(texts), Repeated(texts, 16)
    assert part.trained == all_of_it.trained[::16]
    assert part.tokenizer.get_vocab() == all_of_it.tokenizer.get_vocab()
    assert len(part.rows(20, seed=1)[0]) == 20 * part.batch
    assert len({str(task.inputs) for task in (all_of_it, part, Repeated(texts, 4), Inside(texts))}) == 4


def test_a_trial_is_read_at_every_budget_and_kept(
    texts: StudyTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkvgate.experiment.study.inside.OCTAVES", OCTAVES[:2])
    monkeypatch.setattr("rwkvgate.experiment.study.inside.BEFORE", 20)
    monkeypatch.setattr("rwkvgate.experiment.study.inside.AFTER", 10)
    trials = Trials(tmp_path, {"inside": Inside(texts), "data 1/16": Repeated(texts, 16)})
    trial = trials.run(Plan(TINY, "enhanced", 1e-3, 1, (2, 4), "inside"))
    assert trials.known(trial.plan) == trial
    sizes = {"mean": 32, "deviation": 32, "gradient": 16, "jacobian": 2, "state": 16, "stream": 16, "noise": 4}
    assert {name: len(trial.measures[4][name]) for name in sizes} == sizes
    assert set(trial.measures) == {2, 4} and len(trial.measures[2]["trained"]) == 30  # a text each
    assert all(np.isfinite(values).all() for values in trial.measures[4].values())
    other = trials.run(Plan(TINY, "enhanced", 1e-3, 1, (4,), "data 1/16"))
    assert list(other.measures[4]) == ["trained"] and trials.path(other.plan) != trials.path(trial.plan)


def test_reading_a_network_does_not_change_its_training(texts: StudyTexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvgate.experiment.study.inside.BEFORE", 20)
    monkeypatch.setattr("rwkvgate.experiment.study.inside.AFTER", 10)
    monkeypatch.setattr("rwkvgate.experiment.study.inside.OCTAVES", (LENGTH,))
    model = build("enhanced", TINY, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    Inside(texts).score(model.eval())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
