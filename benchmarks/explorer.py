"""The explorer's own numbers at the cpu model's shape, each beside its limit, from one run. `make bench`.

Times are those of the kernel, from the slider's event to the new HTML, without what the browser adds to paint it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import torch

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
from rwkvgate.explore import GateExplorer, summarize_gates

TEXT = "Once upon a time, in a distant land, there lived a baker named Mira, and her brother wanted her silver key. "
LONG = 32_768
REPEATS = 9


def cpu_model(vocabulary: int) -> Rwkv6ForCausalLM:
    """A gated model of the cpu profile's shape, untrained: times do not depend on what it has learned."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "head_size": 32, "time_mix_rank": 16, "time_decay_rank": 16}
    torch.manual_seed(0)
    return patch(Rwkv6ForCausalLM(Rwkv6Config(vocab_size=vocabulary, **sizes)).eval(), GateConfig.preset("enhanced"))


def text_of(tokens: int, tokenizer: Rwkv6Tokenizer) -> str:
    """A text of exactly so many tokens."""
    ids = tokenizer(TEXT * (tokens // 20 + 1))["input_ids"][:tokens]
    return str(tokenizer.decode(ids))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first_view(tokens: int, tokenizer: Rwkv6Tokenizer) -> GateExplorer:
    """An explorer whose first picture of a text is made."""
    explorer = GateExplorer(cpu_model(65_536), tokenizer, text_of(tokens, tokenizer))
    assert explorer.panel.wait(120) and "<span" in explorer.panel.picture.value
    return explorer


def slider(explorer: GateExplorer) -> float:
    """The median time from a layer's choice to its picture, the trace cached."""
    panel, times = explorer.panel, []
    for i in range(REPEATS):
        wanted = str(1 + (i + 1) % 4)
        times.append(seconds(lambda wanted=wanted: setattr(panel.layer, "value", wanted)))
        assert f"layer {wanted}," in panel.picture.value
    return sorted(times)[REPEATS // 2]


def memory() -> float:
    """MiB that reading a long text takes above what the process had, at the cpu profile's own vocabulary."""
    model = cpu_model(2_048)
    # Linux gives KiB, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summarize_gates(model, torch.randint(1, 2_048, (1, LONG)), losses=True)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def main() -> None:
    """Print each number and its limit."""
    print(f"summary of {LONG:,} tokens: {memory():.0f} MiB above the process's own, limit 1,024 MiB")
    tokenizer = Rwkv6Tokenizer()
    first_view(16, tokenizer)  # loads what the first use loads
    for tokens, limit in ((512, 300), (4_096, 1_000)):
        made: list[GateExplorer] = []
        first = seconds(lambda n=tokens, made=made: made.append(first_view(n, tokenizer)))
        allowed = ", limit 2 s" if tokens == 512 else ""
        print(f"first view of {tokens:,} tokens, model and widgets made: {first:.2f} s{allowed}")
        print(f"slider to new picture, {tokens:,} tokens: {1000 * slider(made[0]):.0f} ms, limit {limit} ms")
    page = GateExplorer(cpu_model(65_536), tokenizer, text_of(1_000, tokenizer)).to_html()
    print(f"page of 1,000 tokens: {len(page.encode()) / 1e6:.2f} MB, limit 3 MB")


if __name__ == "__main__":
    main()
