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
from rwkvgate.gate.config import SITES, GateConfig
from rwkvgate.gate.families import family_of, home
from rwkvgate.gate.fingerprint import TrainedNorms, base_name, base_parameters, check_base, norm_parameters, probe_base
from rwkvgate.gate.layer import GatedShift, current_name
from rwkvgate.gate.patch import NORMS, gate_config, patch
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.rwkv6.files import digest, mark, read_object, write_folder, write_json
from rwkvgate.rwkv6.hub import HUB_OPTIONS, Folder, open_folder
from rwkvgate.rwkv6.layouts import DTYPES, some

FORMAT = 2
"""Of the record. Format 1 has no hash of the weights, and no seal."""
WEIGHTS, CONFIG, CARD = "gate.safetensors", "gate.json", "README.md"
BASE_PREFIX = "base."
"""Prefix of the base's norms among the weights."""
RECORD = {"gate": dict, "family": str, "hidden_size": int, "num_hidden_layers": int, "base": dict, "norms": bool}
SEALED = {"weights": dict, "seal": str}
"""The entries of a record and their types; the latter since format 2."""
JSON_NAMES = {dict: "an object", str: "a string", int: "a whole number", bool: "true or false"}


def placed_gates(model: PreTrainedModel) -> dict[str, GatedShift]:
    """The gates by name, `blocks.N.gated_shift`, `.gated_shift_time` or `.gated_shift_channel`."""
    family = family_of(model)
    return {
        f"blocks.{i}.{place}": gate
        for i, block in enumerate(family.blocks(model))
        for place, gate in family.placed(block).items()
    }


def gate_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The gates' parameters by name, such as `blocks.N.gated_shift.gating.linear.weight`."""
    return {
        f"{place}.{name}": tensor.detach()
        for place, gate in placed_gates(model).items()
        for name, tensor in gate.state_dict().items()
    }


def save_gate(
    model: PreTrainedModel, folder: str | Path, about: GateAbout | None = None, with_norms: bool | None = None
) -> Path:
    """Write the gate of a patched model to a folder, without the base, and return the folder.

    Its size is that of its parameters, in float32: about 400 MB for the paper's gate on the 1.6 B model, 26 MB for one
    of rank 64.

    The folder is written atomically, and replaces a gate of the same name. Beside the gate's weights it holds the
    config, the weights' SHA-256, a model card, the base's name on the hub, and one number of each of the base's
    weights, by which `load_gate` recognises the base.

    Args:
        model: a patched model.
        folder: a new folder, or one that holds a gate.
        about: corpus, training and results, for the record and the model card.
        with_norms: also write the base's normalisations, for a gate that was trained with them; default: where they
            came with a gate that was loaded, or are trained and the rest of the base is not.

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
        with_norms = hasattr(model, NORMS) or _trains_norms(model)
    norms = {name: p.detach() for name, p in norm_parameters(model).items()} if with_norms else {}
    if with_norms and not norms:
        raise ValueError("with_norms is True, and the base has no normalisation with weights")
    if foreign := [name for name, _ in model.named_parameters() if ".lora_" in name]:
        raise ValueError(f"the model carries other adapters too, such as {foreign[0]}; save or merge them first")
    folder = Path(folder).expanduser()
    _refuse_foreign(folder)
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
    json.dumps(record)  # refused before anything is written
    tensors = gate_tensors(model) | {BASE_PREFIX + key: x for key, x in norms.items()}
    card = model_card(record, sum(x.numel() for x in gate_tensors(model).values()))
    with write_folder(folder) as fresh:
        save_file({key: x.contiguous().cpu() for key, x in tensors.items()}, str(fresh / WEIGHTS))
        record["weights"] = mark(fresh / WEIGHTS)
        record["seal"] = _seal(record)
        write_json(fresh / CONFIG, record)
        (fresh / CARD).write_text(card, encoding="utf-8")
    return folder


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
    record = read_record(files)
    where = f"the gate in {files}"
    config = GateConfig.build(record["gate"], where=f"{CONFIG} of {files}")
    shape = {
        "family": family.name,
        "hidden_size": family.channels(model),
        "num_hidden_layers": len(family.blocks(model)),
    }
    for key, here in shape.items():
        if record[key] != here:
            raise SettingsError(f"{where} is for {key} {shown(record[key])}; the model has {here!r}")
    tensors = _read_weights(files, record.get("weights"))
    norms = {key.removeprefix(BASE_PREFIX): x for key, x in tensors.items() if key.startswith(BASE_PREFIX)}
    wrong = _unlike(norm_parameters(model) if record["norms"] else {}, norms)
    if wrong:
        raise SettingsError(f"the weights in {files} are not this gate's: {some(BASE_PREFIX + name for name in wrong)}")
    if check:
        check_base(model, record["base"].get("probe"), where)
    attach(model, config, {key: x for key, x in tensors.items() if not key.startswith(BASE_PREFIX)}, str(files))
    if norms:
        setattr(model, NORMS, TrainedNorms(model, norms))
    return model


def attach(model: PreTrainedModel, config: GateConfig, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Patch a model with gates of these weights, in place; on any error it is as it was.

    Args:
        tensors: by the names of `gate_tensors`, or by those of earlier versions.
        where: what an error calls their source.

    Raises:
        SettingsError: a tensor is missing, unknown, of another shape or type, or holds what the gate's type cannot.
        ValueError: as `patch` says.
    """
    family = family_of(model)
    blocks = family.blocks(model)
    # Shapes are compared before memory is taken: a small file may ask for any size.
    with torch.device("meta"):
        expected = GatedShift(config, family.channels(model), family.heads(model)).state_dict()
    places = [(i, place) for i in range(len(blocks)) for place in SITES[config.site]]
    given = {_current(name): x for name, x in tensors.items()}
    wanted = {f"blocks.{i}.{place}.{name}": x for i, place in places for name, x in expected.items()}
    if wrong := _unlike(wanted, given):
        raise SettingsError(f"the weights in {where} are not this gate's: {some(wrong)}")
    _check_values(given, where, home(blocks[0])["dtype"])
    patch(model, config)
    for place, gate in placed_gates(model).items():
        gate.load_state_dict({k.removeprefix(f"{place}."): x for k, x in given.items() if k.startswith(f"{place}.")})


def _current(name: str) -> str:
    """A tensor's name, `blocks.N.PLACE.PARAMETER`, with the parameter's name of today."""
    *place, parameter = name.split(".", 3)
    return ".".join((*place, current_name(parameter)))


def _unlike(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> set[str]:
    """Names that only one of the two has, or that differ in shape."""
    common = expected.keys() & given.keys()
    return (expected.keys() ^ given.keys()) | {name for name in common if expected[name].shape != given[name].shape}


def _check_values(tensors: Mapping[str, torch.Tensor], where: str, target: torch.dtype) -> None:
    """Refuse tensors that are no real numbers, or none that the target type can hold."""
    for name, x in sorted(tensors.items()):
        if x.dtype not in DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise SettingsError(f"{where} holds {name} as {x.dtype}; a gate's weights are one of {allowed}")
        if not bool(x.isfinite().all()):
            raise SettingsError(f"{where} is damaged: {name} holds values that are no numbers")
        if not bool(x.to(target).isfinite().all()):
            raise SettingsError(
                f"{where} holds {name} with values of up to {x.abs().max():.3g}, too large for {target}"
            )


def _read_weights(files: Folder, written: Mapping[str, Any] | None) -> dict[str, torch.Tensor]:
    """The tensors of a gate's file, once it is known to be the one that was written."""
    path = files.find(WEIGHTS)
    if path is None:
        raise SettingsError(f"{files} holds no {WEIGHTS}")
    try:
        if written is not None and (found := mark(path)) != written:
            raise SettingsError(
                f"{path} is damaged: it has {found['size']:,} bytes of SHA-256 {found['sha256']}, and {CONFIG} "
                f"records {shown(written.get('size'))} of {shown(written.get('sha256'))}"
            )
        tensors: dict[str, torch.Tensor] = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"{path} is damaged: {error}") from None
    _check_values(tensors, str(path), torch.float64)
    return tensors


def _refuse_foreign(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file()):
        raise SettingsError(f"{folder} holds something other than a gate; give a new folder, or a gate's to replace")


def _trains_norms(model: PreTrainedModel) -> bool:
    """Whether of the base the norms are trained, and nothing else, as `select_trainable` leaves it."""
    trained = {name for name, p in base_parameters(model).items() if p.requires_grad}
    return bool(trained) and trained <= norm_parameters(model).keys()


def read_record(files: Folder) -> dict[str, Any]:
    """The content of a gate's record, each entry of its type.

    Raises:
        SettingsError: there is none, or a damaged one, or one of a later format.
    """
    path = files.find(CONFIG)
    if path is None:
        raise SettingsError(f"{files} holds no {CONFIG}; a gate's folder is what save_gate writes")
    record = read_object(path, SettingsError)
    number = record.get("format")
    if type(number) is not int or not 1 <= number <= FORMAT:
        later = "; a newer rwkvgate wrote it" if type(number) is int and number > FORMAT else ""
        raise SettingsError(f"{path} is of format {shown(number)}{later}; this version reads formats 1 to {FORMAT}")
    sealed = number > 1 or "seal" in record
    entries = RECORD | (SEALED if sealed else {})
    if missing := entries.keys() - record.keys():
        raise SettingsError(f"{path} lacks {', '.join(sorted(missing))}")
    for key, kind in entries.items():
        if type(record[key]) is not kind:
            raise SettingsError(f"{path} is damaged: {key} is {shown(record[key])}; it must be {JSON_NAMES[kind]}")
    check_fields(record["gate"], f"gate in {path}")
    if sealed and record["seal"] != _seal(record):
        raise SettingsError(f"{path} is damaged: its entries are not those that were written; only about may be edited")
    return record


def _seal(record: Mapping[str, Any]) -> str:
    """A digest of a record but for what describes it."""
    return digest({key: value for key, value in record.items() if key not in ("about", "seal")})


def check_fields(fields: Any, where: str) -> dict[str, Any]:
    """The fields of a gate's config as JSON gave them, once they are single values by name.

    Raises:
        SettingsError: they are not.
    """
    if not isinstance(fields, dict):
        raise SettingsError(f"{where} is {shown(fields)}; it must be an object")
    if nested := [key for key, value in fields.items() if isinstance(value, (dict, list))]:
        raise SettingsError(f"{shown(nested[0])} of {where} is an object or a list; it must be one value")
    return fields
