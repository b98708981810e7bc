"""One self-contained page of a gated text that works without a kernel and without a network.

Its content security policy allows its own script and style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvgate.explore import svg
from rwkvgate.explore.effects import ClampEffect
from rwkvgate.explore.gated_text import GatedText
from rwkvgate.explore.palette import STEPS, value_range
from rwkvgate.explore.summaries import TOKEN_MEASURES
from rwkvgate.explore.tokens import aggregate
from rwkvgate.explore.views import (
    MOST_TOKENS,
    NOTHING,
    clamp_view,
    compare_view,
    correlation,
    distribution_view,
    extremes_view,
    layers_view,
    measure_name,
    place,
    quoted,
    style,
    text_view,
)

UNIT = 10000
"""Values are stored as integer multiples of 1 / `UNIT`."""


def static_page(
    gated: GatedText,
    *,
    title: str = "The gate",
    effect: ClampEffect | None = None,
    other: tuple[str, str, GatedText] | None = None,
) -> str:
    """The page as HTML: text, layers, distribution, extremes and surprisal, with a layer slider and a choice of
    measure. Without script it shows the first layer.

    Args:
        effect: a clamp's effect, for a section of its own.
        other: labels of the first and a second text or arm, and the second, for a section that compares them.
    """
    sections = [("About", f"<p>{len(gated.tokens):,} tokens, {len(gated.labels)} gates.</p>", "")]
    if not gated.tokens:
        sections = [("About", NOTHING, "")]
    sections += [
        ("The text", text_view(gated), "text"),
        ("Layers and tokens", layers_view(gated), "layers"),
        ("How the values are spread", distribution_view(gated), "spread"),
        ("Highest and lowest", _by_layer(gated), "extremes"),
        ("Gate and surprisal", _surprisal(gated), "surprisal"),
    ]
    if effect is not None:
        sections.append(("The effect of a clamp", clamp_view(effect), "clamp"))
    if other is not None:
        left, right, beside = other
        sections.append(("Side by side", compare_view(gated, beside, names=(left, right)), "compare"))
    body = "".join(f'<section id="{name}"><h2>{head}</h2>{view}</section>' for head, view, name in sections)
    sheet = f"{style()}\n{_file('page.css')}"
    script = _file("page.js")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(sheet)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{sheet}</style></head>"
        f'<body class="rg"><h1>{escape(title)}</h1>{_controls(gated)}{body}'
        f'<script type="application/json" id="data">{safe_json(_data(gated))}</script><script>{script}</script>'
        "</body></html>\n"
    )


def safe_json(value: Any) -> str:
    """JSON for a script element: no character of it can end the element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _controls(gated: GatedText) -> str:
    options = "".join(f"<option>{escape(measure_name(name))}</option>" for name in TOKEN_MEASURES)
    return (
        '<div class="controls" id="controls" hidden>'
        f'<label>Layer <input id="layer" type="range" min="1" max="{len(gated.labels)}" value="1" step="1"></label>'
        f'<output id="layer-name" for="layer"></output><label>Shown <select id="measure">{options}</select></label>'
        '<div class="readout" id="readout" aria-live="polite">Hover over a token, or focus the text and use the arrow '
        "keys; [ and ] change the layer.</div></div>"
    )


def _by_layer(gated: GatedText) -> str:
    return "".join(
        f'<div data-layer="{i}"{" hidden" if i else ""}><p>Layer {escape(label)}, {measure_name("mean")}.</p>'
        f"{extremes_view(gated, label)}</div>"
        for i, label in enumerate(gated.labels)
    )


def _surprisal(gated: GatedText) -> str:
    texts, both, _ = aggregate(gated.tokens, np.stack((gated.losses, gated.measure("mean")[0])), MOST_TOKENS)
    picture = svg.scatter(both[0], both[1], texts, "surprisal (nats)", "gate", 1.0) if texts else NOTHING
    return f'<p><span id="dots-name">{measure_name("mean")}</span>: <span id="correlation"></span></p>{picture}'


def _data(gated: GatedText) -> dict[str, Any]:
    """The data of the page's script; values in 1 / `UNIT`, null for nan."""
    texts, surprisal, size = aggregate(gated.tokens, gated.losses, MOST_TOKENS)
    measures = []
    for name in TOKEN_MEASURES:
        values = gated.measure(name)
        low, high = value_range(values)
        measures.append(
            {
                "label": measure_name(name),
                "low": round(low * UNIT, 2),
                "high": round(high * UNIT, 2),
                "values": [_whole(line) for line in aggregate(gated.tokens, values, MOST_TOKENS)[1]],
                "correlations": [correlation(line, gated.losses) for line in values],
            }
        )
    return {
        "unit": UNIT,
        "steps": STEPS,
        "labels": gated.labels,
        "hover": [f"{place(i, size, len(gated.tokens))}: {quoted(text)}" for i, text in enumerate(texts)],
        "surprisal": _whole(surprisal),
        "measures": measures,
        "ground": svg.scatter_level(0, 1),
        "height": svg.scatter_level(0, 1) - svg.scatter_level(1, 1),
    }


def _whole(values: NDArray[np.float32]) -> list[int | None]:
    return [round(value * UNIT) if np.isfinite(value) else None for value in values.tolist()]


def _file(name: str) -> str:
    return files("rwkvgate.explore").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
