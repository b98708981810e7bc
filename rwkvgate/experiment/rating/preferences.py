"""What raters' judgements say: strengths of the arms, the raters' agreement, the pull of the left side, and the power.

Strengths are those of Bradley and Terry's model (Biometrika 39, 1952): the log odds that one arm's text is preferred to
another's. "No difference" is half a win for each, which leaves both strengths where a tie leaves them; Davidson's model
(JASA 65, 1970) would add a parameter for how often raters see none. To each pair of arms that was compared, half a win
is added on both sides (Haldane, Annals of Human Genetics 20, 1956), so that an arm which always wins has a finite
strength. Intervals resample prompts and, where there are several, raters (the pigeonhole bootstrap: Owen, Annals of
Applied Statistics 1, 2007): judgements on one prompt, or by one rater, belong together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats
from scipy.sparse.csgraph import connected_components

from rwkvgate.experiment.rating.pairs import SCRIPTED
from rwkvgate.metrics.statistics import BATCH_CELLS, CONFIDENCE, POWER, RESAMPLES, Floats, Interval

MOST_STEPS = 10_000
"""Steps of the fit; most need fewer than fifty."""


def preferences(judgements: pd.DataFrame, baseline: str, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Bradley-Terry strengths of the arms against a baseline, with bootstrap intervals.

    Args:
        judgements: of `pairs.judgements`.
        baseline: the arm whose strength is 0.
        resamples: of prompts and raters.
        seed: of the resampling.

    Returns:
        One row an arm but the baseline: `arm`, `baseline`; `log_odds` of being preferred to the baseline with `low`
        and `high`, nan for a single prompt; `preferred`, the same as a probability, with `preferred_low` and
        `preferred_high`; `wins`, `ties`, `losses` against all other arms; `separated`: without the half wins the
        strength would be infinite, so the interval is the exact binomial one over prompts, open to that side;
        `prompts`, `raters`, and `by`: people, or a script.

    Raises:
        ValueError: there is no judgement, none of the baseline, or nothing connects all arms; or people and scripted
            raters are mixed.

    Example:
        >>> rows = [("ann", prompt, "new", "old", "A" if prompt % 4 else "B") for prompt in range(40)]
        >>> table = preferences(pd.DataFrame(rows, columns=["rater", "document", "a", "b", "answer"]), "old")
        >>> round(float(table["preferred"].iloc[0]), 2), bool(table["low"].iloc[0] > 0)
        (0.74, True)
    """
    by = _by(judgements)
    arms = _arms(judgements, baseline)
    won = _won(judgements, arms)
    groups = [pd.factorize(judgements[column])[0] for column in ("document", "rater")]
    sizes = [int(group.max()) + 1 for group in groups]
    compared = (won + won.transpose(0, 2, 1)).sum(axis=0) > 0  # (arm, arm)
    if connected_components(compared)[0] > 1:
        raise ValueError(f"no chain of judgements connects the arms {', '.join(arms)}; more pairs must be answered")

    def log_odds(*drawn: NDArray[np.int64], axis: int = -1) -> Floats:
        weights = np.ones(1)
        for rows, group, size in zip(drawn, groups, sizes, strict=False):
            weights = weights * _counts(rows, size)[..., group]
        wins = np.tensordot(weights, won, 1) + compared / 2
        return np.moveaxis(_fit(wins)[..., 1:], -1, 0)  # (arm, resample)

    estimate = log_odds(*(np.arange(size)[None] for size in sizes))[:, 0]
    bounds = np.full((2, len(estimate)), np.nan)
    if sizes[0] > 1:
        bounds[:] = _bounds(log_odds, sizes, len(judgements), resamples, seed)
    parts = connected_components(won.sum(axis=0) > 0, connection="strong")[1]
    separated = parts[1:] != parts[0]
    for arm in np.flatnonzero(separated):
        met = np.unique(groups[0][(won[:, 0, arm + 1] > 0) | (won[:, arm + 1, 0] > 0)]).size
        bounds[:, arm] = _one_way(bool(estimate[arm] > 0), met)
    table: dict[str, Any] = {"arm": arms[1:], "baseline": baseline, "log_odds": estimate}
    table |= {"low": bounds[0], "high": bounds[1]}
    for name, of in (("preferred", "log_odds"), ("preferred_low", "low"), ("preferred_high", "high")):
        table[name] = special.expit(table[of])
    wins = (won == 1).sum(axis=(0, 2))[1:]
    table |= {"wins": wins, "ties": (won == 0.5).sum(axis=(0, 2))[1:], "losses": (won == 1).sum(axis=(0, 1))[1:]}
    return pd.DataFrame(table | {"separated": separated, "prompts": sizes[0], "raters": sizes[1], "by": by})


def agreement(judgements: pd.DataFrame) -> float:
    """Krippendorff's alpha for nominal answers: 1 is agreement, 0 chance; nan where no pair has two raters.

    Computed from coincidences ("Computing Krippendorff's Alpha-Reliability", 2011); pairs with one rater are left out.

    Args:
        judgements: of `pairs.judgements`, of one set, so that all raters saw the same sides.
    """
    counts = pd.crosstab(judgements["pair"], judgements["answer"]).to_numpy(dtype=np.float64)  # (pair, answer)
    counts = counts[counts.sum(axis=1) > 1]
    each, answers = counts.sum(axis=1), counts.sum(axis=0)
    n = answers.sum()
    expected = (n**2 - (answers**2).sum()) / (n - 1) if n else 0.0
    if not expected:  # nobody to compare, or everybody always said the same
        return 1.0 if n else float("nan")
    observed = ((each**2 - (counts**2).sum(axis=1)) / (each - 1)).sum()
    return float(1 - observed / expected)


def share_of_a(judgements: pd.DataFrame) -> Interval:
    """Share of A among answers that are A or B, with the exact binomial interval: 0.5 without a pull to one side."""
    decided = judgements["answer"][judgements["answer"] != "tie"]
    if not len(decided):
        return Interval(np.nan, np.nan, np.nan, 0)
    result = stats.binomtest(int((decided == "A").sum()), len(decided))
    bounds = result.proportion_ci(CONFIDENCE)
    return Interval(float(result.statistic), float(bounds.low), float(bounds.high), len(decided))


def judgements_needed(share: float = 0.6) -> int:
    """How many decided judgements, each of another prompt, show that an arm is preferred in this share of them.

    Exact two-sided binomial test at 5 % with 80 % power; as power is not quite monotone, from here on it stays there.

    Raises:
        ValueError: the share is not between 0.5 and 1, or so close to 0.5 that millions would be needed.

    Example:
        >>> judgements_needed(0.9)
        12
    """
    if not 0.501 <= share < 1:
        raise ValueError(f"share is {share}; it must be at least 0.501 and below 1")
    most = int(4 / (share - 0.5) ** 2) + 20  # twice what the normal approximation asks for, and more
    n = np.arange(1, most)
    fewest = stats.binom.isf((1 - CONFIDENCE) / 2, n, 0.5) + 1  # wins from which the test rejects
    power = stats.binom.sf(fewest - 1, n, share) + stats.binom.cdf(n - fewest, n, share)
    return int(n[power < POWER].max()) + 1


def describe(judgements: pd.DataFrame, baseline: str) -> str:
    """The analysis in sentences, to be printed; it begins with whose judgements they are.

    Raises:
        ValueError: as `preferences`.
    """
    table = preferences(judgements, baseline)
    by, prompts, raters = table[["by", "prompts", "raters"]].iloc[0]
    people = f"{raters} rater" if raters == 1 else f"{raters} raters"
    lines = [f"By {by}: {len(judgements)} judgements on {prompts} prompts by {people}."]
    for row in table.to_dict("records"):
        lines.append(
            f"{row['arm']} against {baseline}: preferred with probability {row['preferred']:.2f} "
            f"[{row['preferred_low']:.2f}, {row['preferred_high']:.2f}], log odds {row['log_odds']:+.2f} "
            f"[{row['low']:+.2f}, {row['high']:+.2f}]; {row['wins']} wins, {row['ties']} ties, {row['losses']} losses."
        )
        if row["separated"]:
            lines.append(
                f"  All judgements between {row['arm']} and {baseline} go one way: the strength is finite only by the "
                "half win added on both sides, and the interval is the exact one over prompts."
            )
    if raters > 1:
        lines.append(f"Agreement of the raters: Krippendorff's alpha {agreement(judgements):.2f}.")
    a = share_of_a(judgements)
    lines.append(f"Share of A among {a.n} decided answers: {a.estimate:.2f} [{a.low:.2f}, {a.high:.2f}].")
    lines.append(f"{judgements_needed()} decided judgements show a preference of 60:40 with 80 % power.")
    return "\n".join(lines)


def _by(judgements: pd.DataFrame) -> str:
    scripted = judgements["rater"].str.startswith(SCRIPTED)
    if not len(judgements):
        raise ValueError("there is no judgement; a strength needs at least one")
    if scripted.any() and not scripted.all():
        raise ValueError("people and scripted raters are mixed; give the judgements of one of them")
    return "a script, no human evaluation" if scripted.all() else "people"


def _arms(judgements: pd.DataFrame, baseline: str) -> list[str]:
    """The baseline, then the other arms by name."""
    arms = sorted({*judgements["a"], *judgements["b"]})
    if baseline not in arms:
        raise ValueError(f"baseline is {baseline!r}; judged were {', '.join(arms)}")
    return [baseline, *(arm for arm in arms if arm != baseline)]


def _won(judgements: pd.DataFrame, arms: list[str]) -> Floats:
    """(judgement, arm, arm): 1 where the first arm was preferred to the second, half where there was no difference."""
    a, b = (pd.Index(arms).get_indexer(pd.Index(judgements[side])) for side in ("a", "b"))
    share = judgements["answer"].map({"A": 1.0, "tie": 0.5, "B": 0.0}).to_numpy(dtype=np.float64)
    won, rows = np.zeros((len(judgements), len(arms), len(arms))), np.arange(len(judgements))
    won[rows, a, b], won[rows, b, a] = share, 1 - share
    return won


def _counts(rows: NDArray[np.int64], size: int) -> Floats:
    """How often each of `size` members was drawn, from (resample, drawn) to (resample, member)."""
    offsets = np.arange(len(rows))[:, None] * size
    counts = np.bincount((rows.astype(np.int64) + offsets).ravel(), minlength=len(rows) * size)
    return counts.reshape(len(rows), size).astype(np.float64)


def _fit(wins: Floats) -> Floats:
    """Log strengths (..., arm) relative to the first arm, from wins (..., arm, arm), by Hunter's MM steps.

    Annals of Statistics 32, 2004: each step raises the likelihood, and with half a win everywhere they converge.
    """
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(axis=-1)
    strength = np.ones(won.shape)
    for _ in range(MOST_STEPS):
        fresh = won / (games / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1)
        fresh /= fresh[..., :1]
        change = np.abs(np.log(fresh / strength)).max()
        strength = fresh
        if change < 1e-6:
            break
    return np.log(strength)


def _one_way(ahead: bool, prompts: int) -> tuple[float, float]:
    """The exact interval of log odds where on every prompt the arm was preferred to the baseline, or on none."""
    if not prompts:  # they never met, and other arms separate them
        return np.nan, np.nan
    bounds = stats.binomtest(prompts if ahead else 0, prompts).proportion_ci(CONFIDENCE)
    return float(special.logit(bounds.low)), float(special.logit(bounds.high))


def _bounds(statistic: Any, sizes: list[int], cells: int, resamples: int, seed: int) -> Floats:
    """The percentile intervals (low or high, arm) over prompts and, where there are several, raters."""
    result: Any = stats.bootstrap(
        tuple(np.arange(size) for size in sizes if size > 1),
        statistic,
        n_resamples=resamples,
        batch=max(1, BATCH_CELLS // cells),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    bounds = result.confidence_interval
    return np.stack([bounds.low, bounds.high])
