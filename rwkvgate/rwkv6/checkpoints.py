"""Strict loading of RWKV-6 checkpoints, from the hub, a folder or a `.pth` file: all weights, or an error.

transformers initialises at random what a file lacks and ignores what it does not know, with a warning at most; such
a network loads, runs and scores badly. Here every name, shape and value is checked, and anything amiss is a
`CheckpointError`. No code that comes with a checkpoint is run: pickles are read as tensors only, and the network is
this package's own.
"""

from __future__ import annotations

import copy
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers import initialization as init

from rwkvgate.rwkv6.configuration import Rwkv6Config, check_dtype
from rwkvgate.rwkv6.files import read_object
from rwkvgate.rwkv6.hub import HUB_OPTIONS, Folder, open_folder
from rwkvgate.rwkv6.layouts import GATE, CheckpointError, layout_keys, sizes_of, some, to_hub_layout

CONFIG, GENERATION = "config.json", "generation_config.json"
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights, or the index of their shards; the first that exists is read, safetensors before pickles."""
attach_gates: Callable[[Any, object, Mapping[str, Tensor], str], None] | None = None
"""Patches a loaded base with the gates of its checkpoint; `rwkvgate.gate.pretrained` sets it."""
DERIVED_KEYS = ("architectures", "num_attention_heads")
"""Keys of a configuration that are known without it, and misstated in the hub's files."""
KEYS = {field.name for field in fields(Rwkv6Config)} - {*DERIVED_KEYS} | {"torch_dtype"}
"""Keys that are read from a file's configuration. Others name code, kernels or files to fetch, or mean nothing here."""
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Keys of token ids, in the configurations of the model and of its generation."""
NUMBERS = (
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences", "top_k"),
    *("top_p", "min_p", "typical_p", "temperature", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
)
"""Keys of a generation's configuration that hold a number; transformers looks at few of their types."""
KERNELS = ("attn_implementation", "experts_implementation")
"""Options that are left to transformers: RWKV-6 has no attention and no experts."""
REFUSED = {
    "variant": "only the plain file names are read",
    "gguf_file": "load the checkpoint that it was made from",
    "ignore_mismatched_sizes": "weights of another shape would be left at random",
}
"""Options of transformers' own `from_pretrained` that are refused here, and why."""


def open_checkpoint(
    name: str | PathLike[str], use_safetensors: bool | None = None, subfolder: str = "", **options: Any
) -> tuple[Folder, list[Path]]:
    """A checkpoint's folder, downloaded where need be, and its files of weights: one, or the shards of an index.

    Args:
        name: a folder, or a repository on the hub.
        use_safetensors: False reads pickles only, True safetensors only.
        **options: `HUB_OPTIONS`.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or what `open_folder` refuses.
    """
    if use_safetensors not in (None, True, False):
        raise ValueError(f"use_safetensors is {use_safetensors!r}; it must be True, False or None")
    formats = {None: (SAFETENSORS, PICKLES), True: (SAFETENSORS,), False: (PICKLES,)}[use_safetensors]
    for names in formats:
        folder = open_folder(name, [CONFIG, GENERATION, *names], subfolder, **options)
        if folder.find(CONFIG) is None:
            gate = folder.find("gate.json")
            advice = "it holds a gate: load the base, then load_gate(model, folder)" if gate else "load_pth reads .pth"
            raise CheckpointError(f"{folder} holds no {CONFIG}; {advice}")
        if folder.commit:
            options["revision"] = folder.commit  # whatever is opened next is of the same commit
        for path in filter(None, map(folder.find, names)):
            if path.suffix != ".json":
                return folder, [path]
            shards = _shards(path)
            beside = open_folder(name, shards, subfolder, **options)  # the names are plain: no pattern, no path
            paths = {file: beside.find(file) for file in shards}
            if missing := [file for file, shard in paths.items() if shard is None]:
                raise CheckpointError(f"{path.name} names shards that {folder} does not hold: {some(missing)}")
            return folder, [shard for shard in paths.values() if shard is not None]
    raise CheckpointError(f"{folder} holds no weights: none of {', '.join(sum(formats, ()))}")


def _shards(index: Path) -> list[str]:
    """The names of the files that an index of shards lists."""
    weight_map = read_object(index, CheckpointError).get("weight_map")
    suffix = Path(index.stem.removesuffix(".index")).suffix
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    plain = re.compile(rf"[\w.-]+{re.escape(suffix)}")
    if not names or any(not isinstance(name, str) or not plain.fullmatch(name) for name in names):
        raise CheckpointError(f"{index} is no index of shards: weight_map must name files beside it, {suffix}")
    return sorted(set(names))


def remove_outdated(folder: Path, saved: Collection[str]) -> None:
    """Remove the weights of an earlier save where others were saved since; they might be read in their place.

    Args:
        saved: the names of the files of the later save.
    """
    weights = re.compile(r"model(-\d{5}-of-\d{5}\.safetensors|\.safetensors(\.index\.json)?)")
    if any(map(weights.fullmatch, saved)):  # a process that is not the main one saves none
        for path in folder.iterdir():
            if weights.fullmatch(path.name) and path.name not in saved:
                path.unlink(missing_ok=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled dictionary, mapped from the disk.

    Raises:
        CheckpointError: the file is damaged or holds anything but tensors by name. Code in it is not run.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle may raise any
        text = str(error).strip() or type(error).__name__
        if code := re.search(r"GLOBAL (\S+)", text):
            raise CheckpointError(
                f"{path} is a pickle that calls {code[1]}, and was refused without running it; "
                "tensors by name are all that is read"
            ) from None
        # torch's own message is long, and advises to run the code in the file.
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", text) or re.match("(.+)", text)
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors by name: {reason and reason[1]}. Nothing of it was run"
        ) from None
    values = content.values() if isinstance(content, dict) else [content]
    others = {type(value).__name__ for value in values if not isinstance(value, Tensor)}
    if others or not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {some(others)}; a dictionary of tensors by name is read")
    # A tensor of stride 0 is larger than its storage. Tied weights share one, so the file may count twice.
    if sum(x.numel() * x.element_size() for x in values) > 2 * path.stat().st_size:
        largest = max(content.items(), key=lambda item: item[1].numel() * item[1].element_size())
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes, and its tensors ask for more, such as {largest[0]} of shape "
            f"{tuple(largest[1].shape)}"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _read_config(folder: Folder) -> dict[str, Any]:
    """The keys of a checkpoint's configuration, once they are known to be an RWKV-6's."""
    stated = read_object(folder.path / CONFIG, CheckpointError)
    model_type = stated.get("model_type", Rwkv6Config.model_type)
    if model_type != Rwkv6Config.model_type:
        raise CheckpointError(f"{folder} is of model_type {model_type!r}; {Rwkv6Config.model_type!r} is read")
    activation = stated.get("hidden_act", "sqrelu")
    if activation != "sqrelu":  # flash-linear-attention offers others
        raise CheckpointError(f"{folder} is of hidden_act {activation!r}; RWKV-6 has 'sqrelu'")
    if stated.get("quantization_config"):
        raise CheckpointError(
            f"{folder} is quantized (quantization_config); load the weights that it was made from, and quantize them "
            "with the option quantization_config"
        )
    if "norm_eps" in stated:  # flash-linear-attention's name for it
        stated.setdefault("layer_norm_epsilon", stated["norm_eps"])
    return stated


def _settle_config(
    config: Any,
    stated: Mapping[str, Any],
    sizes: Mapping[str, int],
    layout: Mapping[str, int],
    where: str,
    options: dict[str, Any],
) -> tuple[Rwkv6Config, dict[str, Any]]:
    """The configuration with the sizes of the weights, and the options that are no keys of it.

    `layout` holds defaults of the weights' layout, for keys that neither files nor caller state.
    """
    wrong = [f"{key} {stated[key]} ({size})" for key, size in sizes.items() if stated.get(key) not in (None, size)]
    if wrong:
        raise CheckpointError(f"the configuration and the weights of {where} disagree: it states {', '.join(wrong)}")
    if isinstance(config, str | PathLike):
        config = Rwkv6Config.from_pretrained(config)
    if config is None:
        others = {key: options.pop(key) for key in ("dtype", "torch_dtype", *KERNELS) if key in options}
        values = dict(layout) | {key: value for key, value in stated.items() if key in KEYS} | dict(sizes)
        try:
            config, options = Rwkv6Config.from_dict(values, return_unused_kwargs=True, **options)
        except (ValueError, TypeError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the configuration of {where} cannot be read: {reason}") from None
        return config, options | others
    if not isinstance(config, Rwkv6Config):
        raise ValueError(f"config is a {type(config).__name__}; it must be a Rwkv6Config, or the name of its folder")
    config = copy.deepcopy(config)
    for key, size in sizes.items():
        if getattr(config, key) != size and stated.get(key) is not None:
            raise CheckpointError(f"the config given has {key} {getattr(config, key)}; {where} has {size}")
        setattr(config, key, size)
    for key in (*DERIVED_KEYS, *(stated.keys() - KEYS - vars(Rwkv6Config()).keys())):
        config.__dict__.pop(key, None)
    for key, value in layout.items():
        if key not in stated and getattr(config, key) == getattr(Rwkv6Config, key):
            setattr(config, key, value)
    config.num_attention_heads = sizes["attention_hidden_size"] // sizes["head_size"]
    if "norm_eps" in stated:
        config.layer_norm_epsilon = stated["layer_norm_epsilon"]
    return config, options


def _read_generation(path: Path) -> GenerationConfig:
    stated = read_object(path, CheckpointError)
    worded = [f"{key} {stated[key]!r}" for key in NUMBERS if isinstance(stated.get(key), str | list | dict)]
    if worded:
        raise CheckpointError(f"{path} is no configuration of generation: {some(worded)}; numbers are allowed")
    try:
        Rwkv6Config(**{key: stated[key] for key in TOKENS if key in stated})  # looks at their types
        return GenerationConfig.from_dict(stated)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is no configuration of generation: {reason}") from None


def _fit(cls: Any, config: Rwkv6Config, weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights under the names of `cls`, once all are known to be there and of its shapes."""
    with torch.device("meta"), init.no_init_weights():
        skeleton = cls(copy.deepcopy(config))
    prefix = "rwkv." if skeleton.base_model is skeleton else ""
    expected = {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    # A network without a head ignores the head's weight, and a tied head is the embeddings again.
    spare = {"head.weight"} if prefix or config.tie_word_embeddings else set()
    common = expected.keys() & given.keys()
    faults = {
        "missing": expected.keys() - given.keys() - spare,
        "not known": given.keys() - expected.keys() - spare,
        "of another shape": {
            f"{name} {given[name]} instead of {expected[name]}" for name in common if given[name] != expected[name]
        },
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {some(names)}" for fault, names in faults.items() if names)
        raise CheckpointError(f"the weights of {where} are not those of an RWKV-6 of its sizes. {listed}")
    return {name.removeprefix(prefix): weights[name] for name in expected if name in weights}


def _check_loaded(model: Any, weights: Mapping[str, Tensor], report: Mapping[str, Any], where: str) -> None:
    """Refuse a model with a weight that was not set, or that is no finite number, here or in `weights`, its source."""
    unset = {str(name) for key in ("missing_keys", "mismatched_keys") for name in report[key]}
    # Where accelerate spread the model over several devices, some weights stand elsewhere until they are used.
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) < 2:
        unset |= {name for name, tensor in model.named_parameters() if tensor.is_meta}
    if unset:
        raise CheckpointError(f"loading {where} left weights unset: {some(unset)}")
    # A quantized weight has no extremes, and its source is looked at.
    loaded = {name: x for name, x in model.named_parameters() if type(x) is nn.Parameter and type(x.data) is Tensor}
    chosen = {name: loaded.get(name, tensor) for name, tensor in weights.items()}
    wild = [f"{name} ({x.dtype})" for name, x in chosen.items() if not x.is_meta and not _is_finite(x)]
    if wild:
        beyond = ", or beyond float32" if any("float64" in name for name in wild) else ""
        raise CheckpointError(f"{where} has values that are infinite or not numbers{beyond}: {some(wild)}")


def _is_finite(tensor: Tensor) -> bool:
    # Both extremes are not numbers where one value is not. Ten times as fast as isfinite(), and without its copies.
    return all(bool(extreme.float().isfinite()) for extreme in tensor.detach().aminmax())


def load_checkpoint(
    cls: Any, build: Callable[..., Any], name: str | PathLike[str] | None, *args: Any, **options: Any
) -> Any:
    """What `from_pretrained` of this package's models does; see `Rwkv6PreTrainedModel.from_pretrained`.

    Args:
        cls: the class of the model.
        build: transformers' own `from_pretrained` of that class.
        name: a folder, or a repository on the hub; beside `config` and `state_dict`, only a name for errors.
    """
    for key, reason in REFUSED.items():
        if options.pop(key, None):
            raise ValueError(f"{key} cannot be used here: {reason}")
    for key in ("trust_remote_code", "weights_only"):
        options.pop(key, None)  # no code is run, whatever is asked
    for key in ("dtype", "torch_dtype"):
        given = options.get(key)
        for dtype in given.values() if isinstance(given, dict) else [given]:  # by parts of a model, of which it has one
            check_dtype(dtype, "auto")
    hub = {key: options.pop(key) for key in (*HUB_OPTIONS, "subfolder", "use_safetensors") if key in options}
    config, weights = options.pop("config", None), options.pop("state_dict", None)
    return_report = options.pop("output_loading_info", False)
    folder = None
    if weights is None and name is not None:
        folder, paths = open_checkpoint(name, **hub)
        stated = _read_config(folder)
        where = f"{folder} ({paths[0].name}{f' to {paths[-1].name}' if paths[1:] else ''})"
        weights = {}
        for path in paths:
            part = read_weights(path)
            if twice := weights.keys() & part.keys():
                raise CheckpointError(f"two shards of {folder} hold the same weights: {some(twice)}")
            weights |= part
    elif weights is not None and config is not None:
        stated, where = config.to_dict(), str(name or "the state dictionary given")
    else:
        raise ValueError("give a folder or a name on the hub, or else both config and state_dict")
    gate, gates = stated.get(GATE), {}
    if gate is not None:
        if attach_gates is None:
            raise CheckpointError(f"{where} holds a patched model; import rwkvgate.gate.pretrained to load it")
        gates = {name: weights[name] for name in weights if GATE in name}
        weights = {name: weights[name] for name in weights.keys() - gates.keys()}
    layout = layout_keys(weights)
    weights = to_hub_layout(weights, where)
    config, options = _settle_config(config, stated, sizes_of(weights, where), layout, where, options)
    if folder is not None and cls.can_generate() and (generation := folder.find(GENERATION)):
        options.setdefault("generation_config", _read_generation(generation))
    weights = _fit(cls, config, weights, where)
    model, report = build(None, *args, config=config, state_dict=dict(weights), output_loading_info=True, **options)
    _check_loaded(model, weights, report, where)
    if gate is not None and attach_gates is not None:
        attach_gates(model, gate, gates, where)
    model.config._commit_hash = folder.commit if folder is not None else None
    model.name_or_path = model.config.name_or_path = str(name or "")
    return (model, report) if return_report else model


def loaded_commit(model: Any) -> str | None:
    """The full commit on the hub that a model was loaded from; None where it was not loaded from the hub.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> loaded_commit(Rwkv6ForCausalLM(Rwkv6Config(**sizes))) is None
        True
    """
    return getattr(model.config, "_commit_hash", None)
