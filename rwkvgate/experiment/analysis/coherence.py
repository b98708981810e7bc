"""Entity coherence: does a continuation keep to who owns what? Judged by the generator's own knowledge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rwkvgate.experiment.corpora.stories import GENRES
from rwkvgate.experiment.corpora.stories.reading import read_continuation

ENTITY_COLUMNS = ("entity_right", "entity_claims", "entity_known", "entity_sentences")


def entity_scores(domains: Sequence[str], prompts: Sequence[str], continuations: Sequence[str]) -> pd.DataFrame:
    """How often continuations are right about who holds what, or where it lies.

    Returns:
        One row a continuation, in order: `document`, and counts `entity_claims` (claims about holders in sentences that
        follow one of the genre's frames), `entity_right` (of these), `entity_sentences` (whole sentences) and
        `entity_known` (of these, those that follow a frame). All are nan where the domain is no genre of stories:
        there nobody knows who owns what.

    Raises:
        ValueError: the lists differ in length.
    """
    if not len(domains) == len(prompts) == len(continuations):
        raise ValueError(
            f"{len(domains)} domains, {len(prompts)} prompts and {len(continuations)} continuations; "
            "they must be as many"
        )
    genres = {genre.domain for genre in GENRES}
    rows = []
    for domain, prompt, continuation in zip(domains, prompts, continuations, strict=True):
        if domain not in genres:
            rows.append([np.nan] * len(ENTITY_COLUMNS))
            continue
        found = read_continuation(domain, prompt, continuation)
        rows.append([found.right, found.claims, found.known, found.sentences])
    frame = pd.DataFrame(rows, columns=list(ENTITY_COLUMNS), dtype="float64")
    frame.insert(0, "document", np.arange(len(rows), dtype=np.int64))
    return frame
