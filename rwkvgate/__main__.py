"""The command `rwkvgate`, also `python -m rwkvgate`; `rwkvgate COMMAND --help` has each command's arguments."""

from __future__ import annotations

import sys
from argparse import REMAINDER, ArgumentParser, RawDescriptionHelpFormatter
from importlib import import_module

COMMANDS = {
    "explore": ("rwkvgate.workflow.app", "open the explorer on a finished run"),
    "export": ("rwkvgate.explore.export", "write a patched model's explorer as one page"),
    "compare": ("rwkvgate.experiment.compare", "show how two finished runs differ"),
    "verify": ("rwkvgate.rwkv6.verify", "compare the paper's checkpoint with reference logits: downloads 3.2 GB"),
}
"""The module whose `main` each command calls, and what it does."""


def main() -> int | None:
    """Call the command that the command line names; returns its exit code."""
    lines = "\n".join(f"  {name:10}{does}" for name, (_, does) in COMMANDS.items())
    parser = ArgumentParser(
        prog="rwkvgate", description=f"{__doc__}\n\n{lines}", formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=REMAINDER)
    given = parser.parse_args()
    try:
        module = import_module(COMMANDS[given.command][0])
    except ModuleNotFoundError as error:
        sys.exit(str(error))
    sys.argv[1:] = given.arguments
    code: int | None = module.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
