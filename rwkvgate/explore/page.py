"""The explorer as one file for any browser, without a kernel and without a network.

Its content security policy allows its own script and style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rwkvgate.explore.bundle import bundle, web_file
from rwkvgate.explore.kernel import KernelEngine, Reply
from rwkvgate.explore.observing import require_gates
from rwkvgate.explore.picture import picture
from rwkvgate.explore.weights import check_arm, embedded, pack, read_tokenizer
from rwkvgate.gate.validation import SettingsError

UNLOADED = "#loading { display: none; }"
"""The style of a page without JavaScript, which loads nothing."""
WRITTEN = 30
"""Tokens of a recorded continuation."""
LIVE = (
    "This page holds recorded readings of one text: with the gate on, and off or open in one layer or in every layer. "
    "To type a text of your own, open it live: GateExplorer(model, tokenizer, text) in a notebook, or make explore."
)
LEFT_OUT = "This page cannot run it: {}."


def recording(engine: KernelEngine, arm: str) -> dict[str, Any]:
    """One arm's readings of the engine's text, as `recorded.js` takes them: as it is, and with the gates of each layer
    and of all layers clamped to 0 and to 1, each with its greedy continuation.

    Single channels are kept of the first reading alone. A model of n layers reads the text 2n + 3 times.

    Raises:
        ValueError: the arm has no gate.
    """
    model = engine.model(arm)
    layers = sorted(
        {int(label.split()[0]) for label in engine.arm(arm)["gate"]["labels"]} if require_gates(model) else ()
    )
    clamps = [
        {"layer": layer, "channels": None, "tokens": None, "value": value}
        for layer in (None, *layers)
        for value in (0, 1)
    ]
    readings = [_recorded(engine, arm, interventions) for interventions in ([], *([clamp] for clamp in clamps))]
    limits = {"tokens": len(readings[0]["reading"]["pieces"]), "words": LIVE}
    about = engine.about() | {"engine": "recorded", "arms": [engine.arm(arm)], "untrained": None, "limits": limits}
    about["beside"] = ""
    return {"about": about, "readings": readings, "cards": packed_cards(engine, [arm])}


def _recorded(engine: KernelEngine, arm: str, interventions: list[dict[str, Any]]) -> dict[str, Any]:
    asked = {"arm": arm, "text": engine.text, "interventions": interventions}
    message, buffers = _whole(engine, {"method": "read", **asked})
    tokens, _ = _whole(engine, {"method": "continue", "tokens": WRITTEN, **asked})
    kept = buffers[: 5 if interventions else 6]
    texts = [base64.b64encode(buffer).decode() for buffer in kept]
    return {"reading": message["reading"], "buffers": texts, "continuation": tokens["tokens"]}


def packed_cards(engine: KernelEngine, arms: Sequence[str]) -> dict[str, Any]:
    """The cards of the channels of those arms that have a gate, by arm; none without documents."""
    gated = [arm for arm in arms if engine.documents and engine.arm(arm)["gate"]]
    return {arm: _whole(engine, {"method": "cards", "arm": arm})[0]["cards"] for arm in gated}


def _whole(engine: KernelEngine, message: Mapping[str, Any]) -> Reply:
    """The engine's answer in one piece."""
    parts: list[Any] = []
    reply, buffers = engine.handle({"id": 0, **message})
    while not reply["done"]:
        parts += reply.get("tokens", [])
        reply, buffers = engine.handle({"id": 0, "method": "more"})
    if "error" in reply:
        raise ValueError(reply["error"])
    return ({**reply, "tokens": parts + reply["tokens"]} if "tokens" in reply else reply), buffers


def page(title: str, begin: str, data: Any, *, modules: Sequence[str], still: str = "", weights: str = "") -> str:
    """A page of the front end.

    Args:
        title: of the page.
        begin: an expression of script that makes the engine, such as `$recorded.recordedEngine(data)`.
        data: what the script finds as `data`, JSON; its `options` are the app's.
        modules: names of the modules of `explore/web` that `begin` uses.
        still: a PNG in base64, shown until the script has started.
        weights: text without "<" that the script finds as `weights`.
    """
    script = (
        f"{bundle('app', *modules)}"
        "const data = JSON.parse(document.getElementById('data').textContent);\n"
        "const weights = document.getElementById('weights')?.textContent;\n"
        "const root = document.getElementById('root');\n"
        f"try {{ await $app.start(root, {begin}, {{ address: true, ...data.options }}); }} catch (error) {{\n"
        "document.getElementById('loading')?.remove();\n"
        "root.append(Object.assign(document.createElement('p'), { role: 'alert', textContent: error.message })); }\n"
    )
    sheet = (
        "body { margin: 0; font-family: system-ui, sans-serif; }\n"
        "#root { min-height: 100vh; padding: 20px max(20px, 50% - 750px); }\n"
        f"#root > img {{ max-width: 100%; }}\n{web_file('app.css')}"
    )
    unloaded = f"<noscript><style>{UNLOADED}</style></noscript>" if weights else ""
    styles = " ".join(f"'{_digest(style)}'" for style in (sheet, *([UNLOADED] if weights else [])))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src {styles}; img-src data:; "
        "worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    first = f'<img src="data:image/png;base64,{still}" alt="Mean gate of each layer and token">' if still else ""
    block = f'<script type="text/plain" id="weights">{weights}</script>' if weights else ""
    size = f'<p id="loading">Loading the networks ({len(weights.encode()) / 1e6:.1f} MB)…</p>' if weights else ""
    lacking = "<noscript>The explorer needs JavaScript, which is off in this browser.</noscript>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{sheet}</style>{unloaded}</head>"
        f'<body><main id="root"><h1>{escape(title)}</h1>{size}{lacking}{first}</main>'
        f"{block}"
        f'<script type="application/json" id="data">{safe_json(data)}</script><script type="module">{script}</script>'
        "</body></html>\n"
    )


def explorer_page(engine: KernelEngine, title: str) -> str:
    """The page that runs the engine's arms itself; the first arm's recorded one where it cannot be run so.

    Other arms that it does not compute are left out, which the page says.

    Raises:
        ValueError: the first arm has no gate.
    """
    first, *others = engine.arms
    require_gates(engine.model(first))
    try:
        vocabulary = len(read_tokenizer(engine.tokenizer)["model"]["vocab"])
        check_arm(first, engine.model(first), vocabulary)
    except SettingsError as error:
        return recorded_page(engine, title, f"{LEFT_OUT.format(error)} {LIVE}")
    models, reasons = {first: engine.model(first)}, []
    for name in others:
        try:
            check_arm(name, engine.model(name), vocabulary)
        except SettingsError as error:
            reasons.append(LEFT_OUT.format(error))
        else:
            models[name] = engine.model(name)
    weights = pack(
        models,
        engine.tokenizer,
        notes={**engine.notes, first: " ".join(filter(None, (engine.notes.get(first), *reasons)))},
        title=title,
        untrained=engine.untrained if engine.untrained in models else None,
    )
    start = {key: value for key, value in engine.about().items() if key in ("text", "token", "beside", "examples")}
    start["beside"] = engine.beside if engine.beside in models else ""
    still, cards = picture(engine).get("image/png", ""), packed_cards(engine, list(models))
    return live_page(embedded(weights), title, start, still, cards)


def recorded_page(engine: KernelEngine, title: str, words: str = LIVE) -> str:
    """The page of the engine's first arm, recorded.

    Args:
        words: what it says of itself.

    Raises:
        ValueError: it has no gate.
    """
    record = recording(engine, engine.arms[0])
    record["about"]["title"] = title
    record["about"]["limits"]["words"] = words
    still = picture(engine).get("image/png", "")
    return page(title, "$recorded.recordedEngine(data)", record, modules=["recorded"], still=still)


def live_page(
    weights: str, title: str, start: Mapping[str, Any], still: str = "", cards: Mapping[str, Any] | None = None
) -> str:
    """The page that runs the models itself, in a worker.

    Args:
        weights: a weight file as `weights.embedded` writes it.
        title: of the page.
        start: the "text", "token" and "beside" at the start, and "examples", as `KernelEngine.about` has them.
        still: a PNG in base64, shown until the script has started.
        cards: of channels, by arm, as `ChannelCards.packed` makes them.
    """
    data = {"worker": bundle("worker"), "options": {"about": start}, "cards": cards or {}}
    begin = "await $engine.pageEngine(weights, { worker: $engine.workerOf(data.worker), cards: data.cards })"
    return page(title, begin, data, modules=["engine"], still=still, weights=weights)


def safe_json(value: Any) -> str:
    """JSON for a script element: no character of it can end the element or a line of script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
