"""A gate on disk: the gate's own weights as safetensors, its config beside them as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from rwkvgate.files import write_folder
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.patch import blocks_of, gate_config, gates_of, patch, unpatch
from rwkvgate.settings import SettingsError

FORMAT = 1
WEIGHTS, CONFIG = "gate.safetensors", "gate.json"


def gate_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The gates' parameters by name, `blocks.N.gated_shift.{gate,norm}.{weight,bias}` and `.gate_scale`."""
    return {
        f"blocks.{i}.gated_shift.{name}": tensor.detach()
        for i, gate in enumerate(gates_of(model))
        for name, tensor in gate.state_dict().items()
    }


def save_gate(model: PreTrainedModel, folder: str | Path) -> Path:
    """Write the gate of a patched model, and nothing of its base, to a folder; return the folder.

    The folder appears whole or not at all; one that stands there is replaced.

    Raises:
        ValueError: the model is not patched.
    """
    record = {
        "format": FORMAT,
        "gate": gate_config(model).model_dump(),
        "hidden_size": model.config.hidden_size,
        "num_hidden_layers": model.config.num_hidden_layers,
        "base_model_type": model.config.model_type,
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in gate_tensors(model).items()}
    with write_folder(folder) as fresh:
        # A fixed gate without a norm has no parameters, and still is a gate.
        save_file(tensors, str(fresh / WEIGHTS))
        (fresh / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def load_gate(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Patch an unpatched base with the gate saved in a folder, in place, and return it.

    Everything is checked before the base is touched: on any error it is what it was.

    Raises:
        SettingsError: the folder holds no gate, a damaged one, or one of another format or base.
        TypeError: the model is no RWKV-6 of this package.
        ValueError: the model is patched already.
    """
    blocks_of(model)  # refuses a foreign model before its config is asked
    folder = Path(folder)
    record = _read_record(folder)
    config = GateConfig.build(record["gate"], where=str(folder / CONFIG))
    for key in ("hidden_size", "num_hidden_layers"):
        here = getattr(model.config, key)
        if record[key] != here:
            raise SettingsError(f"the gate in {folder} is for {key} {record[key]}; the model has {here}")
    try:
        tensors = load_file(str(folder / WEIGHTS))
    except FileNotFoundError:
        raise SettingsError(f"{folder} holds no {WEIGHTS}") from None
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"{folder / WEIGHTS} is damaged: {error}") from None
    patch(model, config)
    wanted = gate_tensors(model)
    wrong = {name for name in wanted.keys() | tensors.keys() if not _alike(wanted.get(name), tensors.get(name))}
    if wrong:
        unpatch(model)
        raise SettingsError(f"the weights in {folder} are not this gate's: {', '.join(sorted(wrong)[:4])}")
    for i, gate in enumerate(gates_of(model)):
        prefix = f"blocks.{i}.gated_shift."
        own = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        gate.load_state_dict(own)
    return model


def _alike(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    return left is not None and right is not None and left.shape == right.shape


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise SettingsError(f"{folder} holds no {CONFIG}; a gate's folder is what save_gate writes") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path} is damaged: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise SettingsError(f"{path} is of format {found!r}; this version reads format {FORMAT}")
    missing = {"gate", "hidden_size", "num_hidden_layers"} - record.keys()
    if missing:
        raise SettingsError(f"{path} lacks {', '.join(sorted(missing))}")
    return record
