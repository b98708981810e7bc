"""Our network beside other people's, with the same weights, in turn. `make bench-peers`.

    python benchmarks/peers.py [--threads N] [--json FILE]

- Four layers of the 1.6 B model's shape in float32: BlinkDL's `rwkv` and llama.cpp, which reads and decodes in C++.
- The WKV operator: the naive recurrence and the naive chunks of flash-linear-attention, which need no GPU.
- A training step of the 1.5 M and of a 30 M model: transformers' Llama and GPT-2 with as many parameters.

What a peer computes is compared with ours before it is timed. Each figure is the peer's median time over ours, with a
95 % bootstrap interval over repeats: above 1, ours is faster. A peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from decode import SIZES, random_model
from torch import Tensor

from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
from rwkvgate.experiment.settings import resolve
from rwkvgate.metrics.latency import ratio_of_medians, time_calls
from rwkvgate.rwkv6.prefill import prefill
from rwkvgate.rwkv6.wkv import wkv6

PREFILLS = 100, 512, 2048
BATCHES = 1, 8
CLOSE = 1e-3
"""Logits and outputs of two implementations may differ by this much, relative to the largest."""
BLINK = {"rwkv.": "", "embeddings": "emb", "attention": "att", "feed_forward": "ffn", "pre_ln": "ln0"}
TRANSPOSED = "time_mix_w1.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight"
MIDDLE = {"vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 6, "head_size": 64}

Reader = Callable[[Tensor], Any]
"""Reads a prompt (time,) from an empty state, and returns the logits after it, (vocabulary,)."""


def installed(name: str) -> bool:
    """Whether a package can be imported; says so where it cannot."""
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed, and left out; make bench-peers brings it")
        return False
    return True


class Blink:
    """BlinkDL's package. It has no batches for RWKV-6: a step of several texts is a step of each."""

    def __init__(self, model: Rwkv6ForCausalLM, folder: Path) -> None:
        weights = {}
        for name, tensor in model.state_dict().items():
            for long, brief in BLINK.items():
                name = name.replace(long, brief)
            weights[name] = tensor
        torch.save(weights, folder / "model.pth")
        os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
        with contextlib.redirect_stdout(sys.stderr):
            self.model = importlib.import_module("rwkv.model").RWKV(str(folder / "model"), "cpu fp32", verbose=False)
        (folder / "model.pth").unlink()

    def read(self, ids: Tensor) -> Tensor:
        """The logits after a prompt."""
        logits: Tensor = self.model.forward(ids.tolist(), None)[0]
        return logits

    def stepper(self, batch: int) -> Callable[[], None]:
        """A call that reads one more token of each of so many texts."""
        states = [self.model.forward([1], None)[1] for _ in range(batch)]

        def step() -> None:
            for row, state in enumerate(states):
                states[row] = self.model.forward([1], state)[1]

        return step


class LlamaCpp:
    """llama.cpp by its Python binding's C functions."""

    def __init__(self, model: Rwkv6ForCausalLM, folder: Path, threads: int) -> None:
        self.lib = importlib.import_module("llama_cpp")
        path = folder / "model.gguf"
        write_gguf(model, path)
        silent = self.lib.llama_log_callback(lambda *_: None)
        self.silent = silent  # C keeps a pointer to it
        self.lib.llama_log_set(silent, ctypes.c_void_p(0))
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), self.lib.llama_model_default_params())
        options = self.lib.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 8192, 2048, 512
        options.n_seq_max, options.n_threads, options.n_threads_batch = max(BATCHES), threads, threads
        self.context = self.lib.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError("llama.cpp does not take the model")
        self.vocabulary = model.config.vocab_size

    def decode(self, rows: list[list[int]], first: int) -> None:
        """Read so many tokens of each text, from a position on."""
        batch = self.lib.llama_batch_init(sum(map(len, rows)), 0, 1)
        index = 0
        for row, tokens in enumerate(rows):
            for place, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, first + place
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
                batch.logits[index] = place == len(tokens) - 1
                index += 1
        batch.n_tokens = index
        status = self.lib.llama_decode(self.context, batch)
        self.lib.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama.cpp ends with status {status}")

    def forget(self) -> None:
        """Empty the state."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def read(self, ids: Tensor) -> Tensor:
        """The logits after a prompt."""
        self.forget()
        self.decode([ids.tolist()], 0)
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (self.vocabulary,)).copy())

    def stepper(self, batch: int) -> Callable[[], None]:
        """A call that reads one more token of each of so many texts."""
        self.forget()
        self.decode([[1]] * batch, 0)
        position = 0

        def step() -> None:
            nonlocal position
            position += 1
            self.decode([[1]] * batch, position)

        return step


def write_gguf(model: Rwkv6ForCausalLM, path: Path) -> None:
    """Write the model as llama.cpp reads it: its names and orders of axes, and a vocabulary of placeholders."""
    gguf = importlib.import_module("gguf")
    config, weights = model.config, dict(model.state_dict())
    layers = range(config.num_hidden_layers)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.RWKV6, len(layers))
    writer = gguf.GGUFWriter(path, "rwkv6")
    writer.add_context_length(1048576)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(layers))
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_rescale_every_n_layers(0)
    writer.add_wkv_head_size(config.head_size)
    writer.add_time_mix_extra_dim(weights["rwkv.blocks.0.attention.time_maa_w2"].shape[1])
    writer.add_time_decay_extra_dim(weights["rwkv.blocks.0.attention.time_decay_w2"].shape[0])
    writer.add_feed_forward_length(len(weights["rwkv.blocks.0.feed_forward.key.weight"]))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_head_count(0)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([f"[{i}]".encode() for i in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    for layer in layers:
        mixes = [weights.pop(f"rwkv.blocks.{layer}.attention.time_maa_{mix}") for mix in "wkvrg"]
        fused = torch.stack([mix.reshape(1, 1, -1) for mix in mixes])
        writer.add_tensor(f"blk.{layer}.time_mix_lerp_fused.weight", fused.numpy())
    for name, tensor in weights.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if not theirs.endswith((".weight", ".bias")):
            theirs += ".weight"
        if theirs.endswith(TRANSPOSED):
            tensor = tensor.t()
        elif theirs.endswith("time_mix_w2.weight"):
            tensor = tensor.transpose(1, 2)
        elif theirs.endswith("time_mix_decay.weight") or "lerp" in theirs:
            tensor = tensor.squeeze()
        writer.add_tensor(theirs, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def told(row: str, calls: dict[str, Callable[[], Any]], repeats: int) -> Iterator[dict[str, Any]]:
    """Time a figure's calls in turn, ours first; print it, and give what was found of each peer."""
    seconds = time_calls(calls, repeats, warmup=1)
    own = seconds.pop("ours")
    parts = []
    for name, times in seconds.items():
        ratio = ratio_of_medians(times, own)
        parts.append(f"{name} {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
        yield {"figure": row, "peer": name, "ours_seconds": float(np.median(own))} | ratio._asdict()
    print(f"{row:44} ours {1000 * float(np.median(own)):9.1f} ms; {'; '.join(parts)}", flush=True)


def agree(name: str, found: Tensor, ours: Tensor) -> None:
    """Stop where a peer computes something else."""
    apart = float((found - ours).abs().max() / ours.abs().max())
    if not apart < CLOSE:
        sys.exit(f"{name} computes something else: {apart:.2g} of the largest value apart")
    print(f"{name} and ours: at most {apart:.1g} of the largest value apart")


def network(threads: int) -> Iterator[dict[str, Any]]:
    """Prefill and decoding at the 1.6 B model's layer shape."""
    model = random_model()
    peers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as scratch:
        if installed("rwkv"):
            peers["rwkv"] = Blink(model, Path(scratch))
        if installed("llama_cpp") and installed("gguf"):
            peers["llama.cpp"] = LlamaCpp(model, Path(scratch), threads)
        generator = torch.Generator().manual_seed(0)
        for length in PREFILLS:
            ids = torch.randint(1, SIZES["vocab_size"], (length,), generator=generator)
            if length == PREFILLS[0]:
                logits = prefill(model, ids[None])[0][0]
                for name, peer in peers.items():
                    agree(name, peer.read(ids), logits)
            calls = {"ours": partial(prefill, model, ids[None])} | {n: partial(p.read, ids) for n, p in peers.items()}
            yield from told(f"prefill of {length:,} tokens", calls, 5 if length > 1000 else 9)
        for batch in BATCHES:
            steps = {"ours": our_stepper(model, batch)} | {n: peer.stepper(batch) for n, peer in peers.items()}
            yield from told(f"decoding, batch {batch}, a step", steps, 30)


def our_stepper(model: Rwkv6ForCausalLM, batch: int) -> Callable[[], None]:
    """A call that reads one more token of each of so many texts."""
    token = torch.ones(batch, 1, dtype=torch.long)
    state = model(token, use_cache=True).past_key_values

    def step() -> None:
        nonlocal state
        state = model(token, past_key_values=state, use_cache=True, logits_to_keep=1).past_key_values

    return step


def naive(file: str) -> ModuleType:
    """One of flash-linear-attention's plain files, without its package, which asks for triton."""
    folder = Path(next(iter(importlib.util.find_spec("fla").submodule_search_locations)))  # type: ignore[union-attr,arg-type]
    spec = importlib.util.spec_from_file_location(file, folder / "ops" / "rwkv6" / f"{file}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def operator() -> Iterator[dict[str, Any]]:
    """WKV at B 1, H 32, N 64, T 512: forward, then forward and backward."""
    if not (installed("fla") and installed("einops")):
        return
    torch.manual_seed(0)
    r, k, v, decay = (torch.randn(1, 512, 32, 64) for _ in range(4))
    inputs = [r, k, v, -decay.exp()]
    theirs = [x.transpose(1, 2).contiguous() for x in inputs]
    u = torch.randn(32, 64)
    recurrent, chunked = naive("recurrent_naive").naive_recurrent_rwkv6, naive("chunk_naive").naive_chunk_rwkv6

    def first(result: Any) -> Tensor:
        output: Tensor = result[0] if isinstance(result, tuple) else result
        return output

    forms: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {
        "ours": (wkv6, inputs),
        "naive recurrence": (partial(recurrent, scale=1.0), theirs),
        "naive chunks": (chunked, theirs),
    }
    ours = first(wkv6(*inputs, u))
    for name, (form, tensors) in list(forms.items())[1:]:
        agree(f"flash-linear-attention's {name}", first(form(*tensors, u)).transpose(1, 2), ours)
    with torch.inference_mode():
        calls = {name: partial(form, *tensors, u) for name, (form, tensors) in forms.items()}
        yield from told("WKV forward, B 1, H 32, N 64, T 512", calls, 9)

    def both(form: Callable[..., Any], tensors: list[Tensor]) -> None:
        first(form(*(x.detach().requires_grad_() for x in tensors), u)).sum().backward()

    del forms["naive chunks"]  # they write over what their gradient needs
    calls = {name: partial(both, *form) for name, form in forms.items()}
    yield from told("WKV forward and backward", calls, 5)


def training() -> Iterator[dict[str, Any]]:
    """A training step's forward and backward beside attention networks with as many parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    small = resolve("cpu").model.model_dump(exclude={"pretraining"})
    for sizes, batch, length in ((small, 16, 128), (MIDDLE, 4, 256)):
        torch.manual_seed(0)
        ours = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
        vocabulary, width, layers = sizes["vocab_size"], sizes["hidden_size"], sizes["num_hidden_layers"]
        shape = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}
        heads = max(1, width // 64)

        def llama(inner: int, shape: Any = shape, width: int = width, layers: int = layers, heads: int = heads) -> Any:
            many = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
            return LlamaForCausalLM(LlamaConfig(**shape, **many, intermediate_size=inner))

        def gpt2(inner: int, shape: Any = shape, width: int = width, layers: int = layers, heads: int = heads) -> Any:
            return GPT2LMHeadModel(GPT2Config(**shape, n_embd=width, n_layer=layers, n_head=heads, n_inner=inner))

        wanted = ours.num_parameters()
        models = {"ours": ours, "Llama": as_large(llama, wanted), "GPT-2": as_large(gpt2, wanted)}
        ids = torch.randint(1, vocabulary, (batch, length))

        def step(model: Any, ids: Tensor = ids) -> None:
            model(input_ids=ids, labels=ids).loss.backward()
            model.zero_grad()

        counts = ", ".join(f"{name} {model.num_parameters():,}" for name, model in models.items())
        print(f"parameters: {counts}")
        calls = {name: partial(step, model.train()) for name, model in models.items()}
        yield from told(f"training step, {wanted / 1e6:.1f} M, {batch} x {length} tokens", calls, 15)


def as_large(build: Callable[[int], Any], wanted: int) -> Any:
    """The network whose inner width brings its parameters nearest to a number."""
    few, more = build(64).num_parameters(), build(128).num_parameters()
    return build(max(8, round(64 + 64 * (wanted - few) / (more - few))))


def main() -> None:
    """Print all figures, and write them as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{platform.processor() or platform.machine()}, {asked.threads} threads, torch {torch.__version__}")
    with torch.inference_mode():
        rows = list(network(asked.threads))
    rows += [*operator(), *training()]
    slower = [f"{row['figure']} ({row['peer']} {row['estimate']:.2f})" for row in rows if row["high"] < 1]
    print(f"ours is slower in: {'; '.join(slower) or 'none'}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
