"""The page stands alone, and nothing passed in can become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from rwkvgate.experiment.analysis.figures import figure2, save_figure
from rwkvgate.experiment.analysis.report import Picture, Sample, Table, write_report

EVIL = '<script>alert("x")</script> & "'
HALF = "\ud800"  # half a surrogate pair, which no UTF-8 file can hold


class Tags(HTMLParser):
    """Collects tags, and checks that they close in order."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(tmp_path, latency):
    svg, _ = save_figure(figure2(latency), tmp_path, "figure2")
    frame = pd.DataFrame({"Arm": ["base", EVIL], EVIL: [0.12345, np.nan], "n": [3, 4]})
    path = write_report(
        tmp_path / "deep" / "report.html",
        title=EVIL,
        intro=f"{EVIL}\n\nSecond.",
        tables=[Table(EVIL, EVIL, frame, keys=["one", EVIL], links={"Arm": ["fig" + EVIL, ""]}, source=EVIL)],
        figures=[Picture("Figure 2", EVIL, svg.read_text(), "fig" + EVIL, EVIL)],
        provenance={"settings": {"seed": 0}, EVIL: EVIL},
        samples=[Sample(EVIL, EVIL, {"base": EVIL + HALF})],
    )
    return path.read_text(encoding="utf-8")


def test_everything_is_escaped(tmp_path, latency):
    html = page(tmp_path, latency)
    assert "<script" not in html and "&lt;script&gt;" in html
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert "alert" not in str([(tag, {k: v for k, v in a.items() if k != "alt"}) for tag, a in tags.seen])


def test_nothing_is_loaded(tmp_path, latency):
    html = page(tmp_path, latency)
    tags = Tags()
    tags.feed(html)
    sources = [a[name] for _, a in tags.seen for name in ("src", "href", "srcset") if name in a]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search("https?://|@import|url\\(", html)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in tags.seen)


def test_tables_align_numbers_and_mark_what_is_missing(tmp_path, latency):
    html = page(tmp_path, latency)
    assert '<td class="n">0.1235</td>' in html and '<td class="n">–</td>' in html
    assert ">base</a></td>" in html and "settings.seed" in html
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_links_lead_to_rows_and_figures_of_the_page(tmp_path, latency):
    tags = Tags()
    tags.feed(page(tmp_path, latency))
    marks = [a["id"] for _, a in tags.seen if "id" in a]
    leads = [a["href"] for tag, a in tags.seen if tag == "a"]
    assert len(marks) == len(set(marks)) and all(lead[1:] in marks for lead in leads)
    assert leads.count("#settings") == 1  # from the figure
    assert [tag for tag, a in tags.seen if a.get("id", "").startswith("k-")] == ["tr", "tr", "figure"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (Table("T", "", pd.DataFrame({"a": [1, 2]}), keys=["x"]), "T: 1 of keys for 2 rows"),
        (Table("T", "", pd.DataFrame({"a": [1, 2]}), keys=["x", "x"]), "given twice: x"),
        (Table("T", "", pd.DataFrame({"a": [1]}), links={"a": ["nowhere"]}), "point to nothing: nowhere"),
    ],
)
def test_keys_and_links_that_cannot_hold_are_refused_before_anything_is_written(tmp_path, table, said):
    with pytest.raises(ValueError, match=said):
        write_report(tmp_path / "report.html", title="", intro="", tables=[table])
    assert not list(tmp_path.iterdir())
