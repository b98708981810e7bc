"""The paper's numbers, in one place, and the relative changes that its tables imply.

Pan, "Enhancing RWKV-based Language Models for Long-Sequence Text Generation", arXiv 2502.15485. Tables are
of version 1; the abstract of version 2 states relative changes.
"""

from __future__ import annotations

ARMS = ("base", "enhanced", "no-layer-norm", "fixed-gate")
"""The paper's four models, by our names and in the order of its Table 1."""

FORWARD_SECONDS = {"base": 0.472585, "enhanced": 0.486664, "no-layer-norm": 0.481514, "fixed-gate": 0.481347}
"""Version 1, section 5.1, Table 1."""
GENERATION_SECONDS = {"base": 2.292671}
"""For 50 tokens; version 1, section 5.2.1."""
DEVICE, SHAPE = "T4", (24, 2048)
"""What the times were measured on: a Tesla T4, and layers and channels of RWKV/v6-Finch-1B6-HF."""
QUALITY = {
    "perplexity": {"base": 3.353, "enhanced": 3.353},
    "bleu": {"base": 0.085, "enhanced": 0.167},
    "rouge1": {"base": 0.115, "enhanced": 0.225},
    "rougeL": {"base": 0.115, "enhanced": 0.225},
}
"""Version 1, section 5.2.2, Table 2."""
SECONDS_DIGITS, QUALITY_DIGITS = 6, 3
"""Decimals that the tables print."""

CHANGES = {
    "rouge-l-gain": ("rougeL", "enhanced"),
    "bleu-gain": ("bleu", "enhanced"),
    "rouge-1-gain": ("rouge1", "enhanced"),
    "perplexity": ("perplexity", "enhanced"),
    "forward-latency": ("forward", "enhanced"),
    "latency-no-layer-norm": ("forward", "no-layer-norm"),
    "latency-fixed-gate": ("forward", "fixed-gate"),
}
"""Claim -> the measure and the arm of the change that the tables give for it."""


def relative_change(claim: str) -> float:
    """The change from the base in percent that the paper's tables give for a claim of `CHANGES`.

    Example:
        >>> round(relative_change("forward-latency"), 2)  # its abstract says 2.95
        2.98
    """
    measure, arm = CHANGES[claim]
    values = (QUALITY | {"forward": FORWARD_SECONDS})[measure]
    return 100 * (values[arm] / values["base"] - 1)
