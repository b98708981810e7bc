"""Settings: a profile file plus overrides becomes one validated, frozen `Settings`.

The five notebooks, the Snakefile and the tests all call `resolve`. Nothing else reads `params/*.yaml`, so every default
has one place. A misspelt key is an error that names the key, its value and the allowed ones, before any work is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from rwkvgate.experiment.parameters import plain_name, read_parameters
from rwkvgate.experiment.places import place, project_root
from rwkvgate.gate.validation import Frozen, SettingsError, shown, unknown, validate

PROFILES = ("smoke", "cpu", "t4", "gpu")
GPU_PROFILES = ("t4", "gpu")
SECTIONS = ("model", "corpus", "gate", "training", "evaluation")
NOTEBOOK_KEYS = ("arm", "seed")
"""Keys of a profile's file that belong to a notebook, not to the run; papermill injects them into its cell."""
PROFILE_VARIABLE = "RWKVGATE_PROFILE"
PAPER_MEMORY = 14 * 2**30
"""Bytes of GPU memory from which `auto` takes the paper's model; a T4 shows 14.5 GiB."""
LAUNCH = {"processes", "sharded", "report_to"}
"""Settings that choose the processes of a training, and who else is sent its losses. Like another processor they change
the rounding of sums and nothing else, so they are left out of the hash of inputs, and a finished arm is not trained
again. Bits are equal only for equal numbers of processes; the arm's log records processes and sharding."""
REPORTERS = {"none": (), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Values of `training.report_to`, and the packages of which each needs one."""

MOST_SEEDS = 1000
LARGEST_SEED = 2**32 - 1
"""numpy's generators take no larger one."""
MOST_ROWS, MOST_TOKENS, MOST_PARAMETERS = 10**8, 2**24, 2 * 10**10
"""Rows of a schedule, tokens of one step, and parameters of a new network: more is a slip of the keyboard."""

Positive = Annotated[int, Field(ge=1, le=10**6)]
Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Length = Annotated[int, Field(ge=1, le=2**20)]
Size = Annotated[int, Field(ge=1, le=2**16)]
Name = Annotated[str, AfterValidator(plain_name)]


def share_of(batch: int, processes: int, key: str = "training.batch_size") -> int:
    """Rows of a batch that each process takes.

    Raises:
        SettingsError: the number of processes does not divide the batch.
    """
    if batch % processes:
        allowed = [n for n in range(1, batch + 1) if batch % n == 0]
        raise SettingsError(
            f"{key} is {batch}, of all processes together, and {processes} processes cannot share it evenly; "
            f"their number must be {', '.join(map(str, allowed[:-1]))}{' or ' if allowed[:-1] else ''}{allowed[-1]}"
        )
    return batch // processes


class Schedule(Frozen):
    """One optimisation run: AdamW under a linear warm-up and a cosine decay to zero."""

    steps: Positive = Field(description="optimiser steps")
    batch_size: Size = Field(description="sequences in one step")
    length: Annotated[int, Field(ge=8, le=2**20)] = Field(description="tokens in the longest sequence")
    learning_rate: Rate = Field(description="peak learning rate of AdamW")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(description="steps of linear warm-up")
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(description="on weight matrices only")
    gradient_checkpointing: bool = Field(description="keep only blocks' inputs, and compute each block twice")

    @model_validator(mode="after")
    def _warmup_fits(self) -> Schedule:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be below steps, {self.steps}")
        for product, count, most in (
            ("steps x batch_size", self.steps * self.batch_size, MOST_ROWS),
            ("batch_size x length", self.batch_size * self.length, MOST_TOKENS),
        ):
            if count > most:
                raise ValueError(f"{product} is {count:,}; it must be at most {most:,}")
        return self


class ModelSettings(Frozen):
    """The base as a new RWKV-6 network: its sizes and its pretraining."""

    vocab_size: Annotated[int, Field(ge=300, le=65536)] = Field(description="entries of the byte-level BPE vocabulary")
    hidden_size: Size = Field(description="channels of the residual stream")
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)] = Field(description="blocks")
    head_size: Size = Field(description="channels of one WKV head")
    time_mix_rank: Size = Field(description="rank of each data-dependent token-shift LoRA")
    time_decay_rank: Size = Field(description="rank of the data-dependent decay LoRA")
    pretraining: Schedule

    @property
    def vocabulary(self) -> str:
        """The tokenizer's vocabulary in words."""
        return f"byte-level BPE of {self.vocab_size} entries"

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSettings:
        if self.hidden_size % self.head_size:
            raise ValueError(f"hidden_size is {self.hidden_size}; it must be a multiple of head_size, {self.head_size}")
        # Ten matrices of hidden_size squared a block, at least: five of time mixing, and channel mixing's.
        count = self.hidden_size * (2 * self.vocab_size + 10 * self.hidden_size * self.num_hidden_layers)
        if count > MOST_PARAMETERS:
            raise ValueError(f"these sizes make {count:,} parameters; at most {MOST_PARAMETERS:,} are allowed")
        return self


class CheckpointSettings(Frozen):
    """The base as a checkpoint with the World vocabulary. Network sizes of the profile are ignored."""

    checkpoint: Name = Field(min_length=1, description="hub name or folder of an RWKV-6 checkpoint")
    revision: Name = Field(default="", description="commit or tag on the hub; empty takes the newest")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(default="float32", description="type of its weights")

    @property
    def vocabulary(self) -> str:
        """The tokenizer's vocabulary in words."""
        return "RWKV's World vocabulary"

    @model_validator(mode="before")
    @classmethod
    def _without_sizes(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if key not in ModelSettings.model_fields}


def _model_kind(data: Any) -> str:
    given = isinstance(data, CheckpointSettings) or (isinstance(data, Mapping) and "checkpoint" in data)
    return "checkpoint" if given else "sizes"


class HubSet(Frozen):
    """A dataset of the hub whose documents are added to those of `corpus.source`."""

    name: Name = Field(min_length=1, description="owner/name on the hub, or a local folder that `datasets` reads")
    config: Name = Field(default="", description="configuration of the dataset, if it has several")
    revision: Name = Field(default="", description="commit; empty takes the newest")
    split: Name = Field(default="train", description="split of the dataset to read")
    column: Name = Field(default="text", description="column that holds the text")
    documents: Annotated[int, Field(ge=10, le=10**6)] = Field(
        description="documents to take, for all three splits together"
    )


class CorpusSettings(Frozen):
    """The texts that the base is pretrained on, and those that the arms are tuned and tested on."""

    source: Name = Field(min_length=1, description="'stories', or the path of a local .txt or .jsonl file")
    documents: Positive = Field(description="stories to generate, over all three splits")
    hub: tuple[HubSet, ...] = Field(description="datasets of the hub, whose documents join the source's in every split")
    natural_characters: Annotated[int, Field(ge=10_000, le=10**9)] = Field(description="natural text to read, at most")
    seed: Seed = Field(description="seed of the stories and of the splits")
    prompt_tokens: tuple[Length, Length] = Field(description="minimum and maximum tokens of a prompt")
    splits: tuple[Rate, Rate, Rate] = Field(description="shares of train, validation and test")

    @model_validator(mode="after")
    def _consistent(self) -> CorpusSettings:
        if abs(sum(self.splits) - 1) > 1e-6:
            raise ValueError(f"splits are {list(self.splits)}; they must sum to 1")
        if self.prompt_tokens[0] > self.prompt_tokens[1]:
            raise ValueError(f"prompt_tokens are {list(self.prompt_tokens)}; the first must not exceed the second")
        return self


class TrainingSettings(Schedule):
    """Fine-tuning, the same for every arm, so that the comparison is fair."""

    scope: Literal["all", "gate-and-norms"] = Field(description="parameters that are trained")
    learning_rates: tuple[Rate, ...] = Field(
        description="grid of learning rates: each arm keeps the best on validation; empty: learning_rate alone"
    )
    log_every: Positive = Field(description="steps between two logged losses")
    eval_every: Positive = Field(description="steps between two validation losses")
    processes: Annotated[int, Field(ge=1, le=4096)] = Field(description="processes that share each batch, one a GPU")
    sharded: bool = Field(description="shard the model over the processes, for one that does not fit on a GPU")
    report_to: Literal["none", "tensorboard", "wandb"] = Field(
        default="none",  # in manifests of earlier versions
        description="also send losses to TensorBoard, in TENSORBOARD_LOGGING_DIR or outputs/tensorboard, or to W&B",
    )

    @model_validator(mode="after")
    def _processes_fit(self) -> TrainingSettings:
        share_of(self.batch_size, self.processes, key="batch_size")
        if self.sharded and self.processes == 1:
            raise ValueError("sharded needs more than one of training.processes to spread the model over")
        return self


class EvaluationSettings(Frozen):
    """The measurements on the test split."""

    documents: Positive = Field(description="test documents scored")
    new_tokens: Length = Field(description="tokens generated at most for BLEU and ROUGE")
    batch_size: Size = Field(description="documents per batch")
    arms: tuple[str, ...] = Field(description="arms of the whole run, which must include the base")
    seeds: Seeds = Field(description="training seeds of each tuned arm in the whole run")
    resamples: Annotated[int, Field(ge=100, le=10**6)] = Field(description="bootstrap resamples")
    latency_tokens: Length = Field(description="tokens of the timed forward pass")
    latency_repeats: Annotated[int, Field(ge=3, le=10**6)] = Field(
        description="repeats, base and arm interleaved: three times as many forward passes, a third as many generations"
    )
    timed_tokens: Length = Field(description="tokens of the timed generation (the paper's 50)")
    studies: bool = Field(description="also measure length, language, memory and other domains")
    probes: Positive = Field(description="long-range probes of each kind and length")
    longest: Annotated[int, Field(ge=256, le=2**24)] = Field(description="tokens of the longest text timed")

    @property
    def forward_repeats(self) -> int:
        """Timed repeats of a forward pass: more of them, because a short measurement is noisier."""
        return 3 * self.latency_repeats

    @property
    def generation_repeats(self) -> int:
        """Timed repeats of a generation."""
        return max(3, self.latency_repeats // 3)

    @model_validator(mode="after")
    def _compares_with_the_base(self) -> EvaluationSettings:
        if "base" not in self.arms:
            raise ValueError(f"arms are {list(self.arms)}; 'base' must be one, for every ratio is to it")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms are {list(self.arms)}; each may stand there once")
        return self


class Settings(Frozen):
    """All settings of a run. `rwkvgate.experiment.inputs` selects those that each step depends on."""

    profile: Literal["smoke", "cpu", "t4", "gpu"]
    run_dir: Name
    model: Annotated[
        Annotated[ModelSettings, Tag("sizes")] | Annotated[CheckpointSettings, Tag("checkpoint")],
        Discriminator(_model_kind),
    ]
    corpus: CorpusSettings
    gate: dict[str, Any] = Field(description="fields of GateConfig laid over the arm's preset")
    training: TrainingSettings
    evaluation: EvaluationSettings

    @property
    def folder(self) -> Path:
        """The run folder, absolute."""
        return place(self.run_dir or f"outputs/{self.profile}")


def profile_path(profile: str) -> Path:
    """The YAML file of a profile: the checkout's, or the copy in an installed wheel."""
    here = project_root() / "params" / f"{profile}.yaml"
    # Also a file that cannot be read: reading it says why.
    return here if os.path.lexists(here) else Path(__file__).resolve().parents[1] / "params" / f"{profile}.yaml"


def resolve_profile(profile: str) -> str:
    """The profile of that name; `auto` takes it from the environment variable, else from the hardware.

    Raises:
        SettingsError: the name, or the value of `RWKVGATE_PROFILE`, is not a profile.
    """
    if profile == "auto":
        named = os.environ.get(PROFILE_VARIABLE, "")
        if named and named != "auto":
            if named not in PROFILES:
                raise SettingsError(unknown(f"profile in the environment variable {PROFILE_VARIABLE}", named, PROFILES))
            return named
        return _profile_of_hardware()
    if profile not in PROFILES:
        raise SettingsError(unknown("profile", profile, ("auto", *PROFILES)))
    return profile


def _profile_of_hardware() -> str:
    import torch  # here, so that settings can be read without importing torch

    if not torch.cuda.is_available():
        return "cpu"
    return "t4" if torch.cuda.get_device_properties(0).total_memory >= PAPER_MEMORY else "gpu"


def require_hardware(profile: str) -> None:
    """Refuse a GPU profile on a machine without a GPU, before hours of work begin on its CPU.

    Raises:
        SettingsError: there is no GPU; the message names the profile that fits.
    """
    if profile in GPU_PROFILES and _profile_of_hardware() == "cpu":
        raise SettingsError(
            f"profile {profile!r} needs a GPU, and torch finds no CUDA device; profile 'cpu' fits this machine. "
            "On Colab a GPU comes with Runtime > Change runtime type > T4 GPU"
        )


def require_reporter(report_to: str) -> None:
    """Refuse to report to a service whose package is not installed, before anything is trained.

    Raises:
        SettingsError: names the package.
    """
    packages = REPORTERS[report_to]
    if packages and not any(find_spec(name) for name in packages):
        raise SettingsError(
            f"training.report_to is {report_to!r}, which needs the package {packages[0]}: pip install {packages[0]}; "
            "'none' needs none"
        )


def load_profile(profile: str) -> dict[str, Any]:
    """The keys of a profile file, as written.

    Raises:
        SettingsError: the file is missing or unreadable, not YAML, or not a mapping, or has a key twice.
    """
    path = profile_path(profile)
    try:
        return read_parameters(path)
    except FileNotFoundError:
        missing = project_root() / "params" / path.name
        raise SettingsError(f"no file {missing} for profile {profile!r}; it belongs to the checkout") from None


def resolve(
    profile: str = "auto",
    run_dir: str = "",
    model: Mapping[str, Any] | None = None,
    corpus: Mapping[str, Any] | None = None,
    gate: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Settings:
    """Override the profile's settings and validate the result.

    The arguments are those of the notebooks' parameters cell. A section may be partial: nested mappings
    are merged key by key, and any other value replaces the profile's.

    Raises:
        SettingsError: an unknown profile or key, a wrong type or an impossible value.
    """
    name = resolve_profile(profile)
    merged = {key: value for key, value in load_profile(name).items() if key not in NOTEBOOK_KEYS}
    if isinstance(model, Mapping) and "checkpoint" in {*model, *_section(merged.get("model"), "'model'")}:
        sizes = [key for key in model if key in ModelSettings.model_fields]
        if sizes:
            raise SettingsError(f"model.{sizes[0]} cannot be set beside model.checkpoint, which has its own sizes")
    overrides = {
        "model": model,
        "corpus": corpus,
        "gate": gate,
        "training": training,
        "evaluation": evaluation,
    }
    for section, override in overrides.items():
        below = _section(merged.get(section), f"{section!r} in params/{name}.yaml")
        merged[section] = merge(below, _section(override, repr(section)))
    if (stated := merged.get("profile", name)) != name:
        raise SettingsError(f"params/{name}.yaml says profile {shown(stated)}; it must say {name!r}, as its name does")
    merged |= {"profile": name, "run_dir": merged.get("run_dir", "") if run_dir == "" else run_dir}
    settings = validate(Settings, merged, where=f"params/{name}.yaml and its overrides")
    place(run_dir)  # refuses a home folder that does not exist
    return settings


def _section(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SettingsError(f"{what} is a {type(value).__name__}; it must be a mapping of settings")
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`; nested mappings are merged."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(under, value)
        else:
            merged[key] = value
    return merged
