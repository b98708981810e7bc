"""papermill's command line, without what makes it slow.

`python -m rwkvgate.workflow.notebook` takes papermill's arguments.

The run graph executes every notebook by it. Its kernels are spoken to encrypted where they can be, since others may be
on the machine. Three things are left out, which no notebook of ours has a use for:

- jsonschema's check of internationalised addresses, whose grammar takes most of papermill's start to build;
- pyarrow's file systems, by which papermill would read notebooks from Hadoop, and which are most of the rest;
- the kernel's leisurely end. When the last cell is done and its outputs are here, it holds nothing worth waiting for.

One thing is added: on Linux the kernel ends with papermill even where that is killed, or interrupted at the start.
"""

from __future__ import annotations

import sys
from functools import partial


def main() -> None:
    """Execute the notebook of the command line; exits with papermill's status."""
    # None makes an import fail, which both take for something that is not installed.
    sys.modules["rfc3987_syntax"] = sys.modules["pyarrow"] = None  # type: ignore[assignment]

    from jupyter_client import launcher
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient
    from papermill.cli import papermill

    from rwkvgate.experiment.processes import tied

    NotebookClient.shutdown_kernel.default_value = "immediate"
    # A kernel that is interrupted while it starts does not look yet whether its parent lives.
    launcher.Popen = partial(launcher.Popen, preexec_fn=tied())  # type: ignore[assignment,misc]
    if encryption := getattr(KernelManager, "transport_encryption", None):  # older ones have none
        encryption.default_value = "auto"
    papermill()


if __name__ == "__main__":
    main()
