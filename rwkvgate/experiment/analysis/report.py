"""One self-contained HTML page for a whole run: tables, figures, samples and where they come from.

The page loads nothing: style is inline, figures are data URIs, there is no script, and its content policy
forbids the rest. Everything passed in is escaped, for generated text can hold anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rwkvgate.experiment.analysis.tables import number
from rwkvgate.rwkv6.files import write_text

STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1b1b; --paper: #fff; --line: #d5d5d5; --soft: #f4f4f2; --dim: #5c5c5c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181a; --line: #3a3d40; --soft: #212427; --dim: #a3a8ad; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; }
p, figcaption { max-width: 42rem; } .caption, figcaption { color: var(--dim); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
td.long { min-width: 13rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 0; }
a { color: inherit; text-underline-offset: .15em; } :target { outline: 2px solid currentcolor; }
img { max-width: 100%; height: auto; background: #fff; padding: .4rem; border-radius: .3rem; }
nav ul { columns: 18rem; padding-left: 1.2rem; }
dt { color: var(--dim); font-size: .85rem; margin-top: .5rem; } dd { margin: 0; white-space: pre-wrap; }
.sample { border-left: 3px solid var(--line); background: var(--soft);
  padding: 0 0 .5rem .8rem; margin: 1rem 0; }
@media print { body { max-width: none; font-size: 10pt; } nav { display: none; } .wide { overflow: visible; }
  table, figure, .sample { break-inside: avoid; } h2 { break-after: avoid; } }
"""
LONG = 36
"""Characters of a cell from which its column is given room."""
PROVENANCE, SETTINGS = "Provenance", "settings"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        frame: its index is not shown.
        keys: a name for each row, by which other cells can point to it; unique on the page.
        links: column -> the key of the row or figure that each of its cells rests on, "" for none.
        source: the file that holds the numbers, from the run folder.
    """

    heading: str
    caption: str
    frame: pd.DataFrame
    keys: Sequence[str] = ()
    links: Mapping[str, Sequence[str]] = {}
    source: str = ""


class Picture(NamedTuple):
    """A figure of the page: its drawing as SVG text, a key to point to it, and what made it."""

    heading: str
    caption: str
    svg: str
    key: str = ""
    source: str = ""


class Sample(NamedTuple):
    """A prompt, the reference continuation, and what each arm wrote: arm -> text."""

    prompt: str
    reference: str
    continuations: Mapping[str, str]


def write_report(
    path: Path,
    *,
    title: str,
    intro: str,
    tables: Sequence[Table] = (),
    figures: Sequence[Picture] = (),
    provenance: Mapping[str, object] | None = None,
    samples: Sequence[Sample] = (),
) -> Path:
    """Write the page whole; its folder is made if need be.

    Numbers are rounded to four digits, nan is a dash; a figure's caption is also the picture's description.

    Args:
        intro: plain text; blank lines separate paragraphs.
        provenance: what the run was made of, name -> value, nested mappings allowed.

    Returns:
        The path.

    Raises:
        ValueError: two rows or figures share a key, a link points to none, or keys or links are not one a row.
    """
    _check_keys(tables, figures)
    sections = [*((table.heading, _table(table)) for table in tables)]
    sections += [(figure.heading, _figure(figure, bool(provenance))) for figure in figures]
    if samples:
        sections.append(("Samples", "".join(_sample(sample) for sample in samples)))
    if provenance:
        sections.append((PROVENANCE, f'<div id="{SETTINGS}">{_definitions(_flat(provenance))}</div>'))
    # Generated text may hold half a surrogate pair, which no UTF-8 file can.
    write_text(path, _page(title, intro, sections).encode("utf-8", "replace").decode("utf-8"))
    return path


def _check_keys(tables: Sequence[Table], figures: Sequence[Picture]) -> None:
    for table in tables:
        for name, given in (("keys", table.keys or None), *table.links.items()):
            if given is not None and len(given) != len(table.frame):
                raise ValueError(f"{table.heading}: {len(given)} of {name} for {len(table.frame)} rows")
    keys = [key for table in tables for key in table.keys] + [figure.key for figure in figures if figure.key]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"keys are given twice: {', '.join(twice)}")
    wanted = {key for table in tables for column in table.links.values() for key in column if key}
    if wanted - set(keys):
        raise ValueError(f"links point to nothing: {', '.join(sorted(wanted - set(keys)))}")


def _page(title: str, intro: str, sections: Sequence[tuple[str, str]]) -> str:
    paragraphs = "".join(f"<p>{escape(part)}</p>\n" for part in intro.split("\n\n") if part.strip())
    links = "".join(f'<li><a href="#s{i}">{escape(head)}</a></li>' for i, (head, _) in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{escape(head)}</h2>\n{html}</section>\n' for i, (head, html) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n{paragraphs}<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        f"{body}</main>\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    frame = table.frame
    columns = [[_cell(value) for value in frame.iloc[:, i]] for i in range(frame.shape[1])]
    numeric = [_is_numeric(column) for column in columns]
    long = [max(map(len, column), default=0) > LONG for column in columns]
    kinds = [' class="n"' if n else ' class="long"' if wide else "" for n, wide in zip(numeric, long, strict=True)]
    names = [str(name) for name in frame.columns]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(names, kinds, strict=True))
    rows = []
    for number_of, row in enumerate(zip(*columns, strict=True)):
        mark = f' id="{_anchor(table.keys[number_of])}"' if table.keys else ""
        cells = "".join(
            f"<td{kind}>{_linked(escape(cell), table.links.get(name, ()), number_of)}</td>"
            for name, cell, kind in zip(names, row, kinds, strict=True)
        )
        rows.append(f"<tr{mark}>{cells}</tr>\n")
    return (
        f'<p class="caption">{escape(table.caption)}{_source("Data", table.source)}</p>\n<div class="wide"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table></div>\n"
    )


def _linked(html: str, links: Sequence[str], row: int) -> str:
    key = links[row] if links else ""
    return f'<a href="#{_anchor(key)}">{html}</a>' if key else html


def _anchor(key: str) -> str:
    """An identifier that holds nothing of the key's text, which may be anything."""
    return f"k-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _source(what: str, source: str) -> str:
    return f" {what}: <code>{escape(source)}</code>." if source else ""


def _cell(value: object) -> str:
    if isinstance(value, float):  # numpy's float64 is one
        return number(float(value))
    return "–" if value is None or value is pd.NA else str(value)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column reads as numbers: at least half of its cells begin like one, and none is long or a phrase."""
    marks = ("+", "−", "-", "–", "±", "[", "∞", ".")
    like = [cell[:1].isdigit() or cell.startswith(marks) for cell in cells]
    phrases = any(" to " in cell for cell in cells)
    return bool(cells) and 2 * sum(like) >= len(cells) and max(map(len, cells)) <= 40 and not phrases


def _figure(figure: Picture, settings: bool) -> str:
    # As an image the drawing cannot run script, fetch anything, or clash with another's identifiers.
    data = base64.b64encode(figure.svg.encode("utf-8")).decode("ascii")
    mark = f' id="{_anchor(figure.key)}"' if figure.key else ""
    made = _source("Made by", figure.source)
    made += f' <a href="#{SETTINGS}">Settings</a>.' if made and settings else ""
    return (
        f'<figure{mark}><img src="data:image/svg+xml;base64,{data}" alt="{escape(figure.caption)}">\n'
        f"<figcaption>{escape(figure.caption)}{made}</figcaption></figure>\n"
    )


def _sample(sample: Sample) -> str:
    texts = {"prompt": sample.prompt, "reference": sample.reference, **sample.continuations}
    return f'<div class="sample">{_definitions(texts)}</div>\n'


def _definitions(items: Mapping[str, object]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>\n" for k, v in items.items()) + "</dl>\n"


def _flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
