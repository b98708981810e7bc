"""Loading RWKV-6 from the hub, a folder or a `.pth` file: whole, or not at all.

transformers initialises what a file lacks and passes over what it does not know, with a warning at most; a
network that is half noise loads, runs and scores badly. Here every name, shape and value is checked, and
anything amiss is a `CheckpointError`. No code that comes with a checkpoint is run: pickles are read as tensors
only, and the network is this package's own.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig
from transformers import initialization as init

from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.hub import HUB_OPTIONS, Folder, HubUnreachableError, Repository, open_source
from rwkvgate.rwkv6.layouts import CheckpointError, sizes_of, some, to_hub_layout

if TYPE_CHECKING:
    from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where weights may lie, in the order in which they are looked for."""
FOREIGN_KEYS = ("auto_map", "architectures", "num_attention_heads", "transformers_weights")
"""Keys of a configuration that speak of the code and files beside it, or misstate what is derived."""
REFUSED = {
    "variant": "only the plain file names are read",
    "gguf_file": "load the checkpoint that it was made from",
    "ignore_mismatched_sizes": "weights of another shape would be left at random",
}
"""Options of transformers' own `from_pretrained` that cannot be had here, and why."""


def find_weights(source: Folder | Repository, use_safetensors: bool | None = None) -> list[Path]:
    """The files that hold the weights: one, or the shards that an index names.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    read = [name for name in WEIGHT_FILES if use_safetensors in (None, name.startswith("model"))]
    found = next((path for name in read if (path := source.find(name))), None)
    if found is None:
        raise CheckpointError(f"{source} holds no weights: none of {', '.join(read)}")
    if found.suffix != ".json":
        return [found]
    index = _read_json(found).get("weight_map")
    names = list(index.values()) if isinstance(index, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{found} is no index of shards: weight_map must name files beside it")
    paths = {name: source.find(name) for name in sorted(set(names))}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        raise CheckpointError(f"{found.name} names shards that {source} does not hold: {some(absent)}")
    return [path for path in paths.values() if path is not None]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled dictionary, mapped from the disk.

    Raises:
        CheckpointError: the file is damaged or holds anything but tensors by name. Code in it is not run.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        text = str(error).strip() or type(error).__name__
        if code := re.search(r"GLOBAL (\S+)", text):
            raise CheckpointError(
                f"{path} is a pickle that calls {code[1]}, and was refused without running it; "
                "tensors by name are all that is read"
            ) from None
        # torch's own message is long, and advises to run what the file holds.
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", text) or re.match("(.+)", text)
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors by name: {reason and reason[1]}. Nothing of it was run"
        ) from None
    values = found.values() if isinstance(found, dict) else [found]
    others = {type(value).__name__ for value in values if not isinstance(value, Tensor)}
    if others or not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {some(others)}; a dictionary of tensors by name is read")
    return {str(name): tensor for name, tensor in found.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}; it must be a JSON object")
    return found


def _read_config(source: Folder | Repository) -> dict[str, Any]:
    path = source.find(CONFIG)
    if path is None:
        if isinstance(source, Repository) and source.offline:
            raise HubUnreachableError(f"{source} holds no {CONFIG}")
        gate = source.find("gate.json")
        advice = "it holds a gate: load the base, then load_gate(model, folder)" if gate else "a .pth goes to load_pth"
        raise CheckpointError(f"{source} holds no {CONFIG}; {advice}")
    stated = _read_json(path)
    kind = stated.get("model_type", Rwkv6Config.model_type)
    if kind != Rwkv6Config.model_type:
        raise CheckpointError(f"{source} is of model_type {kind!r}; {Rwkv6Config.model_type!r} is read")
    activation = stated.get("hidden_act", "sqrelu")
    if activation != "sqrelu":  # a choice that flash-linear-attention offers
        raise CheckpointError(f"{source} is of hidden_act {activation!r}; RWKV-6 has 'sqrelu'")
    if "norm_eps" in stated:  # flash-linear-attention's name for it
        stated.setdefault("layer_norm_epsilon", stated["norm_eps"])
    return stated


def _settle_config(
    config: Any, stated: Mapping[str, Any], sizes: Mapping[str, int], where: str, options: dict[str, Any]
) -> tuple[Rwkv6Config, dict[str, Any]]:
    """The configuration with its sizes as the weights have them, and the options that it did not take."""
    wrong = [f"{key} {stated[key]} ({size})" for key, size in sizes.items() if stated.get(key) not in (None, size)]
    if wrong:
        raise CheckpointError(f"the configuration and the weights of {where} disagree: it states {', '.join(wrong)}")
    if isinstance(config, str | PathLike):
        config = Rwkv6Config.from_pretrained(config)
    if config is None:
        kept = {key: options.pop(key) for key in ("dtype", "torch_dtype") if key in options}
        values = {key: value for key, value in stated.items() if key not in FOREIGN_KEYS} | dict(sizes)
        try:
            config, options = Rwkv6Config.from_dict(values, return_unused_kwargs=True, **options)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise CheckpointError(f"the configuration of {where} cannot be read: {error}") from None
        return config, options | kept
    config = copy.deepcopy(config)
    for key, size in sizes.items():
        if getattr(config, key) != size and stated.get(key) is not None:
            raise CheckpointError(f"the config given has {key} {getattr(config, key)}; {where} has {size}")
        setattr(config, key, size)
    for key in FOREIGN_KEYS:
        config.__dict__.pop(key, None)
    config.num_attention_heads = sizes["attention_hidden_size"] // sizes["head_size"]
    if "norm_eps" in stated:
        config.layer_norm_epsilon = stated["layer_norm_epsilon"]
    return config, options


def _fit(cls: Any, config: Rwkv6Config, weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights under the names of `cls`, after a check that they are all there, and of its shapes."""
    with torch.device("meta"), init.no_init_weights():
        skeleton = cls(copy.deepcopy(config))
    prefix = "rwkv." if skeleton.base_model is skeleton else ""
    wanted = {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    # The network without its head may be taken out of the whole, and a tied head is the embeddings again.
    spare = {"head.weight"} if prefix or config.tie_word_embeddings else set()
    odd = [
        f"{name} {found[name]}, wanted {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    ]
    wrong = {
        "missing": some(wanted.keys() - found.keys() - spare),
        "not known": some(found.keys() - wanted.keys() - spare),
        "of another shape": some(odd),
    }
    if any(wrong.values()):
        listed = "; ".join(f"{kind}: {names}" for kind, names in wrong.items() if names)
        raise CheckpointError(f"the weights of {where} are not those of an RWKV-6 of its sizes. {listed}")
    return {name.removeprefix(prefix): weights[name] for name in wanted if name in weights}


def _build(cls: Any, config: Rwkv6Config, weights: Mapping[str, Tensor], where: str, *args: Any, **options: Any) -> Any:
    """A model of these weights by transformers, and its report, after a check that every weight was taken."""
    from rwkvgate.rwkv6.modeling import Rwkv6PreTrainedModel  # imports this module

    model, report = super(Rwkv6PreTrainedModel, cls).from_pretrained(
        None, *args, config=config, state_dict=_fit(cls, config, weights, where), output_loading_info=True, **options
    )
    left = {str(name) for key in ("missing_keys", "mismatched_keys") for name in report[key]}
    # Where accelerate spread the model over several places, some weights stand elsewhere until they are used.
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) < 2:
        left |= {name for name, tensor in model.named_parameters() if tensor.is_meta}
    if left:
        raise CheckpointError(f"loading {where} left weights unset: {some(left)}")
    wild = [
        f"{name} ({tensor.dtype})"
        for name, tensor in model.named_parameters()
        if tensor.is_floating_point() and not tensor.is_meta and not _is_finite(tensor)
    ]
    if wild:
        raise CheckpointError(f"{where} has values that are infinite or not numbers: {some(wild)}")
    return model, report


def _is_finite(tensor: Tensor) -> bool:
    # Both extremes are not numbers where one value is not. Ten times as fast as isfinite(), and without its copies.
    return all(bool(extreme.isfinite()) for extreme in tensor.detach().aminmax())


def load_checkpoint(cls: Any, name: str | PathLike[str] | None, *args: Any, **options: Any) -> Any:
    """What `from_pretrained` of this package's models does; see `Rwkv6PreTrainedModel.from_pretrained`."""
    for key, reason in REFUSED.items():
        if options.pop(key, None):
            raise ValueError(f"{key} cannot be used here: {reason}")
    for key in ("trust_remote_code", "weights_only"):
        options.pop(key, None)  # no code is run, whatever is asked
    hub = {key: options.pop(key) for key in HUB_OPTIONS if key in options}
    config, weights = options.pop("config", None), options.pop("state_dict", None)
    subfolder, use_safetensors = options.pop("subfolder", ""), options.pop("use_safetensors", None)
    report_wanted = options.pop("output_loading_info", False)
    commit, generation = None, None
    if weights is None and name is not None:
        source = open_source(name, subfolder, **hub)
        stated = _read_config(source)
        paths = find_weights(source, use_safetensors)
        where = f"{source} ({paths[0].name}{f' to {paths[-1].name}' if paths[1:] else ''})"
        weights = {key: tensor for path in paths for key, tensor in read_weights(path).items()}
        generation = _find_optional(source, GENERATION) if cls.can_generate() else None
        commit = source.commit
    elif weights is not None and config is not None:
        stated, where = config.to_dict(), "the state dictionary given"
    else:
        raise ValueError("give a folder or a name on the hub, or else both config and state_dict")
    weights = to_hub_layout(weights, where)
    config, options = _settle_config(config, stated, sizes_of(weights, where), where, options)
    if generation is not None:
        options.setdefault("generation_config", GenerationConfig.from_pretrained(generation.parent))
    model, report = _build(cls, config, weights, where, *args, **options)
    model.config._commit_hash = commit
    model.name_or_path = model.config.name_or_path = str(name or "")
    return (model, report) if report_wanted else model


def _find_optional(source: Folder | Repository, file: str) -> Path | None:
    try:
        return source.find(file)
    except HubUnreachableError:
        return None


def load_pth(path: str | PathLike[str], dtype: torch.dtype | str | None = None, **options: Any) -> Rwkv6ForCausalLM:
    """A model from BlinkDL's `.pth`, its sizes read off the weights, in evaluation mode.

    Args:
        path: the file; a pickle of tensors by BlinkDL's names.
        dtype: of the weights in memory; default: the file's.
        **options: of `from_pretrained`, such as device_map.

    Raises:
        CheckpointError: no such file, or none of a whole RWKV-6; code in it is not run.
    """
    from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM  # imports this module

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    weights = to_hub_layout(read_weights(path), str(path))
    config = Rwkv6Config(**sizes_of(weights, str(path)))
    model, _ = _build(Rwkv6ForCausalLM, config, weights, str(path), dtype=dtype, **options)
    model.name_or_path = model.config.name_or_path = str(path)
    return model


def loaded_commit(model: Any) -> str | None:
    """The hub's commit that a model was loaded from, whole; None where it was not loaded from the hub."""
    return getattr(model.config, "_commit_hash", None)
