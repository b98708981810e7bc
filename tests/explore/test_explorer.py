"""The explorer without a browser: its widget answers, its display carries a picture, its page is written atomically."""

from __future__ import annotations

import base64
import sys
from types import ModuleType
from typing import Any

import pytest

from rwkvgate.explore import GateExplorer

VIEW = "application/vnd.jupyter.widget-view+json"


def without_anywidget(monkeypatch: Any) -> None:
    """As if anywidget were not installed."""
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "rwkvgate.explore.widget", raising=False)


@pytest.fixture
def any_widget(monkeypatch: Any) -> None:
    """anywidget, or its half in the kernel where it is not installed: a widget that has a few more traits."""
    widgets = pytest.importorskip("ipywidgets", reason="ipywidgets, of the extra notebooks, is not installed")
    try:
        import anywidget  # noqa: F401
    except ImportError:
        stub = ModuleType("anywidget")
        stub.AnyWidget = type("AnyWidget", (widgets.DOMWidget,), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "anywidget", stub)
        monkeypatch.delitem(sys.modules, "rwkvgate.explore.widget", raising=False)


def test_the_widget_answers_messages(reader: Any, any_widget: None, monkeypatch: Any) -> None:
    model, tokenizer = reader()
    widget = GateExplorer(model, tokenizer, "Once", name="mine").widget
    sent: list[Any] = []
    monkeypatch.setattr(widget, "send", lambda *message: sent.append(message))
    widget._handle_custom_msg({"id": 4, "method": "read", "arm": "mine", "text": "a fox"}, [])
    widget._handle_custom_msg("nonsense", [])
    (reading, buffers), (refusal, _) = sent
    assert reading["id"] == 4 and reading["reading"]["pieces"] == ["a", " fox"] and len(buffers) == 6
    assert "id is None" in refusal["error"] and widget.about["arms"][0]["name"] == "mine"
    assert "export default" in widget._esm and "import " not in widget._esm.split("const $", 1)[0]


def test_the_display_has_a_view_and_a_picture(reader: Any, any_widget: None) -> None:
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "Once upon $a_time")
    for shown in (explorer, explorer.widget):
        data, _ = shown._repr_mimebundle_()
        assert data[VIEW]["model_id"] == explorer.widget.model_id
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and "tokens" in data["text/plain"]
    assert explorer.widget._ipython_display_ is None  # of ipywidgets 7, which would show the view alone


def test_without_anywidget_there_is_a_picture_and_a_word(reader: Any, monkeypatch: Any) -> None:
    without_anywidget(monkeypatch)
    model, tokenizer = reader()
    data = GateExplorer(model, tokenizer, "Once upon a time")._repr_mimebundle_()
    assert "image/png" in data and "anywidget is not installed; the extra `explorer`" in data["text/plain"]
    assert "has no gate" in GateExplorer(reader(None)[0], tokenizer, "x")._repr_mimebundle_()["text/plain"]
    assert "image/png" not in GateExplorer(model, tokenizer, "")._repr_mimebundle_()


def test_the_page_needs_no_widgets_and_is_written_atomically(reader: Any, tmp_path: Any, monkeypatch: Any) -> None:
    without_anywidget(monkeypatch)
    model, tokenizer = reader()
    explorer = GateExplorer(model, tokenizer, "Once upon a time")
    page = explorer.to_html(tmp_path / "page.html", title="A <title>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page and "A &lt;title&gt;" in page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(ValueError, match="arms with one"):
        GateExplorer(reader(None)[0], tokenizer, "x").to_html()


def test_arguments_that_are_refused(reader: Any) -> None:
    model, tokenizer = reader()
    with pytest.raises(ValueError, match="must differ"):
        GateExplorer(model, tokenizer, arms={"model": model})
    with pytest.raises(ValueError, match="at most 200,000"):
        GateExplorer(model, tokenizer, "x" * 200_001)
