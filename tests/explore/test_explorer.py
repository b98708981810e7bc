"""The explorer without a browser: what is chosen is shown, every change goes back, errors are words, work stops."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from rwkvgate.explore import GateExplorer
from rwkvgate.explore.gated_text import read_text
from rwkvgate.explore.interventions import Clamp
from rwkvgate.explore.session import EXAMPLES, VIEWS
from rwkvgate.explore.views import compare_view, text_view

pytest.importorskip("ipywidgets", reason="ipywidgets, of the extra notebooks, is not installed")


def settle(explorer: GateExplorer) -> Any:
    """The panel when nothing is running any more."""
    assert explorer.panel.wait(60)
    return explorer.panel


def test_every_view_is_shown_and_every_change_goes_back(reader: Any) -> None:
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "Once upon a time", arms={"low-rank": lambda: reader("low-rank")[0]})
    panel = settle(explorer)
    assert str(text_view(read_text(model, tokenizer, "Once upon a time"))) in panel.picture.value
    start, seen = explorer.session.choice, []
    changes = [
        (panel.layer, "2"),
        (panel.measure, "channel"),
        (panel.channel, 7),
        (panel.measure, "high"),
        (panel.clamp, "one"),
        (panel.level, 0.5),
        (panel.text, "In the realm"),
        (panel.view, "compare"),
        (panel.other_arm, "low-rank"),
        (panel.other_text, "another text"),
        (panel.arm, "low-rank"),
        (panel.temperature, 0.7),
        (panel.length, 3),
        *((panel.view, name) for name in VIEWS if name != "compare"),
        (panel.example, EXAMPLES["two people"]),
    ]
    for control, value in changes:
        seen.append((explorer.session.choice, settle(explorer).picture.value))
        control.value = value
        assert "error" not in settle(explorer).message.value, panel.message.value
        assert explorer.session.choice != seen[-1][0], value
    assert panel.example.value == "" and panel.text.value == EXAMPLES["two people"]
    for choice, picture in reversed(seen):
        panel.undo.click()
        assert settle(explorer).session.choice == choice and panel.picture.value == picture
    assert explorer.session.choice == start and panel.undo.disabled and panel.layer.value == "1"
    for _ in changes:
        panel.redo.click()
    assert settle(explorer).redo.disabled and panel.text.value == EXAMPLES["two people"]


def test_a_clamp_is_seen_and_leaves_nothing(reader: Any) -> None:
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "Once upon a time")
    panel = settle(explorer)
    panel.clamp.value, panel.level.value = "all", 0.5
    gated = explorer.session.reading("model", "Once upon a time", Clamp(None, 0.5))
    assert settle(explorer) and (gated.measure("mean") == 0.5).all() and str(text_view(gated)) in panel.picture.value
    panel.view.value = "clamp"
    assert "Every layer clamped to 0.50" in settle(explorer).picture.value
    panel.view.value = "compare"  # nothing differs but the clamp: without it on the left, with it on the right
    free = explorer.session.reading("model", "Once upon a time")
    sides = ("model", "model, every layer clamped to 0.50")
    assert str(compare_view(free, gated, 1, "mean", sides)) in settle(explorer).picture.value
    assert all(gate.override is None and gate.observer is None for gate in model.modules() if hasattr(gate, "override"))


def test_a_continuation_streams_and_stops(reader: Any) -> None:
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "Once")
    panel = settle(explorer)
    panel.length.value = 4
    panel.run.click()
    assert "Continuation" in settle(explorer).continued.value and "tokens" in panel.continued.value
    panel.length.value = 1000
    grown = Event()
    panel.continued.observe(lambda _: grown.set(), names="value")
    panel.run.click()
    assert grown.wait(30)
    panel.stop.click()
    assert settle(explorer) and "stopped" in panel.message.value
    panel.stop.click()
    assert "nothing is running" in panel.message.value


def test_reading_shows_progress_and_stops(reader: Any) -> None:
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "short")
    panel = settle(explorer)
    before, seen = panel.picture.value, Event()
    panel.progress.observe(lambda _: seen.set(), names="value")
    panel.text.value = "a long text " * 10000
    assert seen.wait(30)
    panel.stop.click()
    assert settle(explorer).picture.value == before and "stopped" in panel.message.value
    panel.undo.click()
    assert settle(explorer).picture.value == before and panel.progress.layout.visibility == "hidden"


def test_errors_are_words_in_the_widget(reader: Any) -> None:
    plain, tokenizer = reader(None)
    explorer = GateExplorer(plain, tokenizer, "text", arms={"gated": reader()[0], "broken": lambda: 1 / 0})
    panel = settle(explorer)
    assert "carries no gate" in panel.message.value and "enhanced" in panel.message.value
    panel.run.click()
    assert "Continuation" in settle(explorer).continued.value  # an unpatched model can still write
    panel.arm.value = "gated"
    assert settle(explorer).message.value == "" and "<span" in panel.picture.value
    panel.measure.value = "channel"
    panel.channel.value = 99
    assert "channel is 99; allowed are 0 to 15" in settle(explorer).message.value
    assert panel.channel.value == 0 and explorer.session.choice.measure == 0
    panel.arm.value = "broken"
    assert "ZeroDivisionError" in settle(explorer).message.value and panel.arm.value == "gated"
    for text, words in (("x" * 10**6, "at most 200,000 are read"), ("a\ud800", "half of a surrogate pair")):
        kept, panel.text.value = panel.text.value, text
        assert words in settle(explorer).message.value and panel.text.value == kept
    panel.text.value = ""
    assert "The text is empty" in settle(explorer).picture.value


def test_two_explorers_over_one_model_do_not_see_each_other(reader: Any) -> None:
    model, tokenizer = reader()
    one, two = GateExplorer(model, tokenizer, "Once upon a time"), GateExplorer(model, tokenizer, "Once upon a time")
    free = str(text_view(read_text(model, tokenizer, "Once upon a time")))
    for explorer in (one, two):
        settle(explorer)
    one.panel.clamp.value = "all"
    two.panel.refresh()
    two.session._cache.clear()
    two.panel.refresh()
    assert free in settle(two).picture.value and free not in settle(one).picture.value


def test_the_page_needs_no_widgets_and_is_written_atomically(reader: Any, tmp_path: Any) -> None:
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "Once upon a time")
    page = explorer.to_html(tmp_path / "page.html", title="A <title>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page and "A &lt;title&gt;" in page
    assert "Side by side" not in page
    explorer.session.change(other_text="In the realm", clamp=Clamp(1, 0.3))
    assert "Side by side" in explorer.to_html() and "Layer 1 clamped to 0.30" in explorer.to_html()
    assert "panel" not in vars(explorer) and [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(ValueError, match="arms with one"):
        GateExplorer(reader(None)[0], tokenizer, "x").to_html()


def test_two_arms_of_one_name_are_refused(reader: Any) -> None:
    model, tokenizer = reader()
    with pytest.raises(ValueError, match="must differ"):
        GateExplorer(model, tokenizer, arms={"model": model})
