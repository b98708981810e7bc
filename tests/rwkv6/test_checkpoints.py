"""A network in and out of files, copied, tied, and under autocast."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from rwkvgate import Rwkv6ForCausalLM, Rwkv6State
from rwkvgate.rwkv6.configuration import OPTIONAL_SIZES, SIZES


def test_weights_load_by_name_from_a_pickled_dictionary(tiny_model: Any, tmp_path: Any) -> None:
    # The hub's checkpoint is one such file, and no safetensors.
    model = tiny_model(dtype=torch.float32)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in model.state_dict().items())


def test_tied_embeddings_stay_tied(tiny_config: Any, tokens: Any, tmp_path: Any) -> None:
    model = Rwkv6ForCausalLM(tiny_config(tie_word_embeddings=True)).eval()
    assert model.head.weight is model.rwkv.embeddings.weight
    model.save_pretrained(tmp_path)
    again = Rwkv6ForCausalLM.from_pretrained(tmp_path).eval()
    assert again.head.weight is again.rwkv.embeddings.weight
    assert torch.equal(again(tokens(1, 5)).logits, model(tokens(1, 5)).logits)


@pytest.mark.parametrize("vocabulary", [20, 37, 500])
def test_the_head_starts_orthogonal_at_every_vocabulary(tiny_config: Any, vocabulary: int) -> None:
    # transformers passes over modules without parameters of their own, and with them whatever they set up.
    model = Rwkv6ForCausalLM(tiny_config(vocab_size=vocabulary))
    values = torch.linalg.svdvals(model.head.weight.detach().double())
    wanted = 0.5 * max(1.0, (vocabulary / model.config.hidden_size) ** 0.5)
    assert torch.allclose(values, torch.full_like(values, wanted), rtol=1e-5)


def test_a_patched_model_can_be_copied(tiny_model: Any, tokens: Any) -> None:
    model = tiny_model("enhanced")
    assert torch.equal(copy.deepcopy(model)(tokens(1, 5)).logits, model(tokens(1, 5)).logits)


@pytest.mark.parametrize("arm", [None, "enhanced", "no-layer-norm", "fixed-gate"])
def test_autocast_runs_forward_and_backward(tiny_model: Any, tokens: Any, arm: str | None) -> None:
    model, ids = tiny_model(arm, torch.float32), tokens(2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(ids, labels=ids, use_cache=True)
    out.loss.backward()
    assert all(layer.wkv.dtype == torch.float32 for layer in out.past_key_values.layers)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("key", [*SIZES, *OPTIONAL_SIZES])
@pytest.mark.parametrize("size", [0, -8])
def test_sizes_below_one_are_refused(tiny_config: Any, key: str, size: int) -> None:
    with pytest.raises(Exception, match=rf"{key} is {size}; it must be at least 1"):
        tiny_config(**{key: size})


def test_a_state_without_layers_is_refused(tiny_model: Any, tokens: Any) -> None:
    with pytest.raises(ValueError, match="0 layers of 0 sequences; the call needs 3 layers of 2"):
        tiny_model()(tokens(2, 3), past_key_values=Rwkv6State([]))
