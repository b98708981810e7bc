"""`report.html`: notebook 04 as executed, without its code, on one page that loads nothing.

`python -m rwkvgate.workflow.report outputs/cpu` renders the notebook that the run graph executed; a second argument
names another copy, such as the one that was run and saved in JupyterLab or Colab.
"""

from __future__ import annotations

import argparse
import re
import sys
from html import escape
from pathlib import Path

import nbformat
from bleach import ALLOWED_TAGS
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode

from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_text

NOTEBOOK = "notebooks/04_ablations.ipynb"
NOT_SHOWN = "not-in-report"
"""The tag of cells that are about running the notebook."""
TAGS = [*ALLOWED_TAGS, "h1", "h2", "h3", "h4", "hr", "p", "pre", "span", "table", "tbody", "td", "th", "thead", "tr"]
BADGE = re.compile(r"\[!\[.*?\]\(.*?\)\]\(.*?\)")
HEADING = re.compile(r"^#+ +(.+)$", flags=re.MULTILINE)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d5d5d5; --dim: #5c5c5c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181a; --line: #3a3d40; --dim: #a3a8ad; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; }
p, li { max-width: 42rem; } .anchor-link { display: none; }
.output_html, .output_text { overflow-x: auto; } pre { font-size: .85rem; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  max-width: 30rem; font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
img { max-width: 100%; height: auto; background: #fff; padding: .4rem; border-radius: .3rem; }
nav ul { columns: 18rem; padding-left: 1.2rem; } a { color: inherit; }
@media print { body { max-width: none; font-size: 10pt; } nav { display: none; } .output_html { overflow: visible; }
  table, img { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def render_report(notebook: Path, target: Path) -> Path:
    """Write the page of an executed notebook, atomically; returns its path.

    Whatever the notebook shows can become no markup but plain tags without attributes that act: scripts, styles,
    remote images and links to other pages are removed.

    Raises:
        SettingsError: the notebook is missing or damaged, or was not executed to its end.
    """
    try:
        executed = nbformat.read(notebook, as_version=4)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{notebook} cannot be read ({error}); `make reproduce` executes it") from None
    codes = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    if not codes or codes[-1].execution_count is None:
        raise SettingsError(f"{notebook} was not executed to its end; run all its cells and save it")
    headings = _prepare(executed)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    exporter.register_preprocessor(_hidden(), enabled=True)
    attributes = {"th": ["colspan", "rowspan", "scope"], "td": ["colspan", "rowspan"]}
    exporter.register_preprocessor(SanitizeHTML(tags=TAGS, attributes=attributes, strip=True), enabled=True)
    body, _ = exporter.from_notebook_node(executed)
    # Text that a model wrote may hold half a surrogate pair, which no UTF-8 file can.
    write_text(target, _page(headings, body).encode("utf-8", "replace").decode("utf-8"))
    return target


def _hidden() -> TagRemovePreprocessor:
    """What drops the cells that are about running the notebook."""
    return TagRemovePreprocessor(remove_cell_tags={NOT_SHOWN}, enabled=True)


def _prepare(notebook: NotebookNode) -> list[str]:
    """Take badges and progress lines out, name each picture by the heading above it; returns the headings."""
    headings: list[str] = []
    for cell in notebook.cells:
        if NOT_SHOWN in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub("", cell.source)
            headings += HEADING.findall(cell.source)
        elif cell.cell_type == "code":
            cell.metadata["alt"] = headings[-1] if headings else ""
            cell.outputs = [
                output for output in cell.outputs if output.output_type in ("display_data", "execute_result")
            ]
    return headings


def _page(headings: list[str], body: str) -> str:
    """The whole page: a heading's anchor is what nbconvert makes of its text."""
    title, *sections = headings or ["Report"]
    links = "".join(f'<li><a href="#{escape(name.replace(" ", "-"))}">{escape(name)}</a></li>' for name in sections)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{contents}\n"
        f"<main>\n{body}</main>\n</body>\n</html>\n"
    )


def main() -> None:
    """Render the report of a run."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.workflow.report", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("notebook", type=Path, nargs="?", help=f"the executed notebook; by default RUN/{NOTEBOOK}")
    given = parser.parse_args()
    try:
        print(render_report(given.notebook or given.run / NOTEBOOK, given.run / "report.html"))
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
