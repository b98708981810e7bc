"""A saved gate: a folder with its weights as safetensors, a record as JSON and a model card.

Nothing of the base is in it but, on request, the norms that were trained with the gate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from rwkvgate.gate.card import GateAbout, model_card
from rwkvgate.gate.config import GateConfig
from rwkvgate.gate.families import family_of
from rwkvgate.gate.fingerprint import TrainedNorms, base_name, check_base, norm_parameters, probe_base
from rwkvgate.gate.layer import GatedShift
from rwkvgate.gate.patch import NORMS, gate_config, patch, unpatch
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_folder
from rwkvgate.rwkv6.hub import HUB_OPTIONS, Folder, open_folder

FORMAT = 1
WEIGHTS, CONFIG, CARD = "gate.safetensors", "gate.json", "README.md"
BASE_PREFIX = "base."
"""Prefix of the base's norms among the weights."""


def placed_gates(model: PreTrainedModel) -> dict[str, GatedShift]:
    """The gates by name, `blocks.N.gated_shift`, `.gated_shift_time` or `.gated_shift_channel`."""
    family = family_of(model)
    return {
        f"blocks.{i}.{place}": gate
        for i, block in enumerate(family.blocks(model))
        for place, gate in family.placed(block).items()
    }


def gate_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The gates' parameters by name, such as `blocks.N.gated_shift.gate.weight`."""
    return {
        f"{place}.{name}": tensor.detach()
        for place, gate in placed_gates(model).items()
        for name, tensor in gate.state_dict().items()
    }


def save_gate(
    model: PreTrainedModel, folder: str | Path, about: GateAbout | None = None, with_norms: bool | None = None
) -> Path:
    """Write the gate of a patched model to a folder, a few MB without the base, and return the folder.

    The folder is written atomically, and replaces a gate of the same name. Beside the gate's weights it holds the
    config, a model card, the base's name on the hub, and one number of each of the base's weights, by which
    `load_gate` recognises the base.

    Args:
        model: a patched model.
        folder: a new folder, or one that holds a gate.
        about: corpus, training and results, for the record and the model card.
        with_norms: also write the base's normalisations, for a gate that was trained with them; default: only where
            they came with a gate that was loaded.

    Raises:
        ValueError: the model is not patched, carries other adapters too, or has no norms to write.
        SettingsError: the folder holds something other than a gate.
        TypeError: `about` cannot be written as JSON. Nothing is written.

    Example:
        >>> import tempfile
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch, save_gate
        >>> sizes = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2}
        >>> model = patch(Rwkv6ForCausalLM(Rwkv6Config(**sizes)), GateConfig.preset("enhanced"))
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     sorted(path.name for path in save_gate(model, f"{scratch}/gate").iterdir())
        ['README.md', 'gate.json', 'gate.safetensors']
    """
    config, family = gate_config(model), family_of(model)
    if with_norms is None:
        with_norms = hasattr(model, NORMS)
    norms = {name: p.detach() for name, p in norm_parameters(model).items()} if with_norms else {}
    if with_norms and not norms:
        raise ValueError("with_norms is True, and the base has no normalisation with weights")
    if foreign := [name for name, _ in model.named_parameters() if ".lora_" in name]:
        raise ValueError(f"the model carries other adapters too, such as {foreign[0]}; save or merge them first")
    _refuse_foreign(Path(folder))
    name, revision = base_name(model)
    probe = {key: element for key, element in probe_base(model).items() if key not in norms}
    record = {
        "format": FORMAT,
        "gate": config.model_dump(),
        "family": family.name,
        "hidden_size": family.channels(model),
        "num_hidden_layers": len(family.blocks(model)),
        "base": {"model": name, "revision": revision, "probe": probe},
        "norms": with_norms,
        "about": asdict(about or GateAbout()),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    tensors = gate_tensors(model) | {BASE_PREFIX + key: x for key, x in norms.items()}
    card = model_card(record, sum(x.numel() for x in gate_tensors(model).values()))
    with write_folder(folder) as fresh:
        save_file({key: x.contiguous().cpu() for key, x in tensors.items()}, str(fresh / WEIGHTS))
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        (fresh / CARD).write_text(card, encoding="utf-8")
    return Path(folder)


def load_gate(
    model: PreTrainedModel, source: str | PathLike[str], *, check: bool = True, **options: Any
) -> PreTrainedModel:
    """Patch an unpatched base with a saved gate, in place, and return it.

    On any error the base is as it was. `unpatch` takes off everything that was loaded, norms too.

    Args:
        model: the base that the gate was trained on, unpatched.
        source: a folder that `save_gate` wrote, or a repository's name on the hub, "owner/name".
        check: refuse a base whose weights are not those of the base that the gate was saved on.
        **options: where to look on the hub: revision, token, cache_dir, force_download, local_files_only.

    Raises:
        CheckpointError: there is no such folder or repository, or the hub cannot be reached. An `OSError`.
        SettingsError: it holds no gate, a damaged one, one of a later format, or one of another base.
        TypeError: the model is of no known family, or an option is unknown.
        ValueError: the model is patched already, or in a state that its family cannot gate.

    Example:
        >>> import tempfile, torch
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, load_gate, patch, save_gate, unpatch
        >>> sizes = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2}
        >>> base = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).eval()
        >>> ids = torch.tensor([[3, 1, 4]])  # (batch, time)
        >>> gated = patch(base, GateConfig.preset("enhanced"))(ids).logits
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     folder = save_gate(base, f"{scratch}/gate")
        ...     torch.equal(load_gate(unpatch(base), folder)(ids).logits, gated)
        True
    """
    family = family_of(model)  # refuses a foreign model before its config is read
    if unknown := set(options) - set(HUB_OPTIONS):
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}; allowed are check, {', '.join(HUB_OPTIONS)}")
    files = open_folder(source, [CONFIG, WEIGHTS], **options)
    record = _read_record(files)
    where = f"the gate in {files}"
    config = GateConfig.build(record["gate"], where=f"{CONFIG} of {files}")
    shape = {
        "family": family.name,
        "hidden_size": family.channels(model),
        "num_hidden_layers": len(family.blocks(model)),
    }
    for key, here in shape.items():
        if record[key] != here:
            raise SettingsError(f"{where} is for {key} {record[key]}; the model has {here}")
    tensors = _read_weights(files)
    norms = {key.removeprefix(BASE_PREFIX): x for key, x in tensors.items() if key.startswith(BASE_PREFIX)}
    own_norms = norm_parameters(model)
    expected_norms = own_norms if record["norms"] else {}
    wrong = {BASE_PREFIX + name for name in _unlike(expected_norms, norms)}
    if not wrong and check:
        base = record.get("base")
        check_base(model, base.get("probe") if isinstance(base, dict) else None, where)
    patch(model, config)
    given = {key: x for key, x in tensors.items() if not key.startswith(BASE_PREFIX)}
    wrong |= _unlike(gate_tensors(model), given)
    if wrong:
        unpatch(model)
        raise SettingsError(f"the weights in {files} are not this gate's: {', '.join(sorted(wrong)[:4])}")
    for place, gate in placed_gates(model).items():
        gate.load_state_dict({k.removeprefix(f"{place}."): x for k, x in given.items() if k.startswith(f"{place}.")})
    if norms:
        setattr(model, NORMS, TrainedNorms(model, norms))
    return model


def _unlike(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> set[str]:
    """Names that only one of the two has, or that differ in shape."""
    common = expected.keys() & given.keys()
    return (expected.keys() ^ given.keys()) | {name for name in common if expected[name].shape != given[name].shape}


def _read_weights(files: Folder) -> dict[str, torch.Tensor]:
    path = files.find(WEIGHTS)
    if path is None:
        raise SettingsError(f"{files} holds no {WEIGHTS}")
    try:
        tensors: dict[str, torch.Tensor] = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"{path} is damaged: {error}") from None
    if broken := [name for name, x in tensors.items() if not bool(x.isfinite().all())]:
        raise SettingsError(f"{path} is damaged: {sorted(broken)[0]} holds values that are no numbers")
    return tensors


def _refuse_foreign(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file()):
        raise SettingsError(f"{folder} holds something other than a gate; give a new folder, or a gate's to replace")


def _read_record(files: Folder) -> dict[str, Any]:
    path = files.find(CONFIG)
    if path is None:
        raise SettingsError(f"{files} holds no {CONFIG}; a gate's folder is what save_gate writes")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path} is damaged: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        number = record.get("format") if isinstance(record, dict) else type(record).__name__
        later = "; a newer rwkvgate wrote it" if isinstance(number, int) and number > FORMAT else ""
        raise SettingsError(f"{path} is of format {number!r}{later}; this version reads format {FORMAT}")
    missing = {"gate", "family", "hidden_size", "num_hidden_layers", "base", "norms"} - record.keys()
    if missing:
        raise SettingsError(f"{path} lacks {', '.join(sorted(missing))}")
    return record
