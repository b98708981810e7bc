"""The steps of a run, each made when it is needed and not finished yet.

    corpus -> base -> arm (one for each arm and seed) -> evaluation -> results

`open_run` turns a notebook's parameters into a `Run`. Every `ensure_*` function returns a step's outcome
and makes it first where its folder is missing or belongs to other inputs, so a notebook runs alone, in any
order, and a second run redoes nothing.

Processes that were launched together call the same functions with the same arguments: all of them train, the main one
decides what is finished, and it alone writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rwkvgate.experiment.arms import find_arm
from rwkvgate.experiment.bases import LOG, best_device, ensure_checkpoint, home_of
from rwkvgate.experiment.corpora.build import Corpus, build_corpus, tokenizer_texts
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.prompts import split_prompt
from rwkvgate.experiment.corpora.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from rwkvgate.experiment.injected import cells_so_far, refuse_unknown
from rwkvgate.experiment.inputs import arm_inputs, arms_and_seeds, base_inputs, corpus_inputs, gate_of
from rwkvgate.experiment.locks import hold
from rwkvgate.experiment.run import Run, is_finished, make_once, open_folder, remove, step, write_manifest
from rwkvgate.experiment.settings import (
    CheckpointSettings,
    ModelSettings,
    Schedule,
    Settings,
    require_hardware,
    resolve,
)
from rwkvgate.experiment.training import TrainingLog, close_row, document_rows, pack_rows, ranks, train
from rwkvgate.experiment.training.launching import launch
from rwkvgate.experiment.training.sharding import whole
from rwkvgate.gate.patch import gates_of, patch, select_trainable
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import digest, read_json, write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer

BASE_SEED = 0
"""One base serves every arm and seed, so its own seed is no parameter."""

WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer"
VALIDATION_DOCUMENTS = 64
"""Documents whose loss is watched during training; the whole split would slow it without saying more."""


@dataclass(frozen=True)
class Texts:
    """The corpus of a run and its tokenizer."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase

    def encode(self, documents: Sequence[Document]) -> list[list[int]]:
        """Token ids of each document, without a prefix."""
        return self.tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"] if documents else []

    def prompt(self, document: Document, settings: Settings) -> tuple[str, str]:
        """A document as its prompt and its reference."""
        fewest, most = settings.corpus.prompt_tokens
        end = split_prompt(document, self.encode_text, fewest, most)
        return document.text[:end], document.text[end:]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of one text, without a prefix."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def open_run(**parameters: Any) -> Run:
    """The run that a notebook's parameters describe: settings, arm, gate and folder checked.

    Args:
        parameters: those of `rwkvgate.experiment.settings.resolve`.

    Raises:
        SettingsError: any of them is unknown or impossible, the profile needs a GPU that is not there,
            or the run folder belongs to something else; or papermill was given a parameter that no notebook has.
    """
    refuse_unknown(cells_so_far())
    disable_progress_bar()  # its bars would leave widget state in notebooks; `Progress` prints lines
    settings = resolve(**parameters)
    require_hardware(settings.profile)
    gate = gate_of(find_arm(settings.arm), settings)
    if gate is not None and isinstance(settings.model, ModelSettings):
        gate.sized(settings.model.hidden_size, settings.model.hidden_size // settings.model.head_size)
    arms_and_seeds(settings)
    half = isinstance(settings.model, CheckpointSettings) and settings.model.dtype == "float16"
    if half and find_arm(settings.arm).trained and best_device().type != "cuda":
        raise SettingsError("training in float16 needs a CUDA device; model.dtype float32 runs on this machine")
    return open_folder(settings)


def ensure_texts(run: Run) -> Texts:
    """The corpus and its tokenizer."""
    ranks.from_main(lambda: _make_texts(run))
    folder = run.corpus / TOKENIZER
    world = isinstance(run.settings.model, CheckpointSettings)
    return Texts(Corpus.load(run.corpus), Rwkv6Tokenizer.from_pretrained(folder) if world else load_tokenizer(folder))


def _make_texts(run: Run) -> None:
    inputs = corpus_inputs(run.settings)

    def make() -> None:
        started = time.monotonic()
        print("corpus: reading natural text and making the fine-tuning documents", flush=True)
        corpus = build_corpus(run.settings.corpus)
        tokenizer = _new_tokenizer(run.settings.model, corpus)
        texts = Texts(corpus, tokenizer)
        for document in corpus.test:
            texts.prompt(document, run.settings)  # a document too short for its prompt is said now, not later
        with step(run.corpus, "corpus", inputs, started) as fresh:
            corpus.save(fresh)
            save_tokenizer(tokenizer, fresh / TOKENIZER)
        write_manifest(run)

    make_once(run, run.corpus, inputs, make)


def _new_tokenizer(model: ModelSettings | CheckpointSettings, corpus: Corpus) -> PreTrainedTokenizerBase:
    if isinstance(model, CheckpointSettings):
        return Rwkv6Tokenizer()
    return train_tokenizer(tokenizer_texts(corpus), model.vocab_size)


def ensure_base(run: Run) -> Rwkv6ForCausalLM:
    """The base model: fetched, or pretrained on natural text, where that is not done yet."""
    wanted, inputs = run.settings.model, base_inputs(run.settings)
    if isinstance(wanted, CheckpointSettings):
        return ensure_checkpoint(run, wanted)
    _make_together(run, run.base, lambda: is_finished(run.base, inputs), lambda: _make_base(run, wanted))
    ranks.from_main(lambda: remove(_checkpoints(run)))  # of a run that was killed just before it would have
    return load_base(run)


def _make_together(run: Run, folder: Path, is_made: Callable[[], bool], make: Callable[[], None]) -> None:
    """`make_once` for what all processes of a launch make: the main one looks, and keeps the step to them."""
    if ranks.from_main(is_made):
        return
    ranks.from_main(lambda: _make_texts(run))  # a step of its own: what waits for it keeps nothing to itself
    with ranks.on_main(lambda: hold(run.folder, folder)):
        if not ranks.from_main(is_made):  # while we waited
            make()


def _make_base(run: Run, wanted: ModelSettings) -> None:
    texts, started = ensure_texts(run), time.monotonic()
    model = new_base(wanted, texts.tokenizer)
    log = _pretrain(run, model, wanted.pretraining, texts)
    ranks.from_main(lambda: _write_base(run, model, texts, log, started))


def _checkpoints(run: Run, arm: str | None = None, seed: int = 0) -> Path:
    """Where the training of these very settings keeps its checkpoints: others' stay where they are."""
    inputs = base_inputs(run.settings) if arm is None else arm_inputs(run.settings, arm, seed)
    return run.checkpoints(arm, seed) / digest(inputs)


def _pretrain(run: Run, model: Rwkv6ForCausalLM, schedule: Schedule, texts: Texts) -> TrainingLog:
    separator: int = texts.tokenizer.bos_token_id
    rows = pack_rows(texts.encode(texts.corpus.natural_train), schedule, separator, BASE_SEED)
    held_out = _blocks(texts.encode(texts.corpus.natural_validation), schedule.length, separator)
    return train(
        model,
        rows,
        schedule,
        label="pretraining",
        seed=BASE_SEED,
        validation=held_out[: 2 * VALIDATION_DOCUMENTS],
        checkpoints=_checkpoints(run),
    )


def _write_base(run: Run, model: Rwkv6ForCausalLM, texts: Texts, log: TrainingLog, started: float) -> None:
    with step(run.base, "base", base_inputs(run.settings), started, obsolete=_checkpoints(run)) as fresh:
        model.save_pretrained(fresh)
        save_tokenizer(texts.tokenizer, fresh)
        write_json(fresh / LOG, asdict(log))
    write_manifest(run)


def _blocks(documents: Sequence[Sequence[int]], length: int, separator: int) -> list[list[int]]:
    stream = [token for document in documents for token in (separator, *document)]
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)] or [stream]


def new_base(model: ModelSettings, tokenizer: PreTrainedTokenizerBase, seed: int = BASE_SEED) -> Rwkv6ForCausalLM:
    """An untrained base of the settings' size, initialised from the seed."""
    sizes = model.model_dump(exclude={"pretraining", "vocab_size"})
    torch.manual_seed(seed)
    return Rwkv6ForCausalLM(Rwkv6Config(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, **sizes))


def load_base(run: Run) -> Rwkv6ForCausalLM:
    """The base of a run, in evaluation mode.

    Raises:
        SettingsError: its files are missing or damaged.
    """
    try:
        model = Rwkv6ForCausalLM.from_pretrained(run.base, local_files_only=True).to(home_of(run.settings))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"the base in {run.base} cannot be read ({error}). Remove that folder and run {run.command()}"
        ) from None
    return model.eval()


def training_log(run: Run, arm: str | None = None, seed: int = 0) -> TrainingLog:
    """The log of an arm's fine-tuning, or of the base's pretraining: one without steps for a checkpoint."""
    folder = run.base if arm is None else run.arm(arm, seed)
    log = read_json(folder / LOG)
    if log is None:
        raise SettingsError(f"{folder / LOG} is missing or damaged. Remove that folder and run {run.command()}")
    return TrainingLog(**log)


def new_arm(run: Run, arm: str, seed: int) -> Rwkv6ForCausalLM:
    """The base with the arm's untrained gate, drawn from the seed: arms that share a gate share its start."""
    model, found = ensure_base(run), find_arm(arm)
    gate = gate_of(found, run.settings)
    torch.manual_seed(seed)
    if found.lora:
        from rwkvgate.experiment.lora import add_lora  # PEFT takes seconds to import, and one arm needs it

        return add_lora(model)
    return model if gate is None else patch(model, gate)


def arm_rows(run: Run, texts: Texts, seed: int) -> list[list[int]]:
    """The rows that every arm of this seed is tuned on, in their order."""
    return document_rows(texts.encode(texts.corpus.train), run.settings.training, texts.tokenizer.bos_token_id, seed)


def ensure_arm(run: Run, arm: str, seed: int) -> Rwkv6ForCausalLM:
    """The model of an arm and seed, fine-tuned where the arm is and that is not done yet.

    Raises:
        FloatingPointError: its training diverged, now or when it was tried before. That is recorded: the same
            settings would diverge again.
        RuntimeError: one of `training.processes` failed; what they saved is gone on from.
    """
    alone = ranks.count() == 1
    if alone and run.settings.training.processes > 1 and find_arm(arm).trained and not _is_made(run, arm, seed):
        try:
            launch(run, arm, seed)
        except RuntimeError:
            _is_made(run, arm, seed)  # which says why, where training diverged
            raise
    else:
        make_arm(run, arm, seed)
    return load_arm(run, arm, seed)


def make_arm(run: Run, arm: str, seed: int) -> None:
    """Fine-tune an arm and seed in this process, or those launched together, where that is not done yet.

    Raises:
        FloatingPointError: as `ensure_arm`.
    """
    _make_together(run, run.arm(arm, seed), lambda: _is_made(run, arm, seed), lambda: _make_arm(run, arm, seed))


def _make_arm(run: Run, arm: str, seed: int) -> None:
    texts, model = ensure_texts(run), new_arm(run, arm, seed)
    started = time.monotonic()
    log = TrainingLog(history=[], steps=0, tokens=0, seconds=0.0)
    # Names, for a model that is spread over processes gets new parameters.
    kept = {id(p) for gate in gates_of(model) for p in gate.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in kept}
    if find_arm(arm).trained:
        log = _tune_or_record(run, model, texts, arm, seed)
        names |= {name for name, p in model.named_parameters() if p.requires_grad}
    changed = {name: whole(p).cpu() for name, p in model.named_parameters() if name in names}
    ranks.from_main(lambda: _write_arm(run, arm, seed, changed, log, started))


def _is_made(run: Run, arm: str, seed: int) -> bool:
    """Whether an arm and seed is finished; an error where it diverged.

    A failure with other settings is forgotten, and the checkpoints of a finished training are removed, where a run that
    was killed has left them.
    """
    path = run.failure(arm, seed)
    if said := failure_of(run, arm, seed):
        raise FloatingPointError(f"{said} (recorded in {path}; remove it to try again)")
    path.unlink(missing_ok=True)  # another training's
    made = is_finished(run.arm(arm, seed), arm_inputs(run.settings, arm, seed))
    if made:
        remove(_checkpoints(run, arm, seed))
    return made


def failure_of(run: Run, arm: str, seed: int) -> str:
    """Why an arm's training of these settings diverged; "" where it did not, or was not tried."""
    failed = read_json(run.failure(arm, seed))
    inputs = digest(arm_inputs(run.settings, arm, seed))
    return str(failed["error"]) if isinstance(failed, dict) and failed.get("inputs") == inputs else ""


def _write_arm(
    run: Run, arm: str, seed: int, weights: dict[str, torch.Tensor], log: TrainingLog, started: float
) -> None:
    inputs, obsolete = arm_inputs(run.settings, arm, seed), _checkpoints(run, arm, seed)
    with step(run.arm(arm, seed), "arm", inputs, started, obsolete) as fresh:
        save_file(weights, str(fresh / WEIGHTS))
        write_json(fresh / LOG, asdict(log))
    write_manifest(run)


def _tune_or_record(run: Run, model: Rwkv6ForCausalLM, texts: Texts, arm: str, seed: int) -> TrainingLog:
    try:
        return _tune(run, model, texts, arm, seed)
    except FloatingPointError as error:
        said = f"{arm}, seed {seed}: {error}"
        inputs = digest(arm_inputs(run.settings, arm, seed))
        ranks.from_main(lambda: write_json(run.failure(arm, seed), {"inputs": inputs, "error": said}))
        raise FloatingPointError(said) from error


def _tune(run: Run, model: Rwkv6ForCausalLM, texts: Texts, arm: str, seed: int) -> TrainingLog:
    schedule = run.settings.training
    select_trainable(model, schedule.scope)
    separator = texts.tokenizer.bos_token_id
    held_out = texts.encode(texts.corpus.validation[:VALIDATION_DOCUMENTS])
    return train(
        model,
        arm_rows(run, texts, seed),
        schedule,
        label=f"fine-tuning {arm}, seed {seed}",
        seed=seed,
        validation=[close_row(document, schedule.length, separator) for document in held_out],
        checkpoints=_checkpoints(run, arm, seed),
    )


def load_arm(run: Run, arm: str, seed: int) -> Rwkv6ForCausalLM:
    """The model of a finished arm and seed, in evaluation mode.

    Raises:
        SettingsError: its weights are missing, damaged, or another model's.
    """
    model = new_arm(run, arm, seed)
    path = run.arm(arm, seed) / WEIGHTS
    try:
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"{path} cannot be read ({error}). Remove {path.parent} and run again") from None
    own = dict(model.named_parameters())
    wrong = [name for name, x in weights.items() if name not in own or own[name].shape != x.shape]
    if wrong:
        raise SettingsError(f"{path} holds weights of another model: {', '.join(wrong[:3])}. Remove {path.parent}")
    for name, x in weights.items():
        own[name].data = own[name].data.to(x.dtype)  # what was trained in float32 stays so on a half base
    model.load_state_dict(weights, strict=False)
    return model.requires_grad_(False).eval()
