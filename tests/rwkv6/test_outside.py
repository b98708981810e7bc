"""What other libraries do to a network: offloaded weights, hooks, adapters on norms, replicas, transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from peft import LNTuningConfig, get_peft_model

ARMS = [None, "enhanced", "attention-gate"]


@pytest.mark.parametrize("arm", ARMS)
def test_offloaded_weights_give_the_same_numbers(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    ids = tokens(2, 9)
    with torch.no_grad():
        wanted = tiny_model(arm)(ids, labels=ids)
        model = cpu_offload(tiny_model(arm), execution_device=torch.device("cpu"))
        found = model(ids, labels=ids)
    assert torch.equal(found.logits, wanted.logits) and torch.equal(found.loss, wanted.loss)
    made = model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert torch.equal(made, tiny_model(arm).generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None))


def test_the_loss_in_training_of_an_offloaded_head(tiny_model: Any, tokens: Any, tmp_path: Any) -> None:
    ids = tokens(2, 9)
    wanted = tiny_model(dtype=torch.float32).train()(ids, labels=ids).loss
    places = {"rwkv": "cpu", "head": "disk"}
    model = dispatch_model(
        tiny_model(dtype=torch.float32), places, main_device="cpu", offload_dir=tmp_path, force_hooks=True
    )
    for _ in range(3):
        torch.testing.assert_close(model.train()(ids, labels=ids).loss, wanted)


def test_norms_of_the_heads_can_be_tuned(tiny_model: Any, tokens: Any) -> None:
    ids = tokens(2, 9)
    model = get_peft_model(tiny_model(), LNTuningConfig(target_modules=["ln1", "ln2", "ln_x"]))
    torch.testing.assert_close(model(ids).logits, tiny_model()(ids).logits)
    model(ids, labels=ids).loss.backward()
    assert {name.split(".")[-5] for name, p in model.named_parameters() if p.grad is not None} >= {"attention"}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("learns", [False, True])
def test_hooks_keep_what_they_saw(tiny_model: Any, tokens: Any, arm: str | None, learns: bool) -> None:
    def watch(model: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda module, args, out: seen.update(
                {
                    name: (
                        x := out[0] if isinstance(out, tuple) else out,
                        x.clone() if isinstance(x, torch.Tensor) else x,
                    )
                }
            )

        for name, module in model.named_modules():
            module.register_forward_hook(keep(name))
        return seen

    model = tiny_model(arm)
    seen = watch(model)
    with torch.set_grad_enabled(learns):
        model(tokens(2, 9))
    for kept, then in (pair for pair in seen.values() if isinstance(pair[1], torch.Tensor)):
        assert torch.equal(kept, then)
    assert sum(name.endswith(".ln_x") for name in seen) == len(model.rwkv.blocks)


@pytest.mark.parametrize("arm", ARMS)
def test_a_transform_that_follows_operations(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm), tokens(3, 9)
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
        embedded = model.rwkv.embeddings(ids)
        alone = torch.func.vmap(lambda x: model(inputs_embeds=x[None], use_cache=False).logits[0])(embedded)
        torch.testing.assert_close(alone, wanted)


def test_replicas_return_no_state(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model()
    model.rwkv._is_replica = True  # as DataParallel marks them; it could not gather their states
    assert model(tokens(2, 9)).past_key_values is None


@pytest.mark.parametrize("arm", ARMS)
def test_checkpointing_that_would_lose_the_states_gradient(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm).train(), tokens(2, 9)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=True passes no gradient"):
        model(ids, use_cache=True)
    with torch.no_grad():
        before = model(ids, use_cache=True).past_key_values
    model(ids, past_key_values=before, labels=ids).loss.backward()
    state = tiny_model(arm).train()(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="use_reentrant=True passes no gradient"):
        model(ids, past_key_values=state, labels=ids)


def test_labels_of_either_integer_type(tiny_model: Any, tokens: Any) -> None:
    model, ids = tiny_model(), tokens(2, 9)
    for mode in (model.eval, model.train):
        mode()
        assert torch.equal(model(ids, labels=ids.int()).loss, model(ids, labels=ids).loss)
