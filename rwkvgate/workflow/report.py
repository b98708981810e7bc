"""`report.html`: notebook 04 as executed, without its code, on one page that loads nothing.

`python -m rwkvgate.workflow.report outputs/cpu` renders the notebook that the run graph executed; a second argument
names another copy, such as the one that was run and saved in JupyterLab or Colab.
"""

from __future__ import annotations

import argparse
import re
import sys
from html import unescape
from pathlib import Path

import nbformat
from bleach import ALLOWED_TAGS, clean
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode

from rwkvgate.experiment.records import keep_record, kept_difference
from rwkvgate.explore.tokens import visible
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.rwkv6.files import write_text

NOTEBOOK = "notebooks/04_ablations.ipynb"
NOT_SHOWN = "not-in-report"
"""The tag of cells that are about running the notebook."""
SHOWN = ("text/html", "text/markdown", "image/png", "text/plain")
"""The kinds of output that the page shows."""
TAGS = {"div", "h1", "h2", "h3", "h4", "hr", "img", "p", "pre", "span", "table", "tbody", "td", "th", "thead", "tr"}
ATTRIBUTES = {"alt", "class", "colspan", "id", "rowspan"}
ENTITY = re.compile(r"&#?\w{1,32};?")
BADGE = re.compile(r"\[!\[.*?\]\(.*?\)\]\(.*?\)")
HEADING = re.compile(r'<h([1-3]) id="([^"]*)">(.*?)<a class="anchor-link".*?</a></h\1>', flags=re.DOTALL)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d5d5d5; --dim: #5c5c5c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181a; --line: #3a3d40; --dim: #a3a8ad; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; }
p, li { max-width: 42rem; }
.output_html, .output_text { overflow-x: auto; } pre { font-size: .85rem; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  max-width: 42rem; font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
img { max-width: 100%; height: auto; background: #fff; padding: .4rem; border-radius: .3rem; }
nav ul { columns: 18rem; padding-left: 1.2rem; } a { color: inherit; }
@media (max-width: 50rem) { td { min-width: 7rem; } }
@media print { body { max-width: none; font-size: 10pt; } nav { display: none; } .output_html { overflow: visible; }
  table, img { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def render_report(notebook: Path, target: Path) -> Path:
    """Write the page of an executed notebook, atomically; returns its path.

    Whatever the notebook shows can become no markup but plain tags without attributes that act: scripts, styles,
    remote images and links to other pages are removed. Characters that act unseen, such as those that turn the
    direction of others, are shown as □.

    Raises:
        SettingsError: the notebook is missing, damaged or not as it was executed, or was not executed to its end.
    """
    if changed := kept_difference(notebook.parent, notebook.name):
        raise SettingsError(
            f"{notebook} is not as it was executed: {changed}. `make reproduce` executes it again; a copy that was "
            "edited on purpose is rendered under another name"
        )
    try:
        executed = nbformat.read(notebook, as_version=4)
        nbformat.validate(executed, relax_add_props=True)
    except OSError as error:
        raise SettingsError(f"{notebook} cannot be read ({error.strerror}); `make reproduce` executes it") from None
    except Exception as error:  # nbformat's own, jsonschema's, or any that a damaged file makes it stumble over
        reason = shown(str(error) or type(error).__name__)
        raise SettingsError(f"{notebook} is no notebook ({reason}); `make reproduce` executes it") from None
    codes = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    if not codes or codes[-1].execution_count is None:
        raise SettingsError(f"{notebook} was not executed to its end; run all its cells and save it")
    _prepare(executed)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={NOT_SHOWN}), enabled=True)
    body, _ = exporter.from_notebook_node(executed)
    body = clean(_visible(body), tags=ALLOWED_TAGS | TAGS, attributes=_is_allowed, protocols={"data"}, strip=True)
    write_text(target, _page(body))
    return target


def _visible(page: str) -> str:
    """A page in which characters that act unseen are shown as □, also where an entity stands for one."""
    return visible(ENTITY.sub(lambda entity: entity[0] if _is_seen(unescape(entity[0])) else "□", page))


def _is_seen(text: str) -> bool:
    return visible(text) == text


def _prepare(notebook: NotebookNode) -> None:
    """Take out badges, progress lines and outputs of other kinds, and name each picture by the heading above it."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub("", cell.source)
            heading = next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")), heading)
        elif cell.cell_type == "code":
            cell.metadata["alt"] = heading
            cell.outputs = [out for out in cell.outputs if out.output_type in ("display_data", "execute_result")]
            for output in cell.outputs:
                output.data = {kind: data for kind, data in output.data.items() if kind in SHOWN}


def _is_allowed(tag: str, name: str, value: str) -> bool:
    """Whether a tag may keep an attribute: links stay on the page, pictures are part of it."""
    if name == "href":
        return value.startswith("#")
    if name == "src":
        return value.startswith("data:image/png;")
    return name in ATTRIBUTES


def _page(body: str) -> str:
    """The whole page around the cells, with its contents on top."""
    headings = [(anchor, re.sub("<.*?>", "", text)) for _, anchor, text in HEADING.findall(body)]
    body = HEADING.sub(r'<h\1 id="\2">\3</h\1>', body)
    title = headings[0][1] if headings else "Report"
    links = "".join(f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in headings[1:])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n</body>\n</html>\n'
    )


def main() -> None:
    """Render the report of a run."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.workflow.report", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("notebook", type=Path, nargs="?", help=f"the executed notebook; by default RUN/{NOTEBOOK}")
    given = parser.parse_args()
    try:
        report = render_report(given.notebook or given.run / NOTEBOOK, given.run / "report.html")
        keep_record(given.run, report)
        print(report)
    except (SettingsError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
