"""A base that is given, as a checkpoint on the hub or in a folder; and where models are loaded to."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rwkvgate.experiment.inputs import base_inputs
from rwkvgate.experiment.run import CHECKPOINT, Run, is_finished, step, write_manifest
from rwkvgate.experiment.settings import CheckpointSettings, Settings, place_or_name
from rwkvgate.experiment.training import TrainingLog, ranks
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.checkpoints import loaded_commit
from rwkvgate.rwkv6.files import read_json, write_json
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM
from rwkvgate.rwkv6.vocabulary import IDS

LOG = "training.json"


def best_device() -> torch.device:
    """Where models of a run live: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def home_of(settings: Settings) -> torch.device:
    """Where a model is loaded: one that will be spread over the GPUs, for which one is too small, in main memory."""
    return torch.device("cpu") if settings.training.sharded and ranks.count() > 1 else best_device()


def ensure_checkpoint(run: Run, wanted: CheckpointSettings) -> Rwkv6ForCausalLM:
    """The checkpoint; its commit is recorded when it is first read, and asked for ever after."""
    started, source = time.monotonic(), place_or_name(wanted.checkpoint)
    known, files = ranks.from_main(lambda: _known_checkpoint(run, wanted, source))
    revision = (known or {}).get("commit") or wanted.revision or None
    kind = getattr(torch, wanted.dtype)
    try:
        with ranks.main_first():
            model = Rwkv6ForCausalLM.from_pretrained(source, revision=revision, dtype=kind)
        model = model.to(home_of(run.settings))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SettingsError(f"model.checkpoint {wanted.checkpoint!r} cannot be loaded: {error}") from None
    if model.config.vocab_size < IDS:
        raise SettingsError(
            f"model.checkpoint {wanted.checkpoint!r} has {model.config.vocab_size:,} entries; the World vocabulary, "
            f"which texts are written in, has {IDS:,}"
        )
    if known is None:
        found = {"checkpoint": wanted.checkpoint, "commit": loaded_commit(model), "files": files}
        ranks.from_main(lambda: _write_checkpoint(run, found, started))
    return model.eval()


def _known_checkpoint(
    run: Run, wanted: CheckpointSettings, source: str
) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
    """What the run recorded of its checkpoint, where it has read it before, and the hashes of its files now."""
    known = read_json(run.base / CHECKPOINT) if is_finished(run.base, base_inputs(run.settings)) else None
    files = _fingerprint(Path(source))
    if known is not None and known.get("files") != files:
        raise SettingsError(
            f"{wanted.checkpoint} is not what the run in {run.folder} began with: files have changed. "
            f"Give another run_dir, or remove {run.folder}"
        )
    return known, files


def _write_checkpoint(run: Run, found: dict[str, Any], started: float) -> None:
    with step(run.base, "base", base_inputs(run.settings), started) as fresh:
        write_json(fresh / CHECKPOINT, found)
        write_json(fresh / LOG, asdict(TrainingLog(history=[], steps=0, tokens=0, seconds=0.0)))
    write_manifest(run)


def _fingerprint(folder: Path) -> dict[str, str] | None:
    """SHA-256 of a local checkpoint's files; None for a name on the hub, whose commit says it all."""
    if not folder.is_dir():
        return None
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin"):
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
