"""`python -m rwkvgate.experiment.plan`: how long a run takes, step by step, before anything is computed or downloaded.

How it is counted. A model of one layer and one of two, at the real width and vocabulary and in the run's types, run
without storage (torch's meta device): in a training step (forward, gradient checkpointing's second forward, backward,
AdamW), over a batch that is read and scored, and over one decoded token. Every operation that is not a view is counted:
its FLOPs, and the bytes of the tensors that it reads and writes, in the type that it has there, float16 or float32. So
LayerNorm, the token shifts and their mixes, the WKV operator chunk by chunk, the gate, softmax and loss are in it. An
operation takes the longest of its FLOPs, its bytes and one launch. A T4 is taken to reach the shares in
`roofline.SHARES` of its published 65 TFLOP/s in half precision, 8.1 in single precision and 320 GB/s. The difference of
the two models is a layer. How often each call is made follows from the settings.

Every arm is counted with the gate that has most FLOPs, and every text as long as the longest training row. Not counted:
downloads, the texts, start of kernels, tables and figures, autocast's casts, and what transformers does between two
decoded tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import pandas as pd

from rwkvgate.experiment import order
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.progress import clock
from rwkvgate.experiment.run import Run, Variant
from rwkvgate.experiment.settings import GPU_PROFILES, PROFILES, CheckpointSettings, ModelSettings, Schedule, resolve
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.roofline import CPU, T4, Device
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.hub import PAPER_MODEL

SHAPES = {PAPER_MODEL: {"hidden_size": 2048, "num_hidden_layers": 24}}
"""Sizes of checkpoints on the hub, where they are not `Rwkv6Config`'s defaults."""
PROBE_KINDS = 6
"""Probes of each length over `evaluation.probes`, at most (`long_range.probes`)."""
TRAIN, READ, DECODE, LOAD = "train", "read", "decode", "load"


class Call(NamedTuple):
    """A call of a model: which, for how many rows of how many tokens, and whether all its weights are trained."""

    kind: str
    rows: int = 1
    tokens: int = 1
    everything: bool = False
    checkpointed: bool = False


Calls = Counter[Call]


def device_of(run: Run) -> Device:
    """The device that a run is counted for: a T4 where its profile needs a GPU, else two cores of a CPU."""
    return T4 if run.settings.profile in GPU_PROFILES else CPU


def plan(run: Run, device: Device, steps: Iterable[Step] | None = None) -> pd.DataFrame:
    """Predicted seconds of a run's steps, by their name: `part`, `steps` (how many), `seconds`.

    Args:
        device: that makes the steps.
        steps: default: every step of the whole run, finished or not.

    Raises:
        SettingsError: the sizes of the run's checkpoint are not known here.
    """
    steps = notebook_steps(run, order.ABLATIONS) if steps is None else steps
    rows = [(step.name, predicted(step, device)) for step in steps]
    frame = pd.DataFrame(rows, columns=["part", "seconds"]).groupby("part", sort=False)["seconds"]
    return frame.agg(["size", "sum"]).reset_index().set_axis(["part", "steps", "seconds"], axis=1)


def notebook_steps(run: Run, notebook: str, arm: str = "enhanced", seed: int = 0) -> list[Step]:
    """The steps that a notebook needs, each after those that it requires, finished or not.

    Args:
        notebook: its name, such as '02_finetune'.
        arm, seed: of its parameters cell.
    """
    variant, studied = run.variant(arm, seed), run.settings.evaluation.studies
    wanted = [order.corpus(run), order.base(run)]
    if notebook in (order.NOTEBOOKS["arm"], order.VISUALIZATION):
        wanted.append(order.arm(variant))
    elif notebook == order.NOTEBOOKS["evaluation"]:
        wanted += [*_measured([run.variant("base"), variant], studied), order.times(variant)]
    elif notebook == order.ABLATIONS:
        wanted += [*_measured(run.variants(), studied), *map(order.times, run.variants())]
        if studied:
            from rwkvgate.experiment.studies.registry import STUDIES

            wanted += [one.step(run) for one in STUDIES]
    return list({step.folder: step for last in wanted for step in (*last.requires, last)}.values())


def _measured(variants: list[Variant], studied: bool) -> list[Step]:
    return [
        step
        for variant in variants
        for step in (order.arm(variant), order.evaluation(variant), *([order.probes(variant)] if studied else []))
    ]


def predicted(step: Step, device: Device) -> float:
    """Predicted seconds of one step on a device, without the steps that it requires."""
    settings = step.run.settings
    shape, half = shape_of(step.run), _is_half(step.run)
    gate = _costliest_gate(step.run, shape)
    loading = parameters_of(shape) * (2 if half else 4) / device.loading
    return sum(
        count * (loading if call.kind == LOAD else _seconds(call, _sizes(shape), half, gate, device))
        for call, count in calls(step).items()
        if not (call.kind == LOAD and isinstance(settings.model, ModelSettings))
    )


def shape_of(run: Run) -> Rwkv6Config:
    """The base's sizes.

    Raises:
        SettingsError: they stand in a file that has to be fetched first.
    """
    model = run.settings.model
    if isinstance(model, ModelSettings):
        return Rwkv6Config(**model.model_dump(exclude={"pretraining"}))
    if model.checkpoint not in SHAPES:
        raise SettingsError(f"the sizes of {model.checkpoint!r} are not known here; known: {', '.join(SHAPES)}")
    return Rwkv6Config(**SHAPES[model.checkpoint])


def download_bytes(run: Run) -> int:
    """Bytes of the checkpoint that the run takes from the hub; 0 for a network of its own."""
    given = isinstance(run.settings.model, CheckpointSettings)
    return 2 * parameters_of(shape_of(run)) if given else 0


def calls(step: Step) -> Calls:
    """What a step asks of the model: how often each call is made."""
    found: Calls = {
        "corpus": lambda _: Calls(),
        "base": _base_calls,
        "arm": _arm_calls,
        "evaluation": _evaluation_calls,
        "probes": _probe_calls,
        "times": _times_calls,
    }.get(step.name, _study_calls)(step)
    return found


def _base_calls(step: Step) -> Calls:
    from rwkvgate.experiment.steps.base import VALIDATION_BLOCKS

    model = step.run.settings.model
    if isinstance(model, CheckpointSettings):
        return Calls({Call(LOAD): 1})
    return _trained(model.pretraining, everything=True, held_out=VALIDATION_BLOCKS, validations=6)


def _arm_calls(step: Step) -> Calls:
    from rwkvgate.experiment.steps.arm import VALIDATION_DOCUMENTS

    training = step.run.settings.training
    assert step.variant is not None
    if not step.variant.arm.trained:
        return Calls({Call(LOAD): 1})
    validations, everything = training.steps // training.eval_every, training.scope == "all"
    once = _trained(training, everything, VALIDATION_DOCUMENTS, validations)
    rates = max(1, len(training.learning_rates))
    return Calls({Call(LOAD): 2} | {call: rates * count for call, count in once.items()})


def _trained(schedule: Schedule, everything: bool, held_out: int, validations: int) -> Calls:
    step = Call(TRAIN, schedule.batch_size, schedule.length, everything, schedule.gradient_checkpointing)
    rows = 2 * schedule.batch_size
    validation = Call(READ, rows, schedule.length)
    return Calls({step: schedule.steps, validation: validations * math.ceil(held_out / rows)})


def _evaluation_calls(step: Step) -> Calls:
    settings, length = step.run.settings.evaluation, step.run.settings.training.length
    rows, batches = settings.batch_size, math.ceil(settings.documents / settings.batch_size)
    found = Calls({Call(LOAD): 1, Call(READ, rows, length): batches})
    found.update(_generated(step, settings.documents))
    return found


def _times_calls(step: Step) -> Calls:
    settings = step.run.settings.evaluation
    assert step.variant is not None
    timed, alone = 1 if step.variant.arm.name == "base" else 2, Call(READ, 1, settings.latency_tokens)
    generations = timed * (settings.generation_repeats + 1)
    found = Calls({Call(LOAD): 2, Call(DECODE): generations * settings.timed_tokens})
    found.update({alone: timed * (settings.forward_repeats + 2) + generations})
    return found


def _generated(step: Step, prompts: int) -> Calls:
    """Continuations of prompts, in batches."""
    settings = step.run.settings.evaluation
    batches, prompt = math.ceil(prompts / settings.batch_size), step.run.settings.corpus.prompt_tokens[1]
    rows = min(settings.batch_size, prompts)
    return Calls({Call(READ, rows, prompt): batches, Call(DECODE, rows): batches * settings.new_tokens})


def _probe_calls(step: Step) -> Calls:
    from rwkvgate.experiment.steps.probes import FACTOR, LONG_TEXTS, sample_size

    run = step.run
    settings, length = run.settings.evaluation, run.settings.training.length
    found = Calls({Call(LOAD): 1})
    found.update(_read(run, sum(LONG_TEXTS.values()), FACTOR * length))
    found.update(_read(run, 2 * sample_size(run) + 3 * max(2, settings.documents // 2), length))
    for i in range(3 + int(math.log2(FACTOR))):  # each probe with and without what is to be remembered
        found.update(_read(run, settings.probes * PROBE_KINDS * 2, length // 4 * 2**i))
    return found


def _read(run: Run, texts: int, tokens: int) -> Calls:
    """Texts read in windows of a training row, in batches whose logits stay small; the last window counts in full."""
    from rwkvgate.experiment.steps.probes import CELLS

    window = run.settings.training.length
    rows = min(run.settings.evaluation.batch_size, max(1, CELLS // (window * shape_of(run).vocab_size)))
    return Calls({Call(READ, rows, window): math.ceil(texts / rows) * math.ceil(tokens / window)})


def _study_calls(step: Step) -> Calls:
    from rwkvgate.experiment.studies import edits, responses, scaling

    run, found = step.run, Calls()
    settings, length = run.settings.evaluation, run.settings.training.length
    few, documents = max(2, settings.documents // 5), settings.documents
    variants = [required.variant for required in step.requires if required.variant]
    found[Call(LOAD)] = len(variants) or 2
    if step.name == "scaling":  # two networks, two modes, repeats with a warm-up and one for the memory
        windows = math.ceil(settings.longest * 4 / 3 / length)
        return found + Calls({Call(READ, 1, length): 2 * 2 * (scaling.SCALING_REPEATS + 2) * windows})
    if step.name == "grid":  # every batch and length as the largest
        times = 2 * (scaling.GRID_REPEATS + 2) * len(scaling.GRID_BATCHES) * len(scaling.GRID_LENGTHS)
        rows = max(scaling.GRID_BATCHES)
        return found + Calls({Call(DECODE, rows): times, Call(READ, rows, max(scaling.GRID_LENGTHS)): times})
    if step.name == "rewritten":
        for _ in variants:
            found.update(_generated(step, few * (1 + 2 * len(edits.KINDS))))
        return found
    reads: dict[str, Callable[[Variant], int]] = {
        "effects": lambda _: documents + few,
        "responses": lambda _: documents + few + len(responses.CLAIMS) * responses.CLAMPED,
        "changes": lambda _: few * 3 * len(edits.KINDS),
        "clamps": lambda variant: few + _clamped_reads(variant, documents, few, shape_of(run).num_hidden_layers),
    }
    texts = sum(reads.get(step.name, lambda _: few)(variant) for variant in variants)
    return found + _read(run, texts, length) if texts else found


def _clamped_reads(variant: Variant, documents: int, few: int, layers: int) -> int:
    from rwkvgate.experiment.studies.clamps import ALONE, ARM, DECIDING, TOGETHER

    if variant.arm.name != ARM:
        return few * (2 + len(TOGETHER))
    return documents * (2 + len(DECIDING)) + few * (len(TOGETHER) - len(DECIDING) + layers * len(ALONE))


def _sizes(shape: Rwkv6Config) -> tuple[tuple[str, int], ...]:
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "head_size", "time_mix_rank", "time_decay_rank")
    return tuple((name, int(getattr(shape, name))) for name in names)


@lru_cache(maxsize=256)
def _seconds(
    call: Call, sizes: tuple[tuple[str, int], ...], half: bool, gate: GateConfig | None, device: Device
) -> float:
    """Seconds of a call: those of one layer counted, times the layers, and of what is outside them."""
    one, two = (_counted(call, dict(sizes) | {"num_hidden_layers": n}, half, gate, device) for n in (1, 2))
    return one + (dict(sizes)["num_hidden_layers"] - 1) * (two - one)


def _counted(call: Call, sizes: dict[str, int], half: bool, gate: GateConfig | None, device: Device) -> float:
    import torch

    from rwkvgate.gate.config import SITES
    from rwkvgate.gate.layer import GatedShift
    from rwkvgate.gate.patch import select_trainable
    from rwkvgate.metrics.roofline import Roofline
    from rwkvgate.rwkv6.loss import next_token_loss
    from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

    with torch.device("meta"):
        model = Rwkv6ForCausalLM(Rwkv6Config(**sizes))
        model = model.half() if half else model
        heads = sizes["hidden_size"] // sizes["head_size"]
        for block, place in product(model.rwkv.blocks, SITES[gate.site] if gate else ()):
            assert gate is not None
            setattr(block, place, GatedShift(gate, sizes["hidden_size"], heads))
        embedded = torch.empty(call.rows, call.tokens, sizes["hidden_size"], dtype=model.dtype)
        labels = torch.zeros(call.rows, call.tokens, dtype=torch.long)
    head = model.head.weight
    if call.kind == TRAIN:
        select_trainable(model, "all" if call.everything else "gate-and-norms")
        if call.checkpointed:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.train()
        with Roofline(device) as count:
            hidden = model.rwkv(inputs_embeds=embedded).last_hidden_state
            next_token_loss(hidden.to(head.dtype), head, labels).backward()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return count.seconds + trained * ADAMW / device.bytes
    model.eval()
    with torch.inference_mode():
        past = model.rwkv(inputs_embeds=embedded, use_cache=True).past_key_values if call.kind == DECODE else None
        with Roofline(device) as count:
            hidden = model.rwkv(inputs_embeds=embedded, past_key_values=past, use_cache=True).last_hidden_state
            logits = model.head(hidden.to(head.dtype))
            if call.kind == READ:
                torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return count.seconds


ADAMW = 40
"""Bytes that the optimiser moves for a trained number: its gradient's norm, and weight, gradient and two moments."""


@lru_cache(maxsize=32)
def _gate_flops(gate: GateConfig, channels: int, heads: int) -> int:
    from rwkvgate.metrics.cost import gate_cost

    return gate_cost(gate, channels, heads, 16).flops


def _costliest_gate(run: Run, shape: Rwkv6Config) -> GateConfig | None:
    """The gate with most FLOPs among the run's arms."""
    gates = [gate for variant in run.variants() if (gate := variant.gate)]
    heads = shape.num_attention_heads or 1
    return max(gates, key=lambda gate: _gate_flops(gate, shape.hidden_size, heads), default=None)


def _is_half(run: Run) -> bool:
    return isinstance(run.settings.model, CheckpointSettings) and run.settings.model.dtype != "float32"


def parameters_of(shape: Rwkv6Config) -> int:
    """Numbers in the weight matrices, embedding and head included; norms and mixing vectors are a few thousandths."""
    from rwkvgate.metrics.cost import base_flops

    return base_flops(shape, 1) // 2 + shape.vocab_size * shape.hidden_size


def main() -> None:
    """Print the plan of a profile."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.experiment.plan", description=__doc__)
    parser.add_argument("--profile", default="t4", choices=PROFILES)
    given = parser.parse_args()
    try:
        run = Run(resolve(given.profile))
        device = device_of(run)
        frame = plan(run, device)
    except SettingsError as error:
        sys.exit(str(error))
    print(f"profile {given.profile} on {device.name}, as counted: {clock(frame['seconds'].sum())}")
    for row in frame.to_dict("records"):
        print(f"  {row['part']:12s} {row['steps']:3d} {clock(row['seconds']):>8s}")


if __name__ == "__main__":
    main()
