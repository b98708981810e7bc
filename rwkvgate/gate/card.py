"""The model card of a shared gate: what a reader wants to know before loading it."""

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
"""How a base of each family is loaded: module, class, and options."""


@dataclass(frozen=True)
class GateAbout:
    """What there is to say of a gate beside its weights; all of it may be left out.

    Attributes:
        corpus: what it was trained on, in words.
        training: the settings it was trained with.
        results: what was measured, by name.
        license: an identifier of the hub's list, such as "apache-2.0".
    """

    corpus: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None


def model_card(record: Mapping[str, Any], parameters: int) -> str:
    """The card as Markdown with the hub's YAML header.

    Args:
        record: what `save_gate` writes to gate.json.
        parameters: the gate's.
    """
    base, about, gate = record["base"], record["about"], record["gate"]
    header: dict[str, Any] = {"library_name": "rwkvgate", "tags": ["rwkv", "gated-shift", "adapter"]}
    if base["model"]:
        header |= {"base_model": base["model"], "base_model_relation": "adapter"}
    if about["license"]:
        header["license"] = about["license"]
    named = base["model"] or "a base that is not on the hub"
    at = f" at revision `{base['revision']}`" if base["revision"] else ""
    chosen = {key: value for key, value in gate.items() if value is not None}
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        "# A gated shift for RWKV",
        "",
        f"Gates of {parameters:,} parameters in all on the blocks of {_code(named)}{at}, in the manner of {CITATION}:",
        f"an adapter for {record['num_hidden_layers']} layers of {record['hidden_size']:,} channels.",
        "It cannot be merged into the base.",
        *(["It comes with the base's norms as they were trained with it."] if record["norms"] else []),
        "",
        *_snippet(record["family"], base),
        *_table("Gate", chosen),
        *(["## Corpus", "", _plain(about["corpus"]), ""] if about["corpus"] else []),
        *_table("Training", about["training"]),
        *_table("Results", about["results"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _snippet(family: str, base: Mapping[str, Any]) -> list[str]:
    if family not in LOADERS:
        return [f"Load the base, then `rwkvgate.load_gate(model, ...)`; its family is `{family}`.", ""]
    module, kind, options = LOADERS[family]
    if base["revision"]:
        options = f', revision="{base["revision"]}"{options}'
    imports = ["import fla"] if family == "fla" else []
    return [
        "```python",
        *imports,
        f"from {module} import {kind}",
        "from rwkvgate import load_gate",
        "",
        f'model = {kind}.from_pretrained("{base["model"] or "path/to/base"}"{options})',
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
    """Text that Markdown shows as it is: no markup, no line break, no column's end."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    for mark in "\\|<>`*_[]#":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    text = " ".join(text.split())
    # What would begin a list, a rule or a heading.
    return f"\\{text}" if text[:1] in tuple("-+=~") else text


def _code(text: str) -> str:
    return f"`{text.replace('`', '')}`"
