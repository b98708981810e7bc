"""papermill's command line, without what makes it slow: `python -m rwkvgate.execute`, with papermill's arguments.

The run graph executes every notebook by it. Two things are left out, which no notebook of ours has a use for:

- jsonschema's check of internationalised addresses, whose grammar takes most of papermill's start to build;
- the kernel's leisurely end. When the last cell is done and its outputs are here, it holds nothing worth waiting for.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Execute the notebook of the command line; exits with papermill's status."""
    # None makes an import fail, which jsonschema takes for a check that is not installed.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

    from nbclient import NotebookClient
    from papermill.cli import papermill

    NotebookClient.shutdown_kernel.default_value = "immediate"
    papermill()


if __name__ == "__main__":
    main()
