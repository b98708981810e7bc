"""The networks of other families: as many parameters as the base, causal, and trainable by the study."""

from __future__ import annotations

import pytest
import torch

from rwkvgate.experiment.study.design import SIZES, Size, build, cost
from rwkvgate.experiment.study.families import FAMILIES
from rwkvgate.metrics.likelihood import token_losses


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_has_the_bases_parameters(name: str, size: Size) -> None:
    parameters, flops = cost(name, size)
    assert parameters == pytest.approx(cost("base", size)[0], rel=5e-3)
    assert flops == pytest.approx(cost("base", size)[1], rel=0.3)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_later_token_changes_no_earlier_prediction(name: str) -> None:
    model = build(name, SIZES["64x2"], 0).eval()
    ids = torch.randint(1, 2048, (2, 40), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 30] = 5
    with torch.no_grad():
        before, after = (model(x).logits for x in (ids, changed))
    torch.testing.assert_close(before[:, :30], after[:, :30])
    assert not torch.allclose(before[:, 30:], after[:, 30:])


@pytest.mark.parametrize("name", FAMILIES)
def test_its_loss_is_that_of_its_predictions(name: str) -> None:
    model = build(name, SIZES["64x2"], 0).eval()
    ids = torch.randint(1, 2048, (1, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    scored = token_losses(
        model, [ids[0, 1:].tolist()], batch_size=1, window=64, prefix_id=int(ids[0, 0]), carried=False
    )
    assert float(loss) == pytest.approx(scored[0].mean(), abs=1e-5)
