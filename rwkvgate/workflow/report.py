"""The report: notebook 04, executed, as one page without its code.

    python -m rwkvgate.workflow.report outputs/cpu/notebooks/04_ablations.ipynb outputs/cpu/report.html

The run graph calls it when notebook 04 has ended. The page stands alone: pictures are in it, and its content security
policy lets a browser ask no host and run no script, whatever a text in a table says.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import nbformat
from nbconvert.exporters import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from traitlets.config import Config

from rwkvgate.rwkv6.files import write_text

NOT_IN_REPORT = {"parameters", "not-in-report"}
"""Tags of cells that the page leaves out."""
BADGE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\s*")
"""A linked picture of another host, as notebooks have at their top."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1.25rem 4rem; color: #1a1a1a; background: #fff;
  font: 16px/1.55 system-ui, sans-serif }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd } .anchor-link { display: none }
.jp-OutputArea-output, .jp-RenderedHTMLCommon { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; margin: .75rem 0; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top }
thead th { border-bottom: 2px solid #888 } caption { text-align: left; color: #555; padding: .25rem 0 }
img, svg { max-width: 100%; height: auto } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8125rem }
code { font-size: .875em }
"""


def render(notebook: NotebookNode) -> str:
    """An executed notebook as an HTML page: its prose, tables and figures, without code and printed lines.

    Raises:
        ValueError: the notebook has not been executed.
    """
    if not any(cell.get("outputs") for cell in notebook.cells):
        raise ValueError("the notebook has no outputs; execute it first")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub("", cell.source)
        elif cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
    remover = Config({"TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": NOT_IN_REPORT}})
    exporter = HTMLExporter(template_name="basic", config=remover, exclude_input=True, exclude_output_prompt=True)
    exporter.register_preprocessor(TagRemovePreprocessor(config=remover), enabled=True)
    body, _ = exporter.from_notebook_node(notebook)
    headings = re.findall(r"^# (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(headings[0] if headings else 'Report')}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the notebook of the command line; the exit status is 2 where it cannot be read or was not executed."""
    parser = argparse.ArgumentParser(prog="rwkvgate.workflow.report", description="Render an executed notebook.")
    parser.add_argument("notebook", type=Path, help="the executed notebook 04 of a run")
    parser.add_argument("page", type=Path, help="the HTML file to write")
    given = parser.parse_args(arguments)
    try:
        page = render(nbformat.read(given.notebook, as_version=4))
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        print(f"{given.notebook} cannot be rendered: {error}", file=sys.stderr)
        return 2
    write_text(given.page, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
