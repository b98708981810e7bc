"""The base model of a run: pretrained on natural text, or a given checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from rwkvgate.experiment import order
from rwkvgate.experiment.corpora.tokenizer import save_tokenizer
from rwkvgate.experiment.order import LOG, Step
from rwkvgate.experiment.places import place_or_name
from rwkvgate.experiment.run import CHECKPOINT, Run
from rwkvgate.experiment.settings import CheckpointSettings, ModelSettings, Settings
from rwkvgate.experiment.steps.kept import kept, read_model
from rwkvgate.experiment.steps.making import Write, complete, makes, read_value
from rwkvgate.experiment.steps.texts import ensure_texts
from rwkvgate.experiment.training import TrainingLog, pack_rows, ranks, train
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.checkpoints import loaded_commit
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import file_hash, read_json, write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.rwkv6.vocabulary import IDS

BASE_SEED = 0
"""All arms and seeds share one base, so its own seed is not a parameter."""
VALIDATION_BLOCKS = 128
"""Blocks of held-out text for the validation loss during pretraining."""


def best_device() -> torch.device:
    """The device for the models of a run: the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ensure_base(run: Run) -> Rwkv6ForCausalLM:
    """The base model in evaluation mode; pretrains or downloads it first if it is not finished.

    Raises:
        SettingsError: its files are missing or damaged, or the checkpoint cannot be loaded.
    """
    if folder := kept(run, "base"):
        return read_model(folder)
    folder, model = complete(order.base(run)), run.settings.model
    if isinstance(model, CheckpointSettings):
        return _load_checkpoint(run, folder, model)
    try:
        loaded = Rwkv6ForCausalLM.from_pretrained(folder, local_files_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"the base in {folder} cannot be read ({error}). Remove that folder and run {run.command()}"
        ) from None
    return loaded.to(_home(run.settings)).eval()


def new_base(model: ModelSettings, tokenizer: PreTrainedTokenizerBase, seed: int = BASE_SEED) -> Rwkv6ForCausalLM:
    """An untrained base of the settings' size, initialised from the seed."""
    sizes = model.model_dump(exclude={"pretraining", "vocab_size"})
    torch.manual_seed(seed)
    return Rwkv6ForCausalLM(Rwkv6Config(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, **sizes))


def read_log(step: Step) -> TrainingLog:
    """The log of a base's pretraining or an arm's fine-tuning; it has no steps if nothing was trained."""
    return TrainingLog(**read_value(step, LOG))


@makes("base")
def _make_base(step: Step) -> Write:
    model = step.run.settings.model
    return _record_checkpoint(step, model) if isinstance(model, CheckpointSettings) else _pretrain(step, model)


def _pretrain(step: Step, sizes: ModelSettings) -> Write:
    texts, schedule = ensure_texts(step.run), sizes.pretraining
    model, separator = new_base(sizes, texts.tokenizer), texts.tokenizer.bos_token_id
    held_out = _blocks(texts.encode(texts.corpus.natural_validation), schedule.length, separator)
    log = train(
        model,
        pack_rows(texts.encode(texts.corpus.natural_train), schedule, separator, BASE_SEED),
        schedule,
        label="pretraining",
        seed=BASE_SEED,
        validation=held_out[:VALIDATION_BLOCKS],
        checkpoints=step.checkpoints,
    )

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        save_tokenizer(texts.tokenizer, folder)
        write_json(folder / LOG, asdict(log))

    return write


def _blocks(documents: Sequence[Sequence[int]], length: int, separator: int) -> list[list[int]]:
    stream = [token for document in documents for token in (separator, *document)]
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)] or [stream]


def _home(settings: Settings) -> torch.device:
    """The device to load a model on: main memory for a model to be sharded, which one GPU may not hold."""
    return torch.device("cpu") if settings.training.sharded and ranks.count() > 1 else best_device()


def _record_checkpoint(step: Step, given: CheckpointSettings) -> Write:
    """Read a checkpoint for the first time, and record its commit and file hashes, which later readings must match."""
    files = ranks.from_main(lambda: _fingerprint(Path(place_or_name(given.checkpoint))))
    model = _read_checkpoint(given, given.revision or None, step.run.settings)
    record = {"checkpoint": given.checkpoint, "commit": loaded_commit(model), "files": files}
    nothing = TrainingLog(history=[], steps=0, tokens=0, seconds=0.0)

    def write(folder: Path) -> None:
        write_json(folder / CHECKPOINT, record)
        write_json(folder / LOG, asdict(nothing))

    return write


def _load_checkpoint(run: Run, folder: Path, given: CheckpointSettings) -> Rwkv6ForCausalLM:
    record: dict[str, Any] = ranks.from_main(lambda: read_json(folder / CHECKPOINT))
    files = ranks.from_main(lambda: _fingerprint(Path(place_or_name(given.checkpoint))))
    if record.get("files") != files:
        raise SettingsError(
            f"{given.checkpoint} is not what the run in {run.folder} began with: files have changed. "
            f"Give another run_dir, or remove {run.folder}"
        )
    return _read_checkpoint(given, record.get("commit") or given.revision or None, run.settings).eval()


def _read_checkpoint(given: CheckpointSettings, revision: str | None, settings: Settings) -> Rwkv6ForCausalLM:
    try:
        with ranks.main_first():
            model = Rwkv6ForCausalLM.from_pretrained(
                place_or_name(given.checkpoint), revision=revision, dtype=getattr(torch, given.dtype)
            )
        model = model.to(_home(settings))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SettingsError(f"model.checkpoint {given.checkpoint!r} cannot be loaded: {error}") from None
    if model.config.vocab_size < IDS:
        raise SettingsError(
            f"model.checkpoint {given.checkpoint!r} has {model.config.vocab_size:,} entries; the World vocabulary, "
            f"which texts are written in, has {IDS:,}"
        )
    return model


def _fingerprint(folder: Path) -> dict[str, str] | None:
    """SHA-256 of each file of a local checkpoint; None for a name on the hub, which its commit identifies."""
    if not folder.is_dir():
        return None
    kept = (".json", ".safetensors", ".bin")
    return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.suffix in kept}
