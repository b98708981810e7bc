"""The explorer's own numbers at the cpu model's shape, each beside its limit, from one run. `make bench`.

Times are those of the kernel, from a message to its answer, without what the browser adds to paint it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pydoc_data.topics import topics

import torch
from transformers import PreTrainedTokenizerFast

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer
from rwkvgate.explore import GateExplorer, summarize_gates
from rwkvgate.explore.kernel import KernelEngine

VOCABULARY = 2_048
LONG = 32_768
REPEATS = 9


def cpu_model() -> Rwkv6ForCausalLM:
    """A gated model of the cpu profile's shape, untrained: times do not depend on what it has learned."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "head_size": 32, "time_mix_rank": 16, "time_decay_rank": 16}
    torch.manual_seed(0)
    return patch(Rwkv6ForCausalLM(Rwkv6Config(vocab_size=VOCABULARY, **sizes)).eval(), GateConfig.preset("enhanced"))


def text_of(tokens: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """A text of about so many tokens, of this Python's own documentation."""
    ids = tokenizer("\n".join(topics.values()), add_special_tokens=False)["input_ids"][:tokens]
    return str(tokenizer.decode(ids))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reading(engine: KernelEngine, text: str) -> None:
    """A whole reading by the kernel engine, as a message."""
    reply, _ = engine.handle({"id": 1, "method": "read", "arm": "model", "text": text})
    while not reply["done"]:
        reply, _ = engine.handle({"id": 1, "method": "more"})
    assert "error" not in reply, reply["error"]


def memory(model: Rwkv6ForCausalLM) -> float:
    """MiB that reading a long text takes above what the process had."""
    # Linux gives KiB, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summarize_gates(model, torch.randint(1, VOCABULARY, (1, LONG)), losses=True)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def main() -> None:
    """Print each number and its limit."""
    model = cpu_model()
    print(f"summary of {LONG:,} tokens: {memory(model):.0f} MiB above the process's own, limit 1,024 MiB")
    tokenizer = train_tokenizer(list(topics.values()), VOCABULARY)
    engine = KernelEngine({"model": model}, tokenizer)
    reading(engine, text_of(16, tokenizer))  # loads what the first use loads
    for tokens, limit in ((512, 300), (4_096, 1_000)):
        text = text_of(tokens, tokenizer)
        times = sorted(seconds(lambda text=text: reading(engine, text)) for _ in range(REPEATS))
        print(f"reading of {tokens:,} tokens as a message: {1000 * times[REPEATS // 2]:.0f} ms, limit {limit} ms")
    page = GateExplorer(model, tokenizer, text_of(1_000, tokenizer)).to_html()
    print(f"page of 1,000 tokens: {len(page.encode()) / 1e6:.2f} MB, limit 10 MB")


if __name__ == "__main__":
    main()
