"""The sources of the site: `python -m rwkvgate.workflow.site FOLDER` gathers them for Sphinx, which `make site` calls.

Pages of docs/, the changelog and the five notebooks are copied. What the front page says of the results, the explorer's
page and the list of modules are made here, from `outputs/reference` and the package. No notebook is executed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import rwkvgate
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.records import intact
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_folder
from rwkvgate.workflow.app import explorer_of, open_finished
from rwkvgate.workflow.release import slug
from rwkvgate.workflow.results import FIGURES, REFERENCE, answer_part, figures_part, read_claims

LIBRARY = ("rwkv6", "gate", "metrics", "explore")
"""The packages that the API reference describes."""
SHOWN_FIRST = "enhanced.seed0"
"""Part of the name of the notebook that is shown where a run executed one for several arms and seeds."""
NOT_EXECUTED = (
    "This notebook is shown without outputs: the committed run, `outputs/reference`, has no executed copy. "
    "`make reproduce` executes it."
)
NO_EXPLORER = (
    "This site was built without the networks' weights, so the explorer is missing here. `make reproduce` trains them "
    "in about 13 minutes on two cores, and `make explore` opens it."
)
FRAME = """<a href="{0}">Open the explorer on a page of its own</a>

```{{raw}} html
<iframe class="explorer" src="{0}" title="The gate explorer" loading="lazy"></iframe>
```"""
STUDY = "outputs/study"
"""The study's folder, whose figures docs/study.md shows."""
RENAMED = {"CHANGELOG.md": "changelog.md", "docs/search.md": "search-for-a-gate.md"}
"""Pages that have another name on the site, whose own search is search.html."""
CLAIMS_ARE = "[Every claim of the paper](results.md), with its verdict, the reason and the rule."
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|<)([^)#\s]+)(#[^)\s]*)?(?=\))")
INSTALL = "install"
"""The id of the cell that prepares Colab."""
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n+", flags=re.M)


def gather(root: Path, target: Path) -> Path:
    """Write the sources of the site of the checkout at `root` to the folder `target`, which they replace; returns it.

    Raises:
        SettingsError: the committed run's claims are missing or damaged.
    """
    reference = root / REFERENCE
    claims = read_claims(reference)
    with write_folder(target) as fresh:
        for path in [root / "CHANGELOG.md", *sorted((root / "docs").glob("*.md"))]:
            text = linked(path.read_text(encoding="utf-8"), path, root)
            _write(fresh / address(path.relative_to(root).as_posix()), text)
        for name in ("conf.py", "site.css"):
            shutil.copyfile(root / "docs" / name, fresh / name)
        for path in sorted((root / "notebooks").glob("*.ipynb")):
            _write(fresh / "notebooks" / path.name, json.dumps(notebook(path, reference, root)))
        _write(fresh / "api" / "rwkvgate.md", names_page())
        for package in LIBRARY:
            _write(fresh / "api" / f"{package}.md", package_page(root, package))
        for path in [*(reference / "figures" / name for name in FIGURES), *sorted((root / STUDY).glob("*.svg"))]:
            figure = fresh / path.relative_to(root)
            figure.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(intact(path), figure)
        parts = [*answer_part(reference, claims), CLAIMS_ARE, *figures_part(REFERENCE / "figures")]
        _write(fresh / "answer.txt", "\n\n".join(parts))
        _write(fresh / "explorer.txt", explorer_part(reference, fresh / "extra"))
    return target


def address(inside: str) -> str:
    """The path that a page of the checkout has among the sources."""
    return RENAMED.get(inside, inside.removeprefix("docs/"))


def linked(text: str, page: Path, root: Path) -> str:
    """A page's text, with links to other files of the checkout leading to their pages, or to the repository."""

    def lead(match: re.Match[str]) -> str:
        path, fragment = page.parent / match[1], match[2] or ""
        inside = Path(os.path.relpath(path, root)).as_posix()
        if inside in RENAMED or re.fullmatch(r"docs/[^/]+\.md|notebooks/[^/]+\.ipynb", inside):
            return f"/{address(inside)}{fragment}"
        if inside.startswith((f"{REFERENCE.as_posix()}/figures/", f"{STUDY}/")) and inside.endswith(".svg"):
            return f"/{inside}"
        kind = "tree" if path.is_dir() else "blob"
        return f"https://github.com/{slug(root)}/{kind}/main/{inside}{fragment}"

    return LINK.sub(lead, text)


def notebook(path: Path, reference: Path, root: Path) -> dict[str, Any]:
    """A notebook for the site: as the committed run executed it, else as it is, which it says.

    The badge and the cell that prepares Colab, which do nothing here, are left out.
    """
    executed = sorted(reference.rglob(f"{path.stem}*.ipynb"), key=lambda one: (SHOWN_FIRST not in one.name, one.name))
    shown: dict[str, Any] = json.loads((executed[0] if executed else path).read_text(encoding="utf-8"))
    cells = [cell for cell in shown["cells"] if cell.get("id") != INSTALL]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = linked(BADGE.sub("", "".join(cell["source"])), path, root)
    if not executed:
        title = cells[0]
        title["source"] = re.sub(r"\A(# .*\n*)", rf"\1\n```{{note}}\n{NOT_EXECUTED}\n```\n\n", title["source"], count=1)
    shown["metadata"].pop("widgets", None)  # the state of widgets, which no page of the site shows
    return shown | {"cells": cells}


def names_page() -> str:
    """The page of the API reference on the names of the package itself, each leading to its module."""
    names = [f"- {{py:obj}}`{name} <{getattr(rwkvgate, name).__module__}.{name}>`" for name in rwkvgate.__all__]
    return "\n".join(["# rwkvgate", "", "`from rwkvgate import ...` gives these names:", "", *names])


def package_page(root: Path, package: str) -> str:
    """The page of the API reference on one package: every module with its public names, by their docstrings."""
    names = [path.stem for path in sorted((root / "rwkvgate" / package).glob("*.py")) if path.stem != "__init__"]
    parts = [f"# rwkvgate.{package}", f"```{{eval-rst}}\n.. automodule:: rwkvgate.{package}\n```"]
    for name in names:
        module = f"rwkvgate.{package}.{name}"
        parts.append(f"## {package}.{name}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```")
    return "\n\n".join(parts)


def explorer_part(reference: Path, folder: Path) -> str:
    """The part of the front page that shows the explorer, whose own page is written to `folder`.

    It runs the arms whose weights the committed run holds. Without weights it is the page that the run recorded, and
    without that page there is a sentence instead.
    """
    page = folder / "explorer.html"
    folder.mkdir()
    recorded = reference / "figures" / "gate.html"
    try:
        explorer_of(open_finished(reference)).to_html(page, title="The gate, live")
    except SettingsError as error:
        print(f"no live explorer: {error}")
        if not recorded.is_file():
            return NO_EXPLORER
        shutil.copyfile(intact(recorded), page)
    return FRAME.format(page.name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Gather the sources in the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.workflow.site", description=__doc__)
    parser.add_argument("folder", type=Path)
    try:
        print(gather(project_root(), parser.parse_args().folder))
    except (SettingsError, OSError) as error:  # of the results; of a figure, or of a full disk
        sys.exit(str(error))


if __name__ == "__main__":
    main()
