"""Models that a committed run keeps in place of its steps: float16 weights of few arms, tokenizer, test documents.

`make reference` writes them. Their own record is verified, and not the inputs of steps: these hold on one machine, with
its versions of the packages whose texts are read.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from rwkvgate.experiment.corpora.build import Corpus
from rwkvgate.experiment.corpora.documents import read_documents
from rwkvgate.experiment.records import KEPT, difference, read_sealed, unknown_files
from rwkvgate.experiment.run import MANIFEST, MODELS, Run, Variant, read_manifest
from rwkvgate.experiment.settings import Settings
from rwkvgate.gate.validation import SettingsError, validate
from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

ARMS = ("enhanced", "base", "base-tuned")
"""The arms that are kept, with seed 0. An untrained one is made of the base."""
LARGEST = 12_000_000
"""Bytes of all kept files."""
TEXTS, TEST = "texts", "test.jsonl"


def kept(run: Run, part: str = "") -> Path | None:
    """The folder of a part of what a run keeps, once all of it is what its record says; None where nothing is kept.

    Args:
        part: `TEXTS`, or an arm's name.

    Raises:
        SettingsError: what is kept is damaged, or was made with other settings, or holds no such part.
    """
    folder = run.folder / MODELS
    if not folder.is_dir():
        return None
    files = (read_sealed(folder / KEPT) or {}).get("files", {})
    wrong = difference(folder, files) if files else f"{KEPT} is missing or damaged"
    if not wrong and (unknown := unknown_files(folder, [*files, KEPT])):
        wrong = f"{unknown[0]} is not among what was kept"
    if wrong:
        raise SettingsError(f"{folder} is damaged: {wrong}. Restore it from git, or give another run_dir")
    saved = (read_manifest(run.folder).get("settings") or {}) | {"run_dir": run.settings.run_dir}
    made = validate(Settings, saved, where=str(run.folder / MANIFEST))
    for name in ("model", "corpus", "gate", "training"):
        if getattr(made, name) != getattr(run.settings, name):
            raise SettingsError(
                f"{folder} was made with other settings of {name}, and what is kept is not trained again. "
                "Leave them as they are, or give another run_dir"
            )
    if not (folder / part).is_dir():
        raise SettingsError(f"{folder} keeps {', '.join(ARMS)} with seed 0, and not {part}; give another run_dir")
    return folder / part


def kept_variants(run: Run) -> list[Variant]:
    """The arms of a run that keeps its models: those kept, and the untrained gate over the base."""
    return [run.variant(arm) for arm in ("enhanced", "enhanced-untrained", "base", "base-tuned")]


def read_texts(folder: Path) -> Corpus:
    """The kept test documents; all other parts are empty."""
    return Corpus([], [], read_documents(folder / TEST), [], [])


def read_model(folder: Path) -> Rwkv6ForCausalLM:
    """A kept model in float32, in evaluation mode.

    Raises:
        SettingsError: it cannot be read.
    """
    import torch

    try:
        model = Rwkv6ForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise SettingsError(f"the model in {folder} cannot be read ({error}). Restore it from git") from None
    return model.requires_grad_(False).eval()
