"""The site's sources, without Sphinx. With RWKVGATE_SITE, the folder of a built site: its links, hosts and looks."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from rwkvgate.experiment.claims import is_papers
from rwkvgate.gate.validation import SettingsError
from rwkvgate.workflow import site
from rwkvgate.workflow.site import INSTALL, NO_EXPLORER, explorer_part, gather, linked, notebook
from tests.explore.browsing import chromium, opened

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("RWKVGATE_SITE", ""))
SHOTS = ROOT / "build" / "screenshots" / "site"
built = pytest.mark.skipif("RWKVGATE_SITE" not in os.environ, reason="`make site` builds the site and checks it")
REQUEST = re.compile(r"""(?:@import\s*["']|url\(\s*["']?|\b(?:import|from|fetch)[\s(]*["'`])(?:https?:|wss?:)?//""")
"""What makes a style or a script ask a host."""
LOADED = {"script", "link", "img", "iframe", "source", "video", "audio", "object", "embed", "use", "image"}
"""Elements whose address the browser asks for by itself."""
LOOKED_AT = [
    "index",
    "results",
    "notebooks/04_ablations",
    "notebooks/05_gate_visualization",
    "gates",
    "study",
    "api/gate",
]


class Page(HTMLParser):
    """A page's own ids, the addresses that it links to, and those that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            elif name in ("href", "src", "srcset", "xlink:href", "data", "poster") and value:
                self.links.append(value)
                if tag in LOADED and ("rel", "canonical") not in attrs:
                    self.loaded.append(value)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:  # to load the committed run's models takes long
        patch.setattr(site, "explorer_part", lambda *_: "")
        return gather(ROOT, tmp_path_factory.mktemp("site") / "sources")


def test_the_explorer_is_the_recorded_page_or_a_sentence_where_no_weights_lie(tmp_path: Path) -> None:
    assert explorer_part(tmp_path, tmp_path / "extra") == NO_EXPLORER
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gate.html").write_text("recorded", encoding="utf-8")
    part = explorer_part(tmp_path, tmp_path / "more")
    assert 'src="explorer.html"' in part and 'loading="lazy"' in part and part.index("<a href") < part.index("<iframe")
    assert (tmp_path / "more" / "explorer.html").read_text(encoding="utf-8") == "recorded"


def test_every_page_is_in_the_table_of_contents_and_no_other(sources: Path) -> None:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (sources / "index.md").read_text(encoding="utf-8"), re.M | re.S)
    named = {page for tree in trees for page in re.findall(r"^([\w/-]+)(?:\.ipynb)?$", tree, re.M)}
    pages = {path.relative_to(sources).with_suffix("").as_posix() for path in sources.rglob("*.md")}
    pages |= {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert named == pages - {"index"}


def test_links_lead_to_pages_of_the_site_or_to_the_repository() -> None:
    page = ROOT / "docs" / "metrics.md"
    text = "[a](study.md#b) [b](../CHANGELOG.md) [c](../LICENSE) [d](search.md) [e](#own) [f](x:y) [g](../params)"
    text += " ![h](../outputs/study/gap.svg) [i](../outputs/study/coverage.csv)"
    here = "https://github.com/rwkvgate/rwkvgate"
    assert linked(text, page, ROOT) == (
        f"[a](/study.md#b) [b](/changelog.md) [c]({here}/blob/main/LICENSE) [d](/search-for-a-gate.md) [e](#own) "
        f"[f](x:y) [g]({here}/tree/main/params)"
        f" ![h](/outputs/study/gap.svg) [i]({here}/blob/main/outputs/study/coverage.csv)"
    )


def test_a_notebook_is_shown_as_executed_or_says_that_it_was_not(tmp_path: Path) -> None:
    path = ROOT / "notebooks" / "02_finetune.ipynb"
    plain = notebook(path, tmp_path, ROOT)
    title = "".join(plain["cells"][0]["source"])
    assert title.startswith("# 2. ") and "shown without outputs" in title and "colab-badge" not in title
    assert INSTALL not in {cell["id"] for cell in plain["cells"]}
    executed = json.loads(path.read_text(encoding="utf-8"))
    for name in ("base-tuned.seed0", "enhanced.seed0"):
        executed["metadata"]["name"] = name
        (tmp_path / f"02_finetune.{name}.ipynb").write_text(json.dumps(executed), encoding="utf-8")
    shown = notebook(path, tmp_path, ROOT)
    assert shown["metadata"]["name"] == "enhanced.seed0" and "shown without" not in "".join(shown["cells"][0]["source"])


def test_the_front_page_says_what_the_claims_file_says(sources: Path) -> None:
    said = (sources / "answer.txt").read_text(encoding="utf-8")
    claims = json.loads((ROOT / "outputs/reference/results/claims.json").read_text(encoding="utf-8"))
    papers = [claim for claim in claims if is_papers(claim)]
    assert f"Of the paper's {len(papers)} claims" in said and str(claims[0]["against_base"]) in said
    page = (sources / "results.md").read_text(encoding="utf-8")
    assert "](/outputs/reference/figures/figure3.svg)" in page
    assert (sources / "outputs" / "reference" / "figures" / "figure3.svg").is_file()


def test_a_checkout_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"claims\.json"):
        gather(tmp_path, tmp_path / "sources")
    assert not (tmp_path / "sources").exists()


@built
def test_no_page_asks_a_host() -> None:
    files = [path for path in SITE.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg")]
    assert (SITE / "index.html") in files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not REQUEST.search(text), path
        if path.suffix == ".html":
            assert not [one for one in Page(text).loaded if re.match(r"(?:[a-z]+:)?//", one)], path


@built
def test_every_link_inside_the_site_leads_somewhere() -> None:
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in SITE.rglob("*.html")}
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].ids | {"", "top"} if target in pages else {""}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                lost.append(f"{path.relative_to(SITE.resolve())}: {link}")
    assert not lost


@built
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_pages_fit_every_width_and_theme(width: int, theme: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name in LOOKED_AT:
            page = opened(browser, width, 900, color_scheme=theme)
            page.goto((SITE / f"{name}.html").resolve().as_uri())
            page.wait_for_load_state("load")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            for frame in page.locator("iframe").all():  # nothing is drawn in a frame that is out of sight
                frame.scroll_into_view_if_needed()
                frame.content_frame.locator("canvas").first.wait_for()
            page.screenshot(path=str(SHOTS / f"{name.replace('/', '-')}-{theme}-{width}.png"), full_page=True)
            assert page.trouble == [], name
            page.close()
