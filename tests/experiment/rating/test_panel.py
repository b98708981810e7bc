"""The rating widget: answers written at once, resumed, undone; texts shown as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pytest

from rwkvgate.experiment.rating import panel as panel_module
from rwkvgate.experiment.rating.pairs import Pair, Rating
from rwkvgate.experiment.rating.panel import RatingPanel
from tests.explore.hostile import TEXTS, Page


@pytest.fixture
def rating(tmp_path: Path) -> Rating:
    return Rating(tmp_path / "set-1", tuple(Pair(f"Prompt {i}", f"left {i}", f"right {i}") for i in range(1, 4)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_module, "SETTLED", 0.0)


def lines(rating: Rating) -> list[str]:
    return (rating.folder / "answers" / "ann.csv").read_text().splitlines()[1:]


def test_each_answer_is_written_at_once_and_rating_goes_on_where_it_stopped(rating: Rating) -> None:
    panel = RatingPanel(rating, "ann")
    assert "Pair 1 of 3" in panel.place.value and "left 1" in panel.texts.value and panel.undo.disabled
    panel.buttons["B"].click()
    assert lines(rating) == ["set-1,1,B"]
    panel.buttons["tie"].click()
    assert lines(rating) == ["set-1,1,B", "set-1,2,tie"]
    again = RatingPanel(rating, "ann")
    assert "Pair 3 of 3" in again.place.value and again.progress.value == 2
    again.buttons["A"].click()
    assert "All 3 pairs are answered" in again.place.value and again.buttons["A"].disabled and not again.texts.value
    assert "Pair 1 of 3" in RatingPanel(rating, "ben").place.value


def test_a_second_click_does_not_answer_the_next_pair(rating: Rating, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(panel_module, "SETTLED", 0.5)
    monkeypatch.setattr("time.monotonic", lambda: now)
    panel = RatingPanel(rating, "ann")
    panel.buttons["A"].click()
    now += 0.3
    panel.buttons["A"].click()
    assert lines(rating) == ["set-1,1,A"] and "Pair 2 of 3" in panel.place.value
    now += 0.3
    panel.buttons["B"].click()
    assert lines(rating) == ["set-1,1,A", "set-1,2,B"]


def test_undo_takes_the_last_answer_back(rating: Rating) -> None:
    panel = RatingPanel(rating, "ann")
    for answer in ("A", "B", "tie"):
        panel.buttons[answer].click()
    panel.undo.click()
    assert lines(rating) == ["set-1,1,A", "set-1,2,B"] and "Pair 3 of 3" in panel.place.value
    assert not panel.buttons["A"].disabled
    panel.undo.click()
    panel.undo.click()
    assert not lines(rating) and panel.undo.disabled


def test_two_windows_of_one_rater_lose_and_double_nothing(rating: Rating) -> None:
    one, other = RatingPanel(rating, "ann"), RatingPanel(rating, "ann")
    one.buttons["A"].click()
    other.buttons["B"].click()
    assert lines(rating) == ["set-1,1,A"]
    assert "answered already" in other.message.value and "Pair 2 of 3" in other.place.value
    other.buttons["B"].click()
    assert lines(rating) == ["set-1,1,A", "set-1,2,B"] and not other.message.value


def test_a_file_damaged_meanwhile_is_said_and_left_alone(rating: Rating) -> None:
    panel = RatingPanel(rating, "ann")
    panel.buttons["A"].click()
    path = rating.folder / "answers" / "ann.csv"
    path.write_text("<b>else</b>")
    panel.buttons["A"].click()
    assert "must begin with the line set,pair,answer" in panel.message.value and path.read_text() == "<b>else</b>"


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_shown_as_text(tmp_path: Path, name: str) -> None:
    panel = RatingPanel(Rating(tmp_path / "set-1", (Pair(TEXTS[name], TEXTS[name], "b"),)), "ann")
    page = Page(panel.texts.value)
    assert {tag for tag, _ in page.elements} <= {"div", "style", "h3", "i"}
    assert "\u202e" not in panel.texts.value and "\x07" not in panel.texts.value
    assert all(set(attributes) <= {"class", "dir"} for _, attributes in page.elements)
    if name == "right to left":
        assert [attributes.get("dir") for _, attributes in page.elements].count("rtl") == 2


def test_every_control_is_a_core_widget_that_the_keyboard_reaches(rating: Rating) -> None:
    panel = RatingPanel(rating, "ann")

    def below(widget: Any) -> list[Any]:
        return [widget, *(inner for child in getattr(widget, "children", ()) for inner in below(child))]

    clickable = [widget for widget in below(panel.root) if isinstance(widget, widgets.Button)]
    assert [button.description for button in clickable] == ["A is better", "B is better", "no difference", "Undo"]
    assert all(getattr(button, "tabbable", None) is None for button in clickable)  # not taken out of Tab's order
