"""Entity coherence: are a continuation's claims about who holds what right? The stories' own grammar decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rwkvgate.experiment.corpora.stories import GENRES
from rwkvgate.experiment.corpora.stories.reading import read_continuation

ENTITY_COLUMNS = ("entity_right", "entity_claims", "entity_known", "entity_sentences")


def entity_scores(domains: Sequence[str], prompts: Sequence[str], continuations: Sequence[str]) -> pd.DataFrame:
    """Claims of continuations about who holds what, or where it lies, and how many of them are right.

    Args:
        domains: of each document; only the genres of the stories have known holders.
        prompts: what each continuation continues, and is compared with.
        continuations: the texts to score.

    Returns:
        One row a continuation, in order: `document`, its number; `entity_claims`, claims about holders in sentences
        that follow one of the genre's frames, and `entity_right`, those that are right; `entity_sentences`, complete
        sentences, and `entity_known`, those that follow a frame. Counts are nan where the domain is not a genre of
        stories.

    Raises:
        ValueError: the lists differ in length.
    """
    if not len(domains) == len(prompts) == len(continuations):
        raise ValueError(
            f"{len(domains)} domains, {len(prompts)} prompts and {len(continuations)} continuations; "
            "there must be one of each for every document"
        )
    genres = {genre.domain for genre in GENRES}
    rows = []
    for domain, prompt, continuation in zip(domains, prompts, continuations, strict=True):
        if domain not in genres:
            rows.append([np.nan] * len(ENTITY_COLUMNS))
            continue
        counts = read_continuation(domain, prompt, continuation)
        rows.append([counts.right, counts.claims, counts.known, counts.sentences])
    frame = pd.DataFrame(rows, columns=list(ENTITY_COLUMNS), dtype="float64")
    frame.insert(0, "document", np.arange(len(rows), dtype=np.int64))
    return frame
