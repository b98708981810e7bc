"""Predicted memory of fine-tuning on each of 1 to 8 GPUs at the larger Finch shapes, as in docs/several-gpus.md.

    python benchmarks/memory.py

Nothing is trained: parameters, and the tensors that a block saves for its backward pass, are counted on two blocks.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

import torch
from transformers.initialization import no_init_weights

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
from rwkvgate.experiment.training.memory import GIB, Counted, TrainingMemory, count
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import blocks_of, select_trainable

SHAPES = {"v6-Finch-3B": (2560, 32), "v6-Finch-7B": (4096, 32), "v6-Finch-14B": (4096, 61)}
"""Hidden size and number of blocks."""
SMALL, VOCABULARY = 64, 65536
ROWS, LENGTH, GPUS = 8, 1024, (1, 2, 4, 8)
WAYS: dict[str, tuple[torch.dtype, Literal["all", "gate-and-norms"]]] = {
    "frozen base in bfloat16, gates and norms trained": (torch.bfloat16, "gate-and-norms"),
    "everything trained, in float32": (torch.float32, "all"),
}


def of_shape(width: int, layers: int, dtype: torch.dtype, scope: Literal["all", "gate-and-norms"]) -> Counted:
    """The sizes of a network of the shape, with the paper's gate and gradient checkpointing.

    Counted on two blocks and a small vocabulary: every block after the first is like the second.
    """
    with no_init_weights():
        config = Rwkv6Config(hidden_size=width, num_hidden_layers=2, vocab_size=SMALL)
        model = patch(Rwkv6ForCausalLM(config).to(dtype), GateConfig.preset("enhanced"))
    select_trainable(model, scope)
    model.activation_checkpointing_enable()
    two = count(model.train())
    tables = 2 * (VOCABULARY - SMALL) * width * model.head.weight.element_size()
    first = [both - second for both, second in zip(two.blocks, _second(model), strict=True)]
    blocks = [a + (layers - 1) * b for a, b in zip(first, _second(model), strict=True)]
    return replace(
        two,
        blocks=(blocks[0], blocks[1]),
        outside=(two.outside[0] + tables * (not two.head_trained), two.outside[1] + tables * two.head_trained),
        layers=layers,
        vocabulary=VOCABULARY,
    )


def _second(model: Rwkv6ForCausalLM) -> tuple[int, int]:
    sizes = [0, 0]
    for parameter in blocks_of(model)[1].parameters():
        sizes[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    return sizes[0], sizes[1]


def predicted(counted: Counted, gpus: int, sharded: bool) -> TrainingMemory:
    """Memory of one GPU where `gpus` of them share the batch, and the model too where it is sharded."""
    return counted.memory(ROWS // gpus, LENGTH, gpus, sharded)


def table(counted: dict[str, Counted]) -> list[str]:
    """Lines of a table in Markdown: every shape, replicated on each GPU and sharded."""
    lines = [
        "| base | model | " + " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in GPUS) + " |",
        "|---|---|" + "---|" * len(GPUS),
    ]
    for name, sizes in counted.items():
        replicated = [f"{predicted(sizes, n, False).total / GIB:.1f}" for n in GPUS]
        sharded = ["" if n == 1 else f"{predicted(sizes, n, True).total / GIB:.1f}" for n in GPUS]
        lines += [
            f"| {name} | replicated | {' | '.join(replicated)} |",
            f"| {name} | sharded | {' | '.join(sharded)} |",
        ]
    return lines


def main() -> None:
    """Print the tables of the page."""
    # A GPU's form of the operator: the compiled loops are a CPU's, and save less for the backward.
    os.environ["RWKVGATE_WKV"] = "chunked"
    for name, (width, layers) in SHAPES.items():
        gates = layers * sum(p.numel() for p in GatedShift(GateConfig.preset("enhanced"), width).parameters())
        sizes = of_shape(width, layers, torch.float32, "all")
        every = (sum(sizes.blocks) + sum(sizes.outside)) // torch.float32.itemsize
        print(f"{name}: {(every - gates) / 1e9:.2f} B parameters, and {gates / 1e9:.2f} B in gates")
    print(f"GiB on each GPU; a batch of {ROWS} rows of {LENGTH:,} tokens; gradient checkpointing; the paper's gate.")
    for title, (dtype, scope) in WAYS.items():
        counted = {name: of_shape(width, layers, dtype, scope) for name, (width, layers) in SHAPES.items()}
        print(f"\n{title}:\n\n" + "\n".join(table(counted)) + "\n")
        for name, sizes in counted.items():
            for gpus in GPUS:
                for sharded in (False, True)[: 1 + (gpus > 1)]:
                    how = "sharded over" if sharded else "replicated on"
                    print(f"{name}, {how} {gpus}: {predicted(sizes, gpus, sharded)}")


if __name__ == "__main__":
    main()
