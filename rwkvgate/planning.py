"""`python -m rwkvgate.planning`: how long a profile takes on a GPU, by arithmetic, part by part, before it is run.

Counted are matrix products, the bytes of weights that each decoded token reads, and the operations that have to be
launched. What a device does of its data sheet's numbers is assumed (`Device`), so the sum is an estimate; the notebooks
print the time left as they go, and training what it took beside what was predicted.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from rwkvgate.evaluation.cost import base_flops, wkv_flops
from rwkvgate.gate.arms import ARMS, Arm
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.cost import gate_cost
from rwkvgate.inputs import arms_and_seeds, gate_of
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.hub import PAPER_MODEL
from rwkvgate.settings import CheckpointSettings, Settings, SettingsError, resolve

SHAPES = {PAPER_MODEL: {"hidden_size": 2048, "num_hidden_layers": 24}}
"""Sizes of checkpoints on the hub, where they are not `Rwkv6Config`'s defaults."""
LAUNCHES = 56
"""Operations launched for one layer and token, the gate's among them: counted by a test."""
LONG_TEXTS, LONGER, KINDS = 38, 8, 6
"""Of the probes: long texts, in training lengths how long, and kinds of things to remember, each as two texts."""

HELD_OUT, GRID = 64, 13_000
"""Rows of a held-out loss, and tokens of all batches and lengths timed once (`pipeline`, `studies`), rounded up."""


@dataclass(frozen=True)
class Device:
    """What a device is taken to reach: FLOPs a second in half and single precision, bytes and launches a second."""

    name: str
    half: float
    single: float
    bytes: float
    launches: float
    loading: float
    """Bytes a second of weights read from the file cache and moved to the device."""


T4 = Device("Tesla T4", half=20e12, single=4e12, bytes=220e9, launches=80e3, loading=0.4e9)
"""Of 65 TFLOP/s in half precision, 8.1 in single precision and 320 GB/s in NVIDIA's data sheet."""


@dataclass(frozen=True)
class Work:
    """What a part of a run asks of the device.

    `read` and `trained` are tokens through a forward pass and through a training step; `steps` are decoding steps,
    each of which reads all weights; `loads` are models brought to the device.
    """

    part: str
    read: float = 0.0
    trained: float = 0.0
    steps: float = 0.0
    loads: float = 0.0


def shape_of(settings: Settings) -> Rwkv6Config:
    """The base's sizes.

    Raises:
        SettingsError: they stand in a file that has to be fetched first.
    """
    model = settings.model
    if not isinstance(model, CheckpointSettings):
        return Rwkv6Config(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            num_hidden_layers=model.num_hidden_layers,
            head_size=model.head_size,
        )
    if model.checkpoint not in SHAPES:
        raise SettingsError(f"the sizes of {model.checkpoint!r} are not known here; known: {', '.join(SHAPES)}")
    return Rwkv6Config(**SHAPES[model.checkpoint])


def works(settings: Settings) -> list[Work]:
    """The parts of a whole run. Every text is taken to be as long as the longest training row."""
    evaluation, training = settings.evaluation, settings.training
    pairs = arms_and_seeds(settings)
    models, tuned = len(pairs), sum(ARMS[arm].trained for arm, _ in pairs)
    length, documents = training.length, evaluation.documents
    rates = max(1, len(training.learning_rates))
    rows = training.steps * training.batch_size
    batches = math.ceil(documents / evaluation.batch_size)
    timed = evaluation.forward_repeats + 2, evaluation.generation_repeats + 1
    parts = [
        Work("loading weights", loads=tuned + 2 * models),
        Work("training", trained=tuned * rates * rows * length),
        Work("held-out loss", read=tuned * rates * (training.steps / training.eval_every + 1) * HELD_OUT * length),
        Work("perplexity", read=models * documents * length),
        Work("generation", read=models * documents * length / 2, steps=models * batches * evaluation.new_tokens),
        Work(
            "latency",
            read=models * 2 * sum(timed) * evaluation.latency_tokens,
            steps=models * 2 * timed[1] * evaluation.timed_tokens,
        ),
    ]
    if evaluation.studies:
        # Probes go from a quarter of the length to eight times, doubling; each text of a pair is read once.
        doubled = sum(length / 4 * 2**i for i in range(6))
        probed = LONG_TEXTS * LONGER * length + evaluation.probes * KINDS * 2 * doubled
        around = (2 * documents / 5 + 4 * documents / 2) * length
        told = math.ceil(5 * documents / 5 / evaluation.batch_size) * evaluation.new_tokens
        seeds = evaluation.seeds
        parts += [
            Work("long texts, domains, probes", read=models * (probed + around)),
            Work(
                "the gate and language",
                read=(seeds + 1) * documents * length * 3 + tuned * documents / 5 * length,
                steps=2 * told,
                loads=3 * (seeds + 1) + tuned,
            ),
            Work("cost against length", read=2 * 3 * 2 * 1.4 * evaluation.longest + 2 * 5 * GRID, loads=4),
        ]
    return parts


def plan(settings: Settings, device: Device = T4) -> pd.DataFrame:
    """Minutes of each part of a whole run, with what it reads, trains, decodes and loads; the last row is their sum.

    Raises:
        SettingsError: the base's sizes are not known, or the settings are impossible.
    """
    shape = shape_of(settings)
    base, single = base_flops(shape, 1), 2.0 * wkv_flops(shape, 1)  # in chunks the WKV takes about twice its definition
    gate = _largest_gate(settings, shape)
    precise: Literal["half", "single"] = _precision(settings)
    fast = getattr(device, precise)
    frozen = settings.training.scope != "all"
    again = settings.training.gradient_checkpointing
    # Forward, backward to the activations, to the weights where these are trained, and forward again.
    passes = 2 + (not frozen) + again
    reading = base / fast + (single + gate) / device.single
    trained = passes * base / fast + (3 + again) * (single + gate) / device.single
    weights = _parameters(shape) * (2 if precise == "half" else 4)
    step = weights / device.bytes + shape.num_hidden_layers * LAUNCHES / device.launches
    rows = [
        {
            "part": work.part,
            "tokens read": work.read,
            "tokens trained": work.trained,
            "decoding steps": work.steps,
            "models loaded": work.loads,
            "minutes": (
                work.read * reading + work.trained * trained + work.steps * step + work.loads * weights / device.loading
            )
            / 60,
        }
        for work in works(settings)
    ]
    frame = pd.DataFrame(rows)
    return pd.concat([frame, pd.DataFrame([frame.drop(columns="part").sum().to_dict() | {"part": "all"}])])


def _largest_gate(settings: Settings, shape: Rwkv6Config) -> float:
    """FLOPs a token of the costliest gate among the arms: all are counted as if they had it."""
    heads = shape.num_attention_heads or 1

    def flops(arm: Arm) -> float:
        gate: GateConfig | None = gate_of(arm, settings)
        return 0.0 if gate is None else gate_cost(gate, shape.hidden_size, heads, 1).flops * shape.num_hidden_layers

    return max(flops(ARMS[arm]) for arm, _ in arms_and_seeds(settings))


def _precision(settings: Settings) -> Literal["half", "single"]:
    model = settings.model
    return "half" if isinstance(model, CheckpointSettings) and model.dtype != "float32" else "single"


def _parameters(shape: Rwkv6Config) -> int:
    """Numbers in the weight matrices, embedding and head included; norms and mixing vectors are a few thousandths."""
    return base_flops(shape, 1) // 2 + shape.vocab_size * shape.hidden_size


def show(frame: pd.DataFrame) -> str:
    """The plan as a Markdown table."""
    lines = [f"| {' | '.join(frame.columns)} |", "| --- " * len(frame.columns) + "|"]
    for row in frame.to_dict("records"):
        cells = [str(row["part"])]
        cells += [f"{row[c]:,.0f}" if row[c] else "–" for c in frame.columns[1:-1]]
        minutes = row["minutes"]
        cells.append(f"{minutes:.1f}" if minutes >= 0.05 else "< 0.1")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the plan of a profile."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.planning", description=__doc__)
    parser.add_argument("--profile", default="t4", choices=("smoke", "cpu", "t4", "gpu"))
    for name, unit in (("half", "TFLOP/s"), ("single", "TFLOP/s"), ("bytes", "GB/s")):
        parser.add_argument(f"--{name}", type=float, help=f"{unit} that the device reaches")
    given = parser.parse_args()
    scale = {"half": 1e12, "single": 1e12, "bytes": 1e9}
    changed = {name: getattr(given, name) * unit for name, unit in scale.items() if getattr(given, name)}
    device = Device(**(vars(T4) | changed))
    try:
        frame = plan(resolve(profile=given.profile), device)
    except SettingsError as error:
        sys.exit(str(error))
    print(
        f"Profile {given.profile} on a {device.name}, taken to reach {device.half / 1e12:g} and "
        f"{device.single / 1e12:g} TFLOP/s in half and single precision and {device.bytes / 1e9:g} GB/s:\n"
    )
    print(show(frame))


if __name__ == "__main__":
    main()
