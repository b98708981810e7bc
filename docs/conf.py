"""Sphinx's configuration of the site. `make site` gathers its sources, this file among them, and builds it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.ext.napoleon.docstring import GoogleDocstring

from rwkvgate import __version__

project = "rwkvgate"
author = "the rwkvgate developers"
project_copyright = f"2026, {author}. Apache-2.0"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"rwkvgate {version}"
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_extra_path = ["extra"]
html_show_sourcelink = html_show_sphinx = html_copy_source = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "github-light", "github-dark"

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, Any] = {}  # myst-nb's own load requirejs and widgets from other hosts
nb_mime_priority_overrides = [
    ("html", kind, rank)
    for rank, kind in enumerate(("text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain"))
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings are written with single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # several names may share a line
# Names of other projects, whose inventories would need a network, and a type variable.
nitpick_ignore_regex = [("py:.*", r"(?!rwkvgate\.).*|.*\.Model")]


def mathml(writer: Any, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which every browser draws without a script."""
    if isinstance(node, nodes.math_block):
        writer.body.append(f'<div class="equation">{tex2mathml(node.astext(), as_block=True)}</div>')
    else:
        writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def signature(app: Any, what: str, name: str, obj: Any, options: Any, words: str | None, result: str | None) -> Any:
    """A signature with plain types where pydantic gives a field's bounds, and no default that is no expression."""
    if words is None:
        return None
    words = re.sub(r"Annotated\[(\w+), (?:\w+\([^()]*(?:\([^()]*\)[^()]*)*\)(?:, )?)+\]", r"\1", words)
    return words.replace("<factory>", "..."), result


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Whether to leave a member out: matplotlib gives every subclass a method of its own, in markup of its own."""
    return True if str(getattr(obj, "__module__", "")).startswith("matplotlib") else None


def setup(app: Any) -> None:
    """Register the renderer of equations, and what autodoc's and napoleon's options cannot say."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    # Else "Words of a variable: more words" is read as a type and a description.
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
    app.add_html_math_renderer("mathml", inline_renderers=(mathml, None), block_renderers=(mathml, None))
