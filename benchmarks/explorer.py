"""The explorer's own numbers at the cpu model's shape, each beside its limit, from one run. `make bench`.

Times are those of the kernel, from the slider's event to the new HTML, without what the browser adds to paint it.
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


def first_view(model: Rwkv6ForCausalLM, tokens: int, tokenizer: PreTrainedTokenizerFast) -> GateExplorer:
    """An explorer whose first picture of a text is made."""
    explorer = GateExplorer(model, tokenizer, text_of(tokens, tokenizer))
    assert explorer.panel.wait(120) and "<span" in explorer.panel.picture.value
    return explorer


def slider(explorer: GateExplorer) -> float:
    """The median time from a layer's choice to its picture, the trace cached."""
    panel, times = explorer.panel, []
    for i in range(REPEATS):
        expected = str(1 + (i + 1) % 4)
        times.append(seconds(lambda expected=expected: setattr(panel.layer, "value", expected)))
        assert f"layer {expected}," in panel.picture.value
    return sorted(times)[REPEATS // 2]


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
    first_view(model, 16, tokenizer)  # loads what the first use loads
    for tokens, limit in ((512, 300), (4_096, 1_000)):
        made: list[GateExplorer] = []
        first = seconds(lambda n=tokens, made=made: made.append(first_view(model, n, tokenizer)))
        allowed = ", limit 2 s" if tokens == 512 else ""
        print(f"first view of {tokens:,} tokens, widgets made: {first:.2f} s{allowed}")
        print(f"slider to new picture, {tokens:,} tokens: {1000 * slider(made[0]):.0f} ms, limit {limit} ms")
    page = GateExplorer(model, tokenizer, text_of(1_000, tokenizer)).to_html()
    print(f"page of 1,000 tokens: {len(page.encode()) / 1e6:.2f} MB, limit 3 MB")


if __name__ == "__main__":
    main()
