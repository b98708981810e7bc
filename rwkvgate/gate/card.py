"""The model card of a saved gate: its base, how to load it, and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

CITATION = "arXiv 2502.15485"
LOADERS = {
    "rwkv6": ("rwkvgate", "Rwkv6ForCausalLM", ""),
    "rwkv4": ("transformers", "RwkvForCausalLM", ", rescale_every=0"),
    "fla": ("transformers", "AutoModelForCausalLM", ""),
}
"""How a base of each family is loaded: module, class and options."""


@dataclass(frozen=True)
class GateAbout:
    """What a gate's record and model card say beside its weights; every field may be left out.

    Attributes:
        corpus: the training text, in words.
        training: the training settings, by name.
        results: the measured values, by name.
        license: an identifier of the hub's list, such as "apache-2.0".

    Example:
        >>> GateAbout(corpus="seeded stories", results={"perplexity": 2.8}).results["perplexity"]
        2.8
    """

    corpus: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None


def model_card(record: Mapping[str, Any], parameters: int) -> str:
    """The card as Markdown with the hub's YAML header.

    Args:
        record: the content of gate.json.
        parameters: number of the gate's parameters.
    """
    base, about, gate = record["base"], record["about"], record["gate"]
    header: dict[str, Any] = {"library_name": "rwkvgate", "tags": ["rwkv", "gated-shift", "adapter"]}
    if base["model"]:
        header |= {"base_model": base["model"], "base_model_relation": "adapter"}
    if about["license"]:
        header["license"] = about["license"]
    base_name = base["model"] or "a base that is not on the hub"
    at = f" at revision `{base['revision']}`" if base["revision"] else ""
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        "# A gated shift for RWKV",
        "",
        f"Gates of {parameters:,} parameters in all on the blocks of {_code(base_name)}{at}, after {CITATION}:",
        f"an adapter for {record['num_hidden_layers']} layers of {record['hidden_size']:,} channels.",
        "It cannot be merged into the base's weights, for it multiplies two hidden states.",
        *(["The base's norms were trained with it, and come with it."] if record["norms"] else []),
        "",
        *_snippet(record["family"], base),
        *_table("Gate", {key: value for key, value in gate.items() if value is not None}),
        *(["## Corpus", "", _plain(about["corpus"]), ""] if about["corpus"] else []),
        *_table("Training", about["training"]),
        *_table("Results", about["results"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _snippet(family: str, base: Mapping[str, Any]) -> list[str]:
    if family not in LOADERS:
        return [f"Load the base, then `rwkvgate.load_gate(model, ...)`; its family is `{family}`.", ""]
    module, model_class, options = LOADERS[family]
    if base["revision"]:
        options = f', revision="{base["revision"]}"{options}'
    imports = ["import fla"] if family == "fla" else []
    return [
        "```python",
        *imports,
        f"from {module} import {model_class}",
        "from rwkvgate import load_gate",
        "",
        f'model = {model_class}.from_pretrained("{base["model"] or "path/to/base"}"{options})',
        'load_gate(model, "path/or/name/of/this/gate")',
        "```",
        "",
    ]


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    body = [f"| {_plain(key)} | {_plain(value)} |" for key, value in rows.items()]
    return [f"## {title}", "", "| | |", "|---|---|", *body, ""]


def _plain(value: Any) -> str:
    """The value as text without markup: Markdown shows every character, in one line and one cell."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    for mark in "\\|<>`*_[]#":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    text = " ".join(text.split())
    # These begin a list, a rule or a heading.
    return f"\\{text}" if text[:1] in tuple("-+=~") else text


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"
