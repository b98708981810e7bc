"""The paper's numbers, in one place, and what arithmetic on them shows.

Pan, "Enhancing RWKV-based Language Models for Long-Sequence Text Generation", arXiv 2502.15485. Tables are
of version 1; the abstract of version 2 states relative changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

ARMS = ("base", "enhanced", "no-layer-norm", "fixed-gate")
"""The paper's four models, by our names and in the order of its Table 1."""

FORWARD_SECONDS = {"base": 0.472585, "enhanced": 0.486664, "no-layer-norm": 0.481514, "fixed-gate": 0.481347}
FORWARD_SOURCE = "v1, section 5.1, Table 1"

GENERATION_SECONDS = {"base": 2.292671}
GENERATION_TOKENS = 50
GENERATION_SOURCE = "v1, section 5.2.1"

QUALITY = {
    "perplexity": {"base": 3.353, "enhanced": 3.353},
    "bleu": {"base": 0.085, "enhanced": 0.167},
    "rouge1": {"base": 0.115, "enhanced": 0.225},
    "rougeL": {"base": 0.115, "enhanced": 0.225},
}
QUALITY_SOURCE = "v1, section 5.2.2, Table 2"

SECONDS_DIGITS = 6
QUALITY_DIGITS = 3


@dataclass(frozen=True)
class Statement:
    """A relative change the paper states, in percent, beside what its tables give for it.

    `lowest` and `highest` bound the change over all values that print as the tables' numbers do.
    """

    claim: str
    text: str
    source: str
    stated: float | None
    from_tables: float
    lowest: float
    highest: float

    @property
    def compatible(self) -> bool | None:
        """Whether the stated change can be rounded from the tables' values; None where none is stated."""
        if self.stated is None:
            return None
        return round(self.lowest, 2) <= self.stated <= round(self.highest, 2)


def relative_change(before: float, after: float, digits: int) -> tuple[float, float, float]:
    """(after / before - 1) in percent, with its lowest and highest under rounding to `digits` decimals."""
    half = 0.5 * 10**-digits

    def percent(below: float, above: float) -> float:
        return 100 * (above / below - 1)

    return (
        percent(before, after),
        percent(before + half, after - half),
        percent(before - half, after + half),
    )


def statements() -> list[Statement]:
    """The paper's statements about change, and the changes its tables imply, in the order of the claims."""
    quality = [
        ("rouge-l-gain", "rougeL", "ROUGE-L +96.5 %", "v2, abstract", 96.5),
        ("bleu-gain", "bleu", "BLEU improved", "v1, section 5.2", None),
        ("rouge-1-gain", "rouge1", "ROUGE-1 improved", "v1, section 5.2", None),
        ("perplexity", "perplexity", "improved perplexity", "v1, section 6", None),
    ]
    seconds = [
        ("forward-latency", "enhanced", "latency +2.95 %", "v2, abstract", 2.95),
        ("latency-no-layer-norm", "no-layer-norm", "forward time without layer norm", FORWARD_SOURCE, None),
        ("latency-fixed-gate", "fixed-gate", "forward time with the gate fixed", FORWARD_SOURCE, None),
    ]
    found = []
    for claim, metric, text, source, stated in quality:
        values = QUALITY[metric]
        changes = relative_change(values["base"], values["enhanced"], QUALITY_DIGITS)
        found.append(Statement(claim, text, source, stated, *changes))
    for claim, arm, text, source, stated in seconds:
        changes = relative_change(FORWARD_SECONDS["base"], FORWARD_SECONDS[arm], SECONDS_DIGITS)
        found.append(Statement(claim, text, source, stated, *changes))
    return found


def arithmetic() -> pd.DataFrame:
    """`statements` as a table: claim, stated in words, source, and percentages.

    Columns claim, text, source, `stated %` (nan where the paper gives no number), `from tables %`,
    `lowest %` and `highest %` (under rounding of the tables), and `compatible` ("yes", "no" or "").
    """
    words = {True: "yes", False: "no", None: ""}
    rows = [
        {
            "claim": item.claim,
            "text": item.text,
            "source": item.source,
            "stated %": item.stated,
            "from tables %": item.from_tables,
            "lowest %": item.lowest,
            "highest %": item.highest,
            "compatible": words[item.compatible],
        }
        for item in statements()
    ]
    return pd.DataFrame(rows).astype({"stated %": "float64"})
