"""papermill's command line, faster to start, and with kernels that end when it does.

`python -m rwkvgate.workflow.execute` takes papermill's arguments; the run graph executes every notebook with it. It
leaves out what these notebooks do not need:

- jsonschema's check of internationalised addresses, whose grammar takes most of papermill's start to build;
- pyarrow's file systems, with which papermill reads notebooks from Hadoop, and which take most of the rest;
- the kernel's slow shutdown: when the last cell is done and its outputs have arrived, nothing is worth waiting for.

It adds:

- parameters are checked before the notebook runs, for papermill writes keys into it as they are, and they may be code;
- a failure is shown without papermill's own frames;
- where a widget's output holds a picture too, the picture alone stays: its kernel is gone, and a page that nbconvert
  makes would show the dead widget;
- the run folder's record gets the executed notebook's hash, under the name that the run graph moves it to;
- the kernel comes from the run graph's warm process, where there is one;
- messages to the kernel are encrypted where that is possible, since others may use the machine;
- on Linux the kernel ends with papermill even if papermill is killed, or interrupted while the kernel starts, and
  papermill ends with the run graph's head, so that nothing writes into a run folder that another head may have taken.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rwkvgate.experiment.parameters import Loader, check_parameters, read_parameters
from rwkvgate.experiment.records import keep_marks
from rwkvgate.experiment.run import UNFINISHED
from rwkvgate.gate.validation import SettingsError, shown
from rwkvgate.rwkv6.files import mark, read_json, write_text

VIEW = "application/vnd.jupyter.widget-view+json"
HEAD = "RWKVGATE_HEAD"
"""The environment variable with the process id of the run graph's head on this machine."""


def main() -> None:
    """Execute the notebook named on the command line; exits with papermill's status."""
    # None makes the import fail; jsonschema and papermill then take the module for one that is not installed.
    sys.modules["rfc3987_syntax"] = sys.modules["pyarrow"] = None  # type: ignore[assignment]

    from jupyter_client import launcher
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient
    from papermill import cli
    from papermill.exceptions import PapermillException

    from rwkvgate.experiment.processes import end_with, tied
    from rwkvgate.workflow.warm import launch

    if head := os.environ.get(HEAD):
        end_with(int(head))
    NotebookClient.shutdown_kernel.default_value = "immediate"
    # A kernel that is still starting does not yet check whether its parent is alive.
    launcher.Popen = partial(launch, preexec_fn=tied())  # type: ignore[assignment,misc]
    if encryption := getattr(KernelManager, "transport_encryption", None):  # older versions have none
        encryption.default_value = "auto"

    execute = cli.execute_notebook

    def checked(*, output_path: str, parameters: dict[Any, Any], **options: Any) -> Any:
        check_parameters(parameters)
        try:
            return execute(output_path=output_path, parameters=parameters, **options)
        finally:  # a notebook whose training diverged is kept too
            output = Path(output_path)
            keep_pictures(output)
            if output.name.endswith(UNFINISHED) and output.exists():
                keep_marks(output.parent, {output.name.removesuffix(UNFINISHED): mark(output)})

    command = cli.papermill.callback

    def once(*arguments: Any, **given: Any) -> Any:
        refuse_repeated(given)
        return command(*arguments, **given)

    cli.papermill.callback = once
    cli.read_yaml_file = lambda name: read_parameters(Path(name))
    cli.NoDatesSafeLoader = Loader
    cli.execute_notebook = checked
    try:
        cli.papermill()
    except yaml.YAMLError as error:
        sys.exit(f"parameters are not valid YAML: {' '.join(str(error).split())}")
    except (SettingsError, PapermillException, OSError) as error:
        sys.exit(str(error).strip())


def refuse_repeated(given: Mapping[str, Any]) -> None:
    """Refuse a parameter that stands twice, of which papermill would drop one: a section of settings as a whole.

    A plain value of a file may be given anew.

    Args:
        given: the options of papermill's command.

    Raises:
        SettingsError: names it.
    """
    files = [item for name in given["parameters_file"] or () for item in read_parameters(Path(name)).items()]
    texts = [*(given["parameters_yaml"] or ()), *map(base64.b64decode, given["parameters_base64"] or ())]
    mappings = [data for text in texts if isinstance(data := yaml.load(text, Loader=Loader), dict)]
    names = [name for part in ("parameters", "parameters_raw") for name, _ in given[part] or ()]
    names += [name for data in mappings for name in data]
    names += [name for name, value in files if isinstance(value, dict) or [n for n, _ in files].count(name) > 1]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise SettingsError(f"{shown(twice[0])} is given twice, and one of them would be dropped; give it once")


def keep_pictures(path: Path) -> None:
    """Take the views of widgets, and their state, out of an executed notebook where a PNG stands beside them."""
    notebook = read_json(path) or {}
    outputs = [output.get("data", {}) for cell in notebook.get("cells", []) for output in cell.get("outputs", [])]
    shown = [data for data in outputs if VIEW in data and "image/png" in data]
    for data in shown:
        del data[VIEW]
    if shown:
        if not any(VIEW in data for data in outputs):
            notebook["metadata"].pop("widgets", None)
        write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
