"""The front end in a real browser, over an engine without a model: one point moves all views, and nothing is stale."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rwkvgate.explore.bundle import bundle, web_file
from tests.explore.browsing import CHROMIUM, chromium, faults, keep, opened, press
from tests.explore.hostile import TEXTS

pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; RWKVGATE_CHROMIUM names one")
OFF = "enhanced, gate off in every layer"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as launched:
        yield launched


@pytest.fixture
def front(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`front(address="", engine={}, **options)`: a page with the front end over the engine of `fake_engine.js`."""
    pages = []
    fake = (Path(__file__).parent / "web" / "fake_engine.js").read_text(encoding="utf-8")

    def show(address: str = "", engine: dict[str, Any] | None = None, **options: Any) -> Any:
        begin = (
            f"window.engine = $fake.fakeEngine({json.dumps(engine or {})});\n"
            "window.app = await $app.start(document.getElementById('root'), window.engine, { address: true });"
        )
        page = (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>The gate</title>'
            f"<style>body {{ margin: 0 }} {web_file('app.css')}</style></head><body><main id='root'></main>"
            f'<script type="module">{bundle("app", "fake", others={"fake": fake})}{begin}</script></body></html>'
        )
        (tmp_path / "front.html").write_text(page, encoding="utf-8")
        pages.append(opened(browser, **options))
        pages[-1].goto(f"{(tmp_path / 'front.html').as_uri()}{address}")
        pages[-1].wait_for_function("window.app?.result")
        return pages[-1]

    yield show
    for page in pages:
        assert not page.trouble
        page.close()


BUSY = """
!document.querySelector(".busy").hidden && {
  captions: [...document.querySelectorAll(".caption")].map((one) => one.textContent),
  written: document.querySelectorAll(".written").length,
}
"""
"""What is shown while the engine reads, looked at in one moment."""


def captions(page: Any) -> list[str]:
    """What each view says that it shows."""
    return list(page.eval_on_selector_all(".caption", "all => all.map((one) => one.textContent)"))


def at(page: Any) -> int:
    """The place of the token that is marked in the text."""
    return int(page.get_attribute(".token.at", "id").rsplit("-", 1)[1])


def test_one_point_moves_all_views(front: Any) -> None:
    page = front()
    page.hover(".token >> nth=4")
    assert at(page) == 4 and "Token 4 “·in”" in page.inner_text(".readout")
    assert "token 4" in page.inner_text(".channels h2") and "token 4" in page.inner_text(".next h2")
    page.hover(".grid .plot canvas", position={"x": 40, "y": 60})  # third layer, first token
    assert at(page) == 0 and "layer 3" in page.inner_text(".readout") and "layer 3" in page.inner_text(".channels h2")
    page.mouse.move(0, 0)
    assert "layer 1" in page.inner_text(".readout")  # it was only pointed at
    page.click(".losses .plot canvas", position={"x": 590, "y": 30})
    last = page.locator(".token").count() - 1
    page.mouse.move(0, 0)
    assert at(page) == last
    page.click(".channels .plot canvas", position={"x": 25, "y": 8})
    assert "gate of channel 1" in page.inner_text(".grid h2")
    assert page.locator(".channels > .contexts li").count() == 5


def test_a_channel_has_a_card_over_the_test_documents(front: Any) -> None:
    page = front(engine={"delay": 100})
    assert "Choose a channel" in page.inner_text(".documents") and not page.locator(".documents li").count()
    page.focus(".channels .plot")
    page.keyboard.press("ArrowRight")
    page.evaluate(  # it is read for a tenth of a second, which a busy machine may not look at
        """() => {
            window.said = []
            new MutationObserver(() => said.push(document.querySelector(".documents").innerText))
                .observe(document.body, {childList: true, subtree: true, characterData: true})
        }"""
    )
    page.keyboard.press("Enter")
    page.wait_for_selector(".documents li")
    assert any("Reading the test documents… 12 of 300" in words for words in page.evaluate("said"))
    words = page.inner_text(".documents")
    assert "enhanced, gate on, layer 1, channel 1, over 300 documents (61,234 tokens): mean 0.437; untrained" in words
    assert "<b>key</b>" in page.inner_text(".documents li strong") and "\u202e" not in page.inner_text(".documents li")
    assert page.locator("#root .documents :is(b, img)").count() == 0
    page.hover(".grid .plot canvas", position={"x": 40, "y": 60})
    assert "layer 3, channel 1" in page.inner_text(".documents")
    page.get_by_label("Network (arm)").select_option("untrained")  # which has none
    page.wait_for_function("app.result?.shown.arm === 'untrained'")
    assert not page.is_visible(".documents")


def test_a_channel_pointed_at_by_keyboard_is_let_go_with_the_focus(front: Any) -> None:
    page = front()
    page.focus(".channels .plot")
    page.keyboard.press("ArrowRight")
    assert "channel 1:" in page.inner_text(".readout")
    page.focus("textarea")
    assert "channel" not in page.inner_text(".readout")


def test_the_gate_is_switched_by_keyboard_and_everything_says_so(front: Any) -> None:
    page = front()
    assert "enhanced, gate on. “Once" in captions(page)[0]
    page.focus("input[value=on]")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("app.result.reference")
    assert all(OFF in caption for caption in captions(page))
    assert "nats per token;" in page.inner_text(".losses .words") and "worse on this text" in page.inner_text(".losses")
    assert page.inner_text(".continuation .side >> nth=0").startswith(OFF)
    assert page.inner_text(".continuation .side >> nth=1").startswith("enhanced, gate on")
    page.wait_for_function("document.querySelectorAll('.written')[1].textContent.includes('<b>home</b>')")
    page.focus(".tokens")
    for key in ("End", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    assert at(page) == page.locator(".token").count() - 2 and "layer 2" in page.inner_text(".unseen")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    page.wait_for_function("location.hash.includes('layer=2') && location.hash.includes('gate=off')")
    for _ in range(2):
        page.click("text=Undo")
    page.wait_for_function("!app.result.reference")
    assert page.get_attribute("text=Undo", "aria-disabled") == "true" and "gate on" in captions(page)[0]


def test_the_gates_of_another_text_take_the_place_of_these(front: Any) -> None:
    page = front()
    press(page, "replace")
    page.wait_for_selector("text=enhanced, gate of “In the realm of artific…” in every layer")
    page.get_by_label("Replace the gate by its values on this text").fill("A <b> fox")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=enhanced, gate of “A <b> fox” in every layer")
    page.wait_for_function("location.hash.includes('other=A+%3Cb%3E+fox')")
    assert page.evaluate("engine.calls.some((one) => one.interventions[0]?.replace === 'A <b> fox')")
    page.click("text=Undo")
    page.wait_for_selector("text=enhanced, gate of “In the realm of artific…” in every layer")
    assert page.input_value(".intervention textarea").startswith("In the realm")


def test_a_link_opens_the_same_view_and_nonsense_the_first(front: Any) -> None:
    page = front(
        "#text=A%20%3Cscript%3E%20key&gate=scale&scale=1.5&layers=one&layer=2&channel=7&measure=change&beside=base-tuned"
    )
    assert page.input_value("textarea") == "A <script> key" and "base-tuned, no gate" in page.inner_text(".next")
    assert "enhanced, gate × 1.50 in layer 2" in captions(page)[0] and "minus the untrained gate" in page.inner_text(
        ".grid h2"
    )
    assert page.inner_text(".grid .legend").split() == ["−0.5", "0.5"]
    page = front("#arm=none&layer=99&gate=ajar&token=1e9&measure=x")
    assert captions(page)[0].startswith("enhanced, gate on")


def test_a_link_pasted_into_the_open_page_opens_its_view(front: Any) -> None:
    page = front("#layer=3")
    page.evaluate("location.hash = '#text=Another&gate=value&value=0.33&layers=one&layer=2'")
    page.wait_for_function("app.result?.shown.text === 'Another'")
    assert "enhanced, gate at 0.33 in layer 2" in captions(page)[0]
    assert (
        float(page.input_value(".slider input")) == pytest.approx(0.33) and page.inner_text(".slider output") == "0.33"
    )
    page.click("text=Undo")
    page.wait_for_function("app.state.layer === 3 && app.state.gate === 'on'")


def test_what_is_slow_is_never_shown_as_something_else(front: Any) -> None:
    page = front()
    page.evaluate("engine.holds = 'enhanced'")
    press(page, "off")
    busy = page.wait_for_function(BUSY).json_value()
    assert all("gate on" in caption for caption in busy["captions"]) and not busy["written"]
    page.get_by_label("Network (arm)").select_option("base-tuned")
    page.wait_for_function("app.result?.shown.arm === 'base-tuned'")
    assert "base-tuned, no gate" in captions(page)[0] and "This arm has no gate" in page.inner_text(".grid")
    assert not page.is_visible("input[value=off]")
    page.fill("textarea", "refuse this")
    page.wait_for_selector(".message.error")
    assert "This engine refuses that text." in page.inner_text(".message") and not page.is_visible(".card.text")


def test_a_continuation_is_of_what_is_chosen(front: Any) -> None:
    page = front("#gate=off&layers=one", engine={"holds": "untrained"})
    written = "[...document.querySelectorAll('.written')].length === 2"
    page.wait_for_function(written)
    page.fill(".continuation input >> nth=1", "0.75")
    page.keyboard.press("Enter")  # while the untrained gate is still read
    page.wait_for_function(f"app.writing && {written}")
    assert page.is_visible(".card.text") and not page.is_visible(".message")
    page.focus(".tokens")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".continuation h3 >> text=enhanced, gate off in layer 2")


def test_a_number_that_is_not_allowed_is_not_shown_as_if_it_were_used(front: Any) -> None:
    page = front()
    tokens = page.locator(".continuation input >> nth=0")
    tokens.fill("500")
    tokens.press("Enter")
    assert page.evaluate("app.state.length") == 30 and not tokens.evaluate("(one) => one.validity.valid")
    page.focus(".tokens")
    assert tokens.input_value() == "30"


def test_an_address_that_the_browser_refuses_stops_nothing(front: Any) -> None:
    page = front("#constructor=1&__proto__=1&token=1")
    page.evaluate("() => { window.tries = 0; history.replaceState = () => { tries++; throw new Error('too many'); }; }")
    page.focus(".tokens")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert at(page) == 5 and "Token 5" in page.inner_text(".readout")
    page.wait_for_function("tries === 1")


def test_after_an_error_nothing_old_is_shown_and_the_text_can_be_read_again(front: Any) -> None:
    page = front(f"#text={quote('one two three ' * 200)}")
    page.fill("textarea", "")
    page.wait_for_function("app.state.text === '' && app.result?.shown.text === ''")
    page.fill("textarea", f"refuse {'one two ' * 200}")
    page.wait_for_selector("text=This engine refuses that text.")
    assert not page.inner_text(".readout") and not page.is_visible(".pages")
    page.get_by_label("Colour by").select_option("letin")
    assert page.is_visible("text=This engine refuses that text.")  # while there is no reading its reason stays
    page.evaluate("document.activeElement.blur(); engine.holds = 'enhanced'")
    page.fill("textarea", "slow")
    page.click("text=Stop")
    page.wait_for_selector(".message >> text=Stopped")
    assert page.evaluate("document.activeElement.textContent") == "Read again"
    page.evaluate("engine.release()")
    page.keyboard.press("Enter")
    page.wait_for_function("app.result?.shown.text === 'slow'")
    assert not page.is_visible("text=Read again") and page.evaluate("document.activeElement.className") == "tokens"


def test_the_focus_stays_where_the_keyboard_is(front: Any) -> None:
    page = front(f"#text={quote('one two three four five ' * 60)}&channel=3")
    here = "document.activeElement.ariaLabel ?? document.activeElement.textContent"
    for name, after in (("Later", "Later"), ("Undo", "Undo"), ("All channels", "Channels: arrow keys")):
        page.focus(f"button >> text={name}")
        page.keyboard.press("Enter")
        assert page.evaluate(here).startswith(after)
    page.focus("input[value=on]")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("app.state.gate === 'off'")
    page.keyboard.press("Control+z")
    page.wait_for_function("app.state.gate === 'on'")
    page.click("text=Essay")
    page.wait_for_function("app.state.text.startsWith('In the realm')")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_texts_are_text(text: str, front: Any) -> None:
    page = front(f"#text={quote(text)}")
    assert page.locator("#root b, #root iframe, #root img, #root script").count() == 0
    if text:
        assert page.locator(".token").count() == len(page.evaluate("app.result.shown.pieces"))
        assert not any(
            ord(letter) < 32 or letter == "\u202e" for letter in page.inner_text(".tokens").replace("\n", "")
        )
    else:
        assert "The text is empty" in page.inner_text(".text") and "at least two tokens" in page.inner_text(".losses")


def test_a_long_text_is_shown_in_windows(front: Any) -> None:
    page = front(f"#text={quote(('one two three four five ' * 200).strip())}&token=300")
    assert (
        "Tokens 256 to 511 of 1,000 are shown." in page.inner_text(".pages") and page.locator(".token").count() <= 256
    )
    page.click("text=Later")
    assert "Tokens 512 to 767" in page.inner_text(".pages") and at(page) == 512


def test_files_are_of_what_is_shown(front: Any, tmp_path: Path) -> None:
    page = front("#text=%3Dsum%20%22x%22%20key&gate=off&measure=change")
    for name, begins in (("CSV", b"arm,intervention,"), ("SVG", b"<svg "), ("PNG", b"\x89PNG")):
        page.click("summary >> text=Export")
        with page.expect_download() as download:
            page.click(f"button >> text={name}")
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(begins)
        if name == "CSV":
            lines = content.decode().splitlines()
            assert len(lines) == 1 + 3 * 3 and lines[1].startswith(
                'enhanced,gate off in every layer,"enhanced, gate on",1,0,'
            )
            assert "'=sum" in lines[1] and "minus the untrained gate" in lines[1]
    page.get_by_label("Network (arm)").select_option("untrained")
    page.wait_for_function("app.result?.shown.arm === 'untrained'")
    page.click("summary >> text=Export")
    page.click("button >> text=PNG")
    assert page.inner_text(".message") == "This is the untrained arm."
    page.get_by_label("Colour by").select_option("gate")
    assert not page.is_visible(".message")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_every_width_and_theme(width: int, scheme: str, front: Any) -> None:
    page = front("#gate=off&layers=one&layer=2&channel=5&token=6", width=width, color_scheme=scheme)
    page.wait_for_selector("text=and and and")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    keep(page, f"front-{width}-{scheme}")
    page.click("text=What is this?")
    assert faults(page) == []


def test_forced_colours_keep_the_colours_that_are_data(front: Any) -> None:
    page = front(forced_colors="active")
    colours = page.eval_on_selector_all(".token", "all => all.map((one) => getComputedStyle(one).backgroundColor)")
    assert len(set(colours)) > 3
    keep(page, "front-forced-colours")
