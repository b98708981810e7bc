"""A still picture of a reading, for places where no widget and no script runs."""

from __future__ import annotations

import base64
import warnings
from io import BytesIO

from rwkvgate.explore.kernel import KernelEngine
from rwkvgate.explore.live import LiveReading, finished, read_live
from rwkvgate.explore.observing import gate_names
from rwkvgate.explore.palette import SEQUENTIAL
from rwkvgate.explore.tokens import token_labels
from rwkvgate.gate.patch import gates_of
from rwkvgate.rwkv6.extras import extra

COLUMNS = 256
"""Tokens of a picture at most."""
LABELLED = 60
"""Tokens at most whose texts are written below: more cannot be read."""


def picture(engine: KernelEngine) -> dict[str, str]:
    """The first arm's gates over the engine's text as `image/png` in base64, with words as `text/plain`.

    Without a gate, a token or matplotlib there are only the words.
    """
    arm = engine.arms[0]
    model = engine.model(arm)
    if not gates_of(model):
        return {"text/plain": f"Gate explorer: {arm} has no gate"}
    reading = finished(read_live(model, engine.tokenizer, engine.text))
    words = f"Gate explorer: {arm}, {len(reading.tokens):,} tokens"
    if not reading.tokens:
        return {"text/plain": words}
    labels = [name.label for name in gate_names(model)]
    try:
        return {"image/png": base64.b64encode(drawn(reading, labels, arm)).decode(), "text/plain": words}
    except ModuleNotFoundError as error:  # no matplotlib
        return {"text/plain": f"{words}. There is no picture: {error}"}


def drawn(reading: LiveReading, labels: list[str], arm: str) -> bytes:
    """Layers down, tokens across, coloured by the mean gate over channels from 0 to 1, as a PNG."""
    with extra("explorer"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    tokens = token_labels(reading.tokens[:COLUMNS])
    height = 1.2 + 0.22 * len(labels) + (0.7 if len(tokens) <= LABELLED else 0)
    with rc_context({"text.parse_math": False}):  # a token may hold dollars
        figure = Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots()
        shown = axes.imshow(reading.means[:, :COLUMNS].numpy(), vmin=0, vmax=1, cmap=SEQUENTIAL, aspect="auto")
        axes.set_yticks(range(len(labels)), labels)
        if len(tokens) <= LABELLED:
            axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
        part = "" if len(tokens) == len(reading.tokens) else f", first {COLUMNS} tokens"
        axes.set(title=f"Mean gate over channels: {arm}{part}", ylabel="layer")
        figure.colorbar(shown, ax=axes)
        file = BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Glyph"
            )  # matplotlib's font lacks some scripts: boxes stand there
            figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
