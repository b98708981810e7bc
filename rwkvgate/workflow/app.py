"""Open the gate explorer on a finished run: `python -m rwkvgate.workflow.app`, which `make explore` calls.

It serves a page with a Python kernel behind it (voila) on the newest run under outputs/, or in a checkout without runs
on the models that outputs/reference keeps. `--page FILE` writes a page that works without a kernel instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils.logging import disable_progress_bar

from rwkvgate.experiment import order
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.places import place, project_root
from rwkvgate.experiment.run import MANIFEST, Run, read_manifest
from rwkvgate.experiment.settings import Settings
from rwkvgate.experiment.steps import ensure_texts
from rwkvgate.experiment.steps.arm import load_arm
from rwkvgate.experiment.steps.kept import kept, kept_variants
from rwkvgate.explore.explorer import GateExplorer
from rwkvgate.explore.kernel import EXAMPLES
from rwkvgate.gate.validation import SettingsError, validate

if TYPE_CHECKING:
    from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM

REFERENCE = "reference"
"""The name of the committed run under outputs/."""
FIRST, CONTROL = "enhanced", "base-tuned"
"""The arm that is shown first, and the one that it is compared with, if the run has them."""
SHOWN = 200
"""Characters of a test document that are the text at the start."""


def newest_run(outputs: Path) -> Run:
    """The run under `outputs` that was written last and has an arm with a gate; the committed one where no other has.

    Raises:
        SettingsError: there is none.
    """
    manifests = list(outputs.glob(f"*/{MANIFEST}"))
    for path in sorted(manifests, key=lambda path: (path.parent.name != REFERENCE, path.stat().st_mtime), reverse=True):
        try:
            run = open_finished(path.parent)
        except SettingsError:
            continue
        if finished_arms(run):
            return run
    lacking = (
        f", and {REFERENCE} was committed without its models" if outputs / REFERENCE / MANIFEST in manifests else ""
    )
    raise SettingsError(f"{outputs} holds no run with a gated arm{lacking}; `make reproduce` makes one")


def open_finished(folder: Path) -> Run:
    """The run of a folder, with the settings that its manifest records.

    Raises:
        SettingsError: the folder holds no manifest, or a damaged one, or one with settings of another version.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest.get("settings"), dict):
        raise SettingsError(f"{folder} holds no {MANIFEST} with settings: it is no run folder")
    settings = manifest["settings"] | {"run_dir": str(folder.resolve())}
    return Run(validate(Settings, settings, where=str(folder / MANIFEST)))


def finished_arms(run: Run, *, gated: bool = True) -> dict[str, Callable[[], Rwkv6ForCausalLM]]:
    """The run's finished arms with a gate, or those without: for each arm and seed a function that loads its model.

    Why one that was made cannot be used is printed.
    """
    if kept(run):
        return {str(one): partial(load_arm, one) for one in kept_variants(run) if bool(one.arm.gate) == gated}
    loaders: dict[str, Callable[[], Rwkv6ForCausalLM]] = {}
    for arm in sorted(ARMS, key=lambda name: name != FIRST):
        for folder in sorted((run.folder / "arms" / arm).glob("seed*")):
            number = folder.name.removeprefix("seed")
            if bool(ARMS[arm].gate) == gated and number.isdecimal() and len(number) < 10:
                variant = run.variant(arm, int(number))
                if fault := order.arm(variant).fault:
                    print(f"{folder} is left out: {fault}", flush=True)
                else:
                    loaders[str(variant)] = partial(load_arm, variant)
    return loaders


def explorer_of(run: Run, text: str | None = None) -> GateExplorer:
    """An explorer over every finished arm with a gate, and those without to compare with.

    Without a text it is the start of a test document: the networks know the beginnings of the examples by heart.

    Raises:
        SettingsError: the run has none.
    """
    arms = finished_arms(run)
    if not arms:
        raise SettingsError(f"{run.folder} has no finished arm with a gate; {run.command()} makes them")
    disable_progress_bar()  # its bar would stand above the explorer
    name, *_ = arms
    arms |= finished_arms(run, gated=False)
    texts = ensure_texts(run)
    documents = [document.text for document in texts.corpus.test]
    if text is None:
        text = documents[0][:SHOWN].rsplit(" ", 1)[0] if documents else next(iter(EXAMPLES.values()))
    descriptions = {each: ARMS[each.partition(",")[0]].description for each in arms}
    notes = {each: f"{words[0].upper()}{words[1:]}." for each, words in descriptions.items()}
    control = CONTROL + "".join(name.partition(",")[1:])  # of the same seed
    beside = control if control in arms else ""
    first = arms.pop(name)()
    return GateExplorer(
        first, texts.tokenizer, text, arms=arms, name=name, documents=documents, notes=notes, beside=beside
    )


def write_notebook(folder: Path, run: Run) -> Path:
    """Write a notebook of one cell that shows the explorer of a run, for voila; returns its path."""
    import nbformat  # here, since it comes with voila

    source = (
        "from pathlib import Path\nfrom rwkvgate.workflow.app import explorer_of, open_finished\n"
        f"explorer_of(open_finished(Path({str(run.folder)!r}))).widget"
    )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells, path = [nbformat.v4.new_code_cell(source)], folder / "gate-explorer.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def serve(run: Run, port: int, browser: bool) -> None:
    """Serve the explorer with voila until it is interrupted.

    Raises:
        SettingsError: voila is not installed.
    """
    if find_spec("voila") is None:
        raise SettingsError(
            "voila is not installed; the extra `notebooks` installs it. `python -m rwkvgate.workflow.app --page FILE` "
            "writes a page that works without it"
        )
    from voila.app import main as voila

    with tempfile.TemporaryDirectory() as folder:
        path = write_notebook(Path(folder), run)
        arguments = [str(path), f"--port={port}", "--theme=light", "--VoilaConfiguration.show_tracebacks=True"]
        sys.argv = ["voila", *arguments, *([] if browser else ["--no-browser"])]
        voila()


def main() -> None:
    """Serve the explorer, or write its page, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.workflow.app", description=__doc__)
    parser.add_argument("run", nargs="?", help="a run folder; default: the newest under outputs/")
    parser.add_argument("--page", type=Path, help="write a page that works without a kernel to this file")
    parser.add_argument("--text", help="the text of that page; default: the start of a test document")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    given = parser.parse_args()
    if not 0 <= given.port < 2**16:
        parser.error(f"--port is {given.port}; it must be 0 to 65535")
    try:
        if given.run:
            run = open_finished(place(given.run) if given.run.startswith("~") else Path(given.run))
        else:
            run = newest_run(project_root() / "outputs")
        if given.page:
            explorer_of(run, given.text).to_html(given.page)
            print(given.page)
        else:
            print(f"the explorer of {run.folder}; stop it with Ctrl-C", flush=True)
            serve(run, given.port, not given.no_browser)
    except (ValueError, OSError) as error:  # of settings and checkpoints; a text too long; a page that has no place
        sys.exit(str(error))


if __name__ == "__main__":
    main()
