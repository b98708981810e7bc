"""Write the explorer of a saved model as one page: `rwkvgate export MODEL PAGE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from rwkvgate.explore.explorer import GateExplorer
from rwkvgate.explore.kernel import EXAMPLES
from rwkvgate.gate.storage import load_gate


def main() -> None:
    """Read the model that the command line names, and write the page."""
    parser = argparse.ArgumentParser(prog="rwkvgate export", description=__doc__)
    parser.add_argument("model", help="a model with a gate and its tokenizer: a folder, or a name on the hub")
    parser.add_argument("page", type=Path, help="the HTML file to write")
    parser.add_argument(
        "--gate", help="a folder written by save_gate, or a name on the hub, for a model without a gate"
    )
    parser.add_argument("--text", default=next(iter(EXAMPLES.values())), help="the text of the page")
    given = parser.parse_args()
    try:
        model = AutoModelForCausalLM.from_pretrained(given.model)
        model = load_gate(model, given.gate) if given.gate else model
        GateExplorer(model, AutoTokenizer.from_pretrained(given.model), given.text).to_html(given.page)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    print(given.page)
