"""What the probes of all arms say together: what memory is worth, and the loss by position in long texts.

The measuring is a step for each arm and seed, `rwkvgate.experiment.steps.probes`; long texts decide the claim
`long-range`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rwkvgate.experiment.studies.study import intervals
from rwkvgate.metrics.measures import ratio_of_sums


def gains_by_length(gains: pd.DataFrame) -> pd.DataFrame:
    """What having seen the answer is worth, by the length of the text.

    Args:
        gains: columns `arm`, `seed` and `long_range.PROBE_COLUMNS`.

    Returns:
        One row an arm, probe and length: `arm`, `probe`, `length` (tokens), and `estimate`, the gain in nats per token,
        mean over seeds, items and depths, with its 95 % interval `low` and `high` over `n` items of each depth.
    """
    return intervals(gains, ("arm", "probe", "length"), ("depth", "item"), ("gain",))


def loss_by_position(positions: pd.DataFrame) -> pd.DataFrame:
    """Loss by position in a text.

    Args:
        positions: columns `arm`, `seed`, `kind` and `context.POSITION_COLUMNS`.

    Returns:
        One row an arm, kind of text and bucket: `arm`, `kind`, `start`, `stop`, `estimate`, the loss in nats per token,
        with its 95 % interval `low` and `high` over `n` texts, and `position`, where a logarithmic axis shows the
        bucket: its geometric middle, and the end of the first bucket, which starts at 0.
    """
    found = intervals(positions, ("arm", "kind", "start", "stop"), ("text",), ("nll", "tokens"), ratio_of_sums)
    middle = np.sqrt(found["start"] * found["stop"])
    return found.assign(position=np.where(found["start"] > 0, middle, found["stop"]))
