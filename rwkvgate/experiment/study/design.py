"""What the study compares, decided before its numbers were seen: networks, sizes, budgets, rates, seeds, margins.

Decided on 2026-11-28. The question is whether the paper's gate, or one of its variants, lowers the loss of a network
pretrained from scratch, or lets it remember more, against controls of equal steps, parameters, FLOPs and seconds.

- The smallest effect worth knowing is `WORTH_KNOWING`. Seeds are paired: the networks of a seed see the
  same rows in the same order, and start from the same weights where their shapes agree.
- Each network trains at its own learning rate, the best of equally many on validation data. A best rate at the edge of
  the grid adds a rate beyond that edge, until it lies inside.
- Rates are chosen on seeds of their own, and compared on fresh ones.

After the first trials of rates had been seen, and before any compared seed, the stages "families" and "breaking" and
the memory task were added, and memory's budget of 1,600 steps was left out, for time. Later on the same day, before any
trial of theirs, came RWKV-7 among the families, the better base and the stages of fine-tuning, "long texts" and "other
tasks", and, with their rules (`inside_rules`), "inside" and "data". The networks of these two train at one rate, for
drift and gradients depend on it: 4e-3, the best of all four at 128x4 on the seed that was finished. "long texts" was
given 1,200 steps after a pilot of the base alone, which gained nothing from a long context after 300.

Made smaller on the same day, for time, when trials that choose rates were all that had been seen: a width of 192 and
its 6 layers gave way to one of 32; the secondary arms, the families and the long trainings moved from 128x4 to 64x4,
and 128x4 and 32x4 have five seeds and the paper's arms; fiction trains at the rates that were chosen on stories; and
the base has one more budget for each, not two.

On 2026-11-29, when two seeds of "finetune stories" had been seen, its choice of rates was found unfair and changed. No
rate of a gated arm kept to `MOST_FORGOTTEN`, so each had been given the one with the lowest loss, which forgot four
times as much as the base was allowed to. Now an arm that cannot keep to it takes the rate that forgets least, and
"finetune stories freely" compares all at the rate with the lowest loss. The two seeds are counted: the arms that the
change concerns were trained on them anew.

Later on that day a reader of the rules found four of them wrong, when 21 of 60 trials of "primary 64x4" had been seen.
*No better* is now corrected for the controls and the arms; it had not been. Adapters, which train alone, no longer keep
an arm from being worse than its controls. The intervals of the fitted gap are Student's over seeds; those of a
bootstrap of few seeds were too short. And the sweep to where training breaks has rates a quarter of an octave apart
where it breaks (`inside_rules`). The first can only take a verdict away, and so can the third.

Later still, when all of "finetune stories" and "finetune stories freely" had been seen, a reader found that the page
called one claim contradicted which the other choice of rates did not contradict. A claim about stories is now decided
for both choices together: *contradicted* and *not reproduced* are *not reproduced*, other pairs that differ undecided.
The first favours the gate.

A second reader looked at what had not been seen: memory, long texts, other tasks, fiction, the other arms and families,
"data 1/64", 32x4, 128x4 and "longer". Changed on that day, before any of it was:

- Rates are chosen at the largest budget that is compared, and for "longer" and "long texts" at 1,200 steps; they had
  been chosen at 300, where two rates of the enhanced network were nearly alike. This goes for 64x4 too, whose
  comparison had been seen: with two arms at 0.008 the enhanced network was +0.0275 [+0.0163, +0.0387] nats per token
  from a base of equal seconds. 128x4 keeps to 300 steps, for time.
- Fiction trains at the rates with the lowest loss, and is scored after the most steps alone.
- Memory has 800 and 1,600 steps in place of 400 and 800: the base's recall jumps near 800. Sequences of all four
  lengths count, not of the trained one alone, where the base recalls nearly all; a task is too hard only where neither
  the base nor the enhanced network recalls half, and nothing is decided where the base leaves no room for a gain.
- All networks of a seed see the same memory sequences: the passkeys had depended on the number of steps.
- The wide base takes the fixed gate's place in "long texts" and "other tasks": it is a control, and the fixed gate was
  0.9 nats per token behind.
- "The gate regularises" asks for a lower test loss too, no longer for one that is not shown higher.
- Long texts have at most 12 items of one part, for 69 of 288 had been of one, and decide nothing while the base gains
  less than what is worth knowing. Of the other tasks, the genres of sentences get no verdict, for a list of words tells
  them all; and answers are compared with whom the story names last before the object.
- Holm's correction is over the arms of a stage, and the arms of "primary" have "base-wide" alone as their control of
  equal parameters, so that no later stage changes an earlier one's verdict.

On 2026-11-30, before any trial of theirs was finished, the other families got a rule: whether one of them contradicts
*new state of the art among recurrent models* (`ledger`); until then that was undecided whatever they showed. And a
reading of the paper that the study had left out became a stage, "recurrent gate", by itself, so that the correction of
no other stage counts it: h_{t-1} is the gate's own result of one token before, a recurrence over time.

Later on that day, when all that was planned had been seen: the novels had been trained at the rates with the lowest
loss alone, at which their base forgets more than `MOST_FORGOTTEN` of the books. That stage is now called "finetune
fiction freely", with its trials as they were, and "finetune fiction" trains at the rates that are chosen by what they
forget, as the stories do. A claim about the novels is decided for both together, by the rule of the stories; this can
only take a verdict away.

Then, with all of that seen, come more seeds for what stayed undecided: as many as the spread of the seeds so far asks
for, to find `WORTH_KNOWING` with 80 % power, for the arm and the controls that it is compared with (`MORE`). The number
is of the spread alone, but that an arm gets more is of its difference: it is looked at twice, and its p values count
twice. No difference is read before a stage has all of its seeds, but for the fitted gap with 14 seeds of 32x4, and for
"longer" with six. Memory, whose spread asks for 265, has twice the ten that it had, for the paper's gate and its
controls. And the gap over size and time is fitted to the mean of each size and length, not to all seeds alike, or the
size with most seeds would have most to say. After those, and seen with them, "longer" got its twelve, then most of
"others" their ten, and last "routing-only" and its control their 18, as their own spread asks for.

When all of that had been seen, the long trainings got a second width, 32: they had been of 64 alone, so that the fitted
gap knew of long trainings at one size. Twelve seeds at once, as many as those of 64 have, and the rules as they are.
And the base's loss between two budgets is read on a parabola: a line lies above the curve (`analysis.after_steps`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from rwkvgate.experiment.arms import find_arm
from rwkvgate.experiment.study.families import FAMILIES, build_family, family_flops
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.patch import patch
from rwkvgate.metrics.cost import base_flops, gate_cost, wkv_flops
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

PROTOCOL = 1
"""Raised with every change to what a trial computes, so that trials of two protocols are never compared."""
WORTH_KNOWING = {"books": 0.01, "memory": 0.02}
"""The smallest effect worth knowing: nats per token, and share of labelled tokens recalled."""
VOCABULARY, BATCH, LENGTH, WEIGHT_DECAY = 2048, 16, 128, 0.001
MEMORY_BATCH, MEMORY_LENGTH, MEMORY_BUDGETS = 32, 64, (800, 1600)
LONG_BATCH, LONG_LENGTH = 4, 512
STORY_BATCH, STORY_LENGTH = 8, 256
STEP_TOKENS = BATCH * LENGTH
"""Tokens of one step from scratch, in every task."""
RATES, MEMORY_RATES = (2e-3, 4e-3, 8e-3), (1e-3, 2e-3, 4e-3)
CHOOSING, COMPARED = (100, 101), tuple(range(200, 245))
"""Seeds that choose the rate, and those that are compared, from the first on."""
MORE = {
    "primary 32x4": {"base": 45, "base-wide": 45, "enhanced": 45, "no-layer-norm": 16},
    "primary 64x4": {"base": 18, "base-wide": 18, "conv-no-position": 18},
    "longer": {"base": 12, "base-wide": 12, "enhanced": 12},
    "others": dict.fromkeys(("conv-routing", "identity-start", "ungated-shift"), 10)
    | dict.fromkeys(("base-wider", "routing-only"), 18),
    "memory": {"base": 20, "base-wide": 20, "enhanced": 20},
}
"""How many compared seeds a network has where its stage's own were too few, by stage."""
CHOSEN_AT = {"128x4": (150, 300)}
"""Budgets at which the rates of a size are chosen, where it is not the largest of those that are compared."""
BROKEN = 0.5
"""Nats per token above the network's best rate from which on a training that ended counts as broken."""
BASE = "base"
MORE_STEPS = (1.3,)
"""The base is annealed at so many times each budget too: its loss at an arm's FLOPs or seconds lies between."""
TUNED_BATCH, TUNED_LENGTH = 4, 256
TUNED_RATES = (2.5e-4, 5e-4, 1e-3)
MOST_FORGOTTEN = 2.0
"""A rate of fine-tuning is chosen only if the books' perplexity is at most so many times the base's; of an arm that
cannot keep to it, the rate that forgets least."""
BASE_STEPS = 4600
"""Of the base that is fine-tuned: 17.8 tokens a parameter, in four passes over the books."""
PRIMARY = ("base", "base-wide", "enhanced", "no-layer-norm", "fixed-gate", "conv-no-position")
"""The paper's arms, the control of equal parameters, and the best of the search."""
PAPERS = PRIMARY[:5]
"""The paper's arms and their control."""
SECONDARY = ("base-wider", "conv-routing", "conv-only", "routing-only", "identity-start", "ungated-shift")
RECURRENT = ("enhanced-recurrent",)
"""Another reading of the paper: the gate lets in its own previous result."""
LONG = ("base", "base-wide", "enhanced", "conv-no-position")
"""Networks whose use of a long context, and skill in other tasks, is measured; the first three train for long, too."""
WIDE = {"base-wide": "enhanced", "base-wider": "conv-routing"}
"""Controls of equal parameters: a base whose channel mixing is wider, and the arm that it has as many parameters as."""
INSIDE = ("base", "enhanced", "no-layer-norm", "fixed-gate")
"""The paper's arms, which are read inside."""
DATA = {"inside": 1, "data 1/16": 16, "data 1/64": 64}
"""Tasks by the data they train on: every n-th training document."""


LORA = "lora"
"""Low-rank adapters on the frozen base, with as many new parameters as the enhanced arm's gate.

Beside weights that train, adapters would add nothing that those could not learn. So "lora" trains its adapters alone,
and the control of equal parameters, which has new ones and trains all, is again a wider channel mixing: channels that
are added to the base and write nothing until they are trained.
"""
TUNED = (BASE, "base-wide", LORA, "enhanced", "no-layer-norm", "fixed-gate")
GENRES = ("stories", "fiction")


@dataclass(frozen=True)
class Size:
    """The sizes of a network without gates."""

    name: str
    hidden: int
    layers: int
    head: int

    def config(self, vocabulary: int = VOCABULARY, **changes: int) -> Rwkv6Config:
        """The network's configuration."""
        sizes = {"hidden_size": self.hidden, "num_hidden_layers": self.layers, "head_size": self.head}
        return Rwkv6Config(vocab_size=vocabulary, time_mix_rank=16, time_decay_rank=16, **(sizes | changes))


_ALL = (Size("32x4", 32, 4, 16), Size("64x4", 64, 4, 16), Size("128x4", 128, 4, 32), Size("64x2", 64, 2, 16))
SIZES = {size.name: size for size in _ALL}


def step_tokens(task: str) -> int:
    """Tokens of one step of a task."""
    return TUNED_BATCH * TUNED_LENGTH if task.startswith("tuned") else STEP_TOKENS


@dataclass(frozen=True)
class Stage:
    """Trainings that answer one question.

    Attributes:
        budgets: steps that each is annealed at.
        rates: learning rates tried; empty takes each network's best of the stage `rated`.
        task: of `tasks`, by name.
        sweep: whether every rate is wanted, as in a sweep to where training breaks, and not a choice of the best.
        after: the stage whose network is fine-tuned; empty for a training from scratch.
        freely: whether the rate is the one with the lowest loss, whatever is forgotten.
    """

    name: str
    size: Size
    networks: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]
    rates: tuple[float, ...] = ()
    rated: str = ""
    task: str = "books"
    sweep: bool = False
    after: str = ""
    freely: bool = False

    def steps(self, network: str) -> tuple[int, ...]:
        """The budgets of one network, with those that only a control of equal compute needs."""
        extra = MORE_STEPS if network == BASE and not self.rates else ()
        return tuple(sorted({round(more * budget) for budget in self.budgets for more in (1.0, *extra)}))

    def seeded(self, network: str) -> tuple[int, ...]:
        """The seeds of one network: the stage's, or more of them."""
        more = MORE.get(self.name, {}).get(network)
        return COMPARED[:more] if more else self.seeds

    @property
    def planned(self) -> int:
        """How many trials it has, before rates are added beyond the edges of its grid."""
        return sum(len(self.seeded(network)) for network in self.networks) * max(1, len(self.rates))

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return step_tokens(self.task)

    @property
    def timed(self) -> str:
        """What its steps are timed as: stages of a size alike, those of fine-tuning by themselves."""
        return f"{self.size.name} tuned" if self.after else self.size.name


def _compared(size: str, seeds: int, networks: tuple[str, ...]) -> list[Stage]:
    """The choice of the rates, and the comparison at them."""
    rates = Stage(f"rates {size}", SIZES[size], networks, CHOOSING, CHOSEN_AT.get(size, (600,)), RATES)
    seeded = COMPARED[:seeds]
    return [rates, Stage(f"primary {size}", SIZES[size], networks, seeded, (150, 300, 600), rated=rates.name)]


def _untouched(genre: str) -> Stage:
    """The base as it is, which is what the paper compares with."""
    name, task = f"untouched {genre}", f"tuned-{genre}"
    return Stage(name, SIZES["64x4"], (BASE,), (0,), (0,), (1e-3,), task=task, sweep=True, after="better base")


def _tuned(name: str, seeds: int, budgets: tuple[int, ...], freely: bool) -> Stage:
    """Fine-tunings of all networks, at the rates that are best on stories; the genre is the name's second word."""
    task, rated = f"tuned-{name.split()[1]}", "rates finetune stories"
    seeded = COMPARED[:seeds]
    return Stage(
        name, SIZES["64x4"], TUNED, seeded, budgets, rated=rated, task=task, after="better base", freely=freely
    )


def _inside(name: str, networks: tuple[str, ...], budgets: tuple[int, ...]) -> Stage:
    return Stage(name, SIZES["64x4"], networks, tuple(range(400, 405)), budgets, (4e-3,), task=name, sweep=True)


_SMALL = SIZES["64x4"]
STAGES = {
    stage.name: stage
    for stage in (
        Stage("better base", _SMALL, (BASE,), (0,), (BASE_STEPS,), (4e-3,), task="base", sweep=True),
        Stage(
            "rates finetune stories",
            _SMALL,
            TUNED,
            CHOOSING,
            (100, 200),
            TUNED_RATES,
            task="tuned-stories",
            after="better base",
        ),
        _untouched("stories"),
        _tuned("finetune stories", 10, (100, 200, 400), freely=False),
        _tuned("finetune stories freely", 5, (100, 200, 400), freely=True),
        *_compared("64x4", 10, PRIMARY),
        Stage(
            "breaking",
            _SMALL,
            ("base", "enhanced", "no-layer-norm"),
            (300, 301, 302, 303),
            (100,),
            (4e-3, 8e-3, 1.6e-2, 3.2e-2, 3.8e-2, 4.5e-2, 5.4e-2, 6.4e-2, 1.28e-1),
            sweep=True,
        ),
        _inside("inside", INSIDE, (40, 75, 150, 300)),
        _inside("data 1/16", ("base", "enhanced", "fixed-gate"), (300,)),
        _inside("data 1/64", ("base", "enhanced", "fixed-gate"), (300,)),
        Stage("rates memory", SIZES["64x2"], PRIMARY, CHOOSING, MEMORY_BUDGETS, MEMORY_RATES, task="memory"),
        Stage("memory", SIZES["64x2"], PRIMARY, COMPARED[:10], MEMORY_BUDGETS, rated="rates memory", task="memory"),
        Stage("rates longer", _SMALL, LONG, CHOOSING, (1200,), RATES),
        Stage("long texts", _SMALL, LONG, COMPARED[:5], (1200,), rated="rates longer", task="long"),
        Stage("other tasks", _SMALL, LONG, COMPARED[:5], (600,), rated="rates 64x4", task="stories"),
        _untouched("fiction"),
        _tuned("finetune fiction freely", 5, (400,), freely=True),
        _tuned("finetune fiction", 5, (400,), freely=False),
        Stage("rates of the others", _SMALL, SECONDARY, CHOOSING, (600,), RATES),
        Stage("others", _SMALL, SECONDARY, COMPARED[:5], (150, 300, 600), rated="rates of the others"),
        Stage("rates of the recurrent gate", _SMALL, RECURRENT, CHOOSING, (600,), RATES),
        Stage("recurrent gate", _SMALL, RECURRENT, COMPARED[:5], (150, 300, 600), rated="rates of the recurrent gate"),
        Stage("rates of families", _SMALL, FAMILIES, CHOOSING, (600,), RATES),
        Stage("families", _SMALL, FAMILIES, COMPARED[:5], (150, 300, 600), rated="rates of families"),
        *_compared("32x4", 5, PAPERS),
        *_compared("128x4", 5, PAPERS),
        Stage("longer", _SMALL, LONG[:3], COMPARED[:5], (1200, 3000), rated="rates longer"),
        Stage("rates longer 32x4", SIZES["32x4"], LONG[:3], CHOOSING, (1200,), RATES),
        Stage("longer 32x4", SIZES["32x4"], LONG[:3], COMPARED[:12], (1200, 3000), rated="rates longer 32x4"),
    )
}
"""The stages in the order in which they run."""


def rates_chosen_at(size: str, budgets: tuple[int, ...]) -> int:
    """The steps at which the rates of a comparison on the books were chosen: before, an arm may be behind its best.

    0 where no stage has these budgets.

    Args:
        budgets: of its arms.

    Example:
        >>> rates_chosen_at("64x4", (150, 300, 600)), rates_chosen_at("128x4", (150, 300, 600))
        (600, 300)
    """
    own = (s for s in STAGES.values() if (s.task, s.size.name, s.budgets) == ("books", size, budgets) and s.rated)
    return max((max(STAGES[stage.rated].budgets) for stage in own), default=0)


def build(network: str, size: Size, seed: int, vocabulary: int = VOCABULARY) -> nn.Module:
    """A fresh network: the base's weights drawn from the seed, and then the gate's, drawn from the seed too."""
    torch.manual_seed(seed)
    if network in FAMILIES:
        return _family(network, size, vocabulary)
    model = Rwkv6ForCausalLM(size.config(vocabulary, **_widened(network, size)))
    if network not in (BASE, *WIDE):
        torch.manual_seed(seed)
        patch(model, gate_config(network))
    return model


@cache
def cost(network: str, size: Size, vocabulary: int = VOCABULARY) -> tuple[int, float]:
    """A network's parameters, and its FLOPs per token in one forward pass: matrix products, and WKV by definition."""
    if network in FAMILIES:
        with torch.device("meta"):
            model = _family(network, size, vocabulary)
        return sum(p.numel() for p in model.parameters()), family_flops(model, LENGTH)
    config = size.config(vocabulary, **_widened(network, size))
    with torch.device("meta"):
        parameters = Rwkv6ForCausalLM(config).num_parameters()
    flops = (base_flops(config, LENGTH) + wkv_flops(config, LENGTH)) / LENGTH
    if network in (BASE, *WIDE):
        return parameters, flops
    if network == LORA:
        from rwkvgate.experiment.lora import add_lora  # PEFT takes seconds to import

        with torch.device("meta"):
            new = add_lora(Rwkv6ForCausalLM(config)).num_parameters() - parameters
        return parameters + new, flops + 2 * new
    gate = gate_cost(gate_config(network), size.hidden, size.hidden // size.head, LENGTH)
    return parameters + size.layers * gate.parameters, flops + size.layers * gate.flops / LENGTH


def _family(network: str, size: Size, vocabulary: int) -> nn.Module:
    parameters = cost(BASE, size, vocabulary)[0]
    heads = size.hidden // size.head
    return build_family(network, size.hidden, size.layers, heads, vocabulary, LENGTH, parameters)


def gate_config(network: str) -> GateConfig:
    """The gate of an arm that has one."""
    gate = find_arm(network).gate
    assert gate is not None
    return gate


def _widened(network: str, size: Size) -> dict[str, int]:
    """The width of a wide control's channel mixing: the nearest to the parameters of its arm."""
    if network not in WIDE:
        return {}
    plain = size.config()
    gate = gate_cost(gate_config(WIDE[network]), size.hidden, size.hidden // size.head).parameters
    assert plain.intermediate_size is not None
    return {"intermediate_size": plain.intermediate_size + round(gate / (2 * size.hidden))}
