"""Studies' figures: what goes in is what is drawn, units are named, and nothing is dropped without a word."""

from __future__ import annotations

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from rwkvgate.experiment.analysis.comparison import summary
from rwkvgate.experiment.analysis.curves import spread_curves
from rwkvgate.experiment.analysis.drawing import EMPTY, MARKERS, drawn_interval, marks_of, nothing, spread
from rwkvgate.experiment.analysis.study_figures import gains_figure, grid_figure, positions_figure, quality_cost_figure
from rwkvgate.experiment.arms import ARMS

FEW = 100
TIMES = ["seconds_median", "seconds_low", "seconds_high"]
RATIOS = ["ratio", "ratio_low", "ratio_high"]
GRID = ["arm", "measure", "batch", "tokens", *TIMES, *RATIOS, "peak_mib", "dtype", "threads", "device"]


def rendered(figure):
    """The figure drawn without warnings; no text outside it, none on another of its panel."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    inner = figure.bbox.padded(2)
    loose = [*figure.texts, *[text for axes in figure.axes for text in axes.texts]]
    # Of an annotation, the text without its arrow.
    places = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in loose if text.get_text()]
    for axes in figure.axes:
        if axes.axison:
            own = [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]
            places += [(text.get_text(), text.get_window_extent(renderer)) for text in own if text.get_text()]
    places += [
        (text.get_text(), text.get_window_extent(renderer)) for legend in figure.legends for text in legend.get_texts()
    ]
    for said, place in places:
        assert place.x0 >= inner.x0 and place.x1 <= inner.x1 and place.y0 >= inner.y0 and place.y1 <= inner.y1, said
    for (said, a), (other, b) in itertools.combinations(dict.fromkeys(places), 2):
        assert not (min(a.x1, b.x1) > max(a.x0, b.x0) + 1 and min(a.y1, b.y1) > max(a.y0, b.y0) + 1), (said, other)
    return figure


def notes(figure):
    return figure._suptitle.get_text().replace("\n", " ") if figure._suptitle else ""


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def line(axes, arm):
    """The arm's line as rows (x, y)."""
    (found,) = [item for item in axes.lines if item.get_label() == arm]
    return found.get_xydata()


def points(axes, arm):
    """The arm's marks as rows (x, y)."""
    wanted = marks_of(arm)
    found = [item for item in axes.lines if item.get_marker() == wanted["marker"] and len(item.get_xdata())]
    return np.concatenate([item.get_xydata() for item in found]) if found else np.empty((0, 2))


def bars(axes):
    """Ends of every error bar, rows of ((x0, y0), (x1, y1))."""
    return [segment for item in axes.collections for segment in item.get_segments()]


def positions(arms=("base", "enhanced"), seeds=(0, 1), kinds=("stories", "natural"), texts=4):
    rng = np.random.default_rng(1)
    rows = [
        (arm, seed, kind, text, start, stop, (stop - start) * (2 + rng.random()), stop - start)
        for arm in arms
        for seed in seeds
        for kind in kinds
        for text in range(texts)
        for start, stop in ((0, 16), (16, 32), (32, 64), (64, 128), (128, 256))
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "kind", "text", "start", "stop", "nll", "tokens"])


def gains(arms=("base", "enhanced"), seeds=(0, 1), probes=("copying", "forgetting", "recall", "passkey"), items=4):
    rng = np.random.default_rng(2)
    rows = [
        (arm, seed, probe, length, depth, item, rng.normal(1, 0.5), 0.5, 0.1)
        for arm in arms
        for seed in seeds
        for probe in probes
        for length in (64, 128, 256, 512)
        for depth in ((0.0, 0.5, 1.0) if probe == "passkey" else (np.nan,))
        for item in range(items)
    ]
    names = ["arm", "seed", "probe", "length", "depth", "item", "gain", "accuracy", "blank_accuracy"]
    return pd.DataFrame(rows, columns=names)


def grid(arms=("base", "enhanced"), measures=("prefill", "decode")):
    rng = np.random.default_rng(3)
    rows = [
        (arm, measure, batch, tokens, 0.1, 0.09, 0.12, *ratio, 64.0, "float32", 2, "cpu")
        for arm in arms
        for measure in measures
        for batch in (1, 4)
        for tokens in (128, 512)
        for middle in (1 + (arm != "base") * rng.random() / 5,)
        for ratio in ((middle, middle - 0.03, middle + 0.04),)
    ]
    return pd.DataFrame(rows, columns=GRID)


def logs(losses):
    """One log a seed from {step: validation loss}."""
    return [
        SimpleNamespace(
            history=[{"step": 1, "loss": 3.0}] * bool(seed)
            + [{"step": step, "validation_loss": value} for step, value in seed.items()]
        )
        for seed in losses
    ]


def test_positions_are_sums_over_seeds_and_texts():
    frame = positions()
    figure = rendered(positions_figure(frame, 64, resamples=FEW))
    stories, natural = figure.axes
    part = frame[(frame["arm"] == "enhanced") & (frame["kind"] == "natural")].groupby("start")[["nll", "tokens"]].sum()
    middles = [16, *(np.sqrt(a * b) for a, b in ((16, 32), (32, 64), (64, 128), (128, 256)))]
    np.testing.assert_allclose(line(natural, "enhanced"), np.column_stack((middles, part["nll"] / part["tokens"])))
    assert stories.get_title(loc="left") == "stories" and natural.get_title(loc="left") == "natural"
    assert "nats a token" in stories.get_ylabel() and "tokens" in natural.get_xlabel()
    assert stories.get_xscale() == "log"
    for axes in figure.axes:
        (trained,) = [item for item in axes.lines if item.get_gid() == "trained"]
        assert list(trained.get_xdata()) == [64, 64] and trained.get_linestyle() == "--"
        assert len(axes.collections) == 2  # a band an arm
    assert [said for said in texts(figure) if said.startswith("trained length")] == ["trained length: 64"] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "enhanced"]
    assert notes(figure) == ""


def test_the_band_is_the_interval_over_texts():
    frame = positions(arms=("enhanced",), seeds=(0,), kinds=("stories",), texts=9)
    axes = rendered(positions_figure(frame, 64, resamples=FEW)).axes[0]
    sums = frame[frame["start"] == 0].groupby("text")[["nll", "tokens"]].sum().to_numpy()
    wanted = drawn_interval(sums, lambda s, n: s[..., 0] / s[..., 1], FEW)
    drawn = axes.collections[0].get_paths()[0].vertices
    at = drawn[np.isclose(drawn[:, 0], 16), 1]
    np.testing.assert_allclose([at.min(), at.max()], [wanted.low, wanted.high])


def test_positions_without_a_number_are_named():
    frame = positions()
    frame.loc[frame["arm"] == "enhanced", "nll"] = frame.loc[frame["arm"] == "enhanced", "nll"].where(
        frame["start"] != 128
    )
    figure = rendered(positions_figure(frame, 64, resamples=FEW))
    assert notes(figure) == "not a number, left out: enhanced (16 of 80 rows)"
    assert len(line(figure.axes[0], "enhanced")) == 4 and len(line(figure.axes[0], "base")) == 5


def test_one_point_of_one_text():
    frame = positions(arms=("enhanced",), seeds=(0,), kinds=("natural",), texts=1).iloc[:1]
    figure = rendered(positions_figure(frame, 64))
    assert len(line(figure.axes[0], "enhanced")) == 1
    assert notes(figure) == "one text, no interval: enhanced, natural"


def test_gains_are_means_over_seeds_items_and_depths():
    frame = gains()
    figure = rendered(gains_figure(frame, 128, resamples=FEW))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["copying", "forgetting", "recall", "passkey"]
    passkey = figure.axes[3]
    part = frame[(frame["arm"] == "base") & (frame["probe"] == "passkey")].groupby("length")["gain"].mean()
    np.testing.assert_allclose(line(passkey, "base"), np.column_stack((part.index, part)))
    for axes in figure.axes:
        assert {"zero", "trained"} <= {item.get_gid() for item in axes.lines}
        assert axes.xaxis.get_transform().base == 2 and "tokens" in axes.get_xlabel()
        assert [int(tick) for tick in axes.get_xticks()] == [64, 128, 256, 512]
    assert figure.axes[0].get_ylabel() == "gain (nats a token)"


def test_gains_of_missing_probes_arms_and_numbers():
    frame = gains(probes=("recall", "passkey", "copying"))
    frame = frame[(frame["probe"] != "recall") | (frame["arm"] != "enhanced")].copy()
    frame.loc[frame["probe"] == "copying", "gain"] = np.nan
    figure = rendered(gains_figure(frame, 2048, resamples=FEW))
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["copying", "recall", "passkey"]
    assert "no numbers" in texts(figure)
    assert "base (32 of" in notes(figure) and "enhanced (32 of" in notes(figure)
    assert not [item for item in figure.axes[1].lines if item.get_label() == "enhanced"]
    assert len(rendered(gains_figure(gains(probes=("recall",), seeds=(0,), items=1), 128)).axes) == 1


def test_quality_stands_against_both_costs(results, latency):
    arms = ("base", "base-tuned", "enhanced", "fixed-gate")
    shares = {"base": 0.0, "base-tuned": 0.0, "enhanced": 0.031, "fixed-gate": 0.0}
    figure = rendered(quality_cost_figure(results, latency, shares, arms=arms, resamples=FEW))
    numbers = summary(results, arms=arms, metrics=("perplexity",), resamples=FEW).set_index("arm")
    times, flops = figure.axes
    np.testing.assert_allclose(points(times, "enhanced"), [[1.071, numbers.at["enhanced", "value"]]])
    np.testing.assert_allclose(points(times, "base"), [[1.0, numbers.at["base", "value"]]])
    np.testing.assert_allclose(points(flops, "enhanced"), [[3.1, numbers.at["enhanced", "value"]]])
    ends = np.array(bars(times))
    for wanted in ((1.061, 1.083), tuple(numbers.loc["enhanced", ["low", "high"]])):
        assert np.isclose(np.sort(ends.transpose(0, 2, 1)), wanted).all(axis=-1).any()
    assert "ratio to base" in times.get_xlabel() and "%" in flops.get_xlabel()
    assert "lower is better" in times.get_ylabel()
    assert sorted(text.get_text() for text in times.texts) == sorted(arms)


def test_quality_without_times_flops_or_runs(results, latency):
    arms = ("base", "enhanced", "low-rank")
    figure = rendered(quality_cost_figure(results, latency.iloc[:0], {"base": 0.0}, arms=arms, resamples=FEW))
    assert EMPTY in texts(figure)
    assert notes(figure) == "no perplexity: low-rank (not run) no forward time: base, enhanced no FLOPs: enhanced"
    broken = results.assign(value=results["value"].where((results["arm"] != "enhanced") | (results["document"] != 3)))
    figure = rendered(quality_cost_figure(broken, latency, {}, arms=arms[:2], resamples=FEW))
    assert "enhanced (not finite)" in notes(figure)


def test_quality_without_intervals_says_so(results, latency):
    bare = latency.assign(ratio_low=np.nan)
    one = results[results["document"] == 0]
    figure = rendered(quality_cost_figure(results, bare, {"enhanced": 0.1}, arms=("enhanced",), resamples=FEW))
    assert notes(figure) == "no interval: enhanced" and len(points(figure.axes[0], "enhanced")) == 1
    figure = rendered(quality_cost_figure(one, latency, {"base": 0.0}, arms=("base",), resamples=FEW))
    assert notes(figure) == "no interval: base" and len(points(figure.axes[1], "base")) == 1


def test_an_arm_far_above_the_others_stands_at_the_edge(results, latency):
    bad = results[results["arm"] == "fixed-gate"].assign(arm="enhanced-untrained")
    bad["value"] = bad["value"].where(bad["metric"] != "nll", bad["value"] * 5)
    both = pd.concat([results, bad])
    arms = ("base-tuned", "enhanced", "fixed-gate", "enhanced-untrained")
    figure = rendered(quality_cost_figure(both, latency, dict.fromkeys(arms, 0.0), arms=arms, resamples=FEW))
    value = summary(both, arms=arms, metrics=("perplexity",), resamples=FEW).set_index("arm").at[arms[3], "value"]
    assert f"enhanced-untrained: {value:.3g} ↑" in texts(figure)
    assert "no forward time: enhanced-untrained" in notes(figure)


def test_the_grid_shows_every_batch_and_length():
    frame = grid()
    figure = rendered(grid_figure(frame))
    prefill, decode = figure.axes
    part = frame[(frame["arm"] == "enhanced") & (frame["measure"] == "decode")]
    np.testing.assert_allclose(points(decode, "enhanced"), np.column_stack((part["ratio"], range(4))))
    ends = sorted(float(segment[0][0]) for segment in bars(decode))
    np.testing.assert_allclose(ends, sorted(part["ratio_low"]))
    assert [label.get_text() for label in prefill.get_yticklabels()] == ["1 × 128", "1 × 512", "4 × 128", "4 × 512"]
    for axes in figure.axes:
        assert axes.get_xlabel() == "time, ratio to base" and "2 threads" in axes.get_title(loc="left")
        assert "base" in {item.get_gid() for item in axes.lines}


def test_a_grid_with_holes():
    frame = grid(arms=("base", "enhanced", "low-rank"), measures=("prefill",))
    frame.loc[frame["arm"] == "enhanced", "ratio"] = [np.nan, 1.1, 1.1, 1.1]
    elsewhere = frame.assign(threads=8)
    figure = rendered(grid_figure(pd.concat([frame, elsewhere])))
    assert EMPTY in texts(figure)
    assert "enhanced (1 of 4 rows)" in notes(figure) and "8 rows measured elsewhere" in notes(figure)
    one = frame[frame["arm"] == "low-rank"].iloc[:1].assign(ratio_low=np.nan, ratio_high=np.nan)
    figure = rendered(grid_figure(one))
    assert len(points(figure.axes[0], "low-rank")) == 1 and notes(figure) == "no interval: low-rank"


def test_spread_is_the_mean_and_the_range_of_seeds():
    found = {"base": logs([{}]), "enhanced": logs([{10: 2.0, 20: 1.0}, {10: 3.0, 20: 2.0}, {10: 2.5, 20: 1.8}])}
    figure = rendered(spread_curves(found, "Fine-tuning"))
    axes = figure.axes[0]
    np.testing.assert_allclose(line(axes, "enhanced"), [[10, 2.5], [20, 1.6]])
    drawn = axes.collections[0].get_paths()[0].vertices
    assert {(10.0, 2.0), (10.0, 3.0), (20.0, 1.0), (20.0, 2.0)} <= {tuple(row) for row in drawn.tolist()}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["enhanced"]
    assert axes.get_ylabel() == "validation loss (nats a token)" and axes.get_xlabel() == "optimiser step"
    assert notes(figure) == ""


def test_spread_says_what_is_lacking():
    found = {
        "enhanced": logs([{10: 2.0, 20: float("nan")}, {10: 3.0, 20: 2.0}]),
        "low-rank": [SimpleNamespace(history=[{"step": 1, "loss": 2.0}])],
        "per-head": logs([{10: 2.2}]),
    }
    figure = rendered(spread_curves(found, "Fine-tuning"))
    for said in ("enhanced (1 of 4 losses)", "enhanced: not all 2 seeds at 1 of 2 steps", "never validated: low-rank"):
        assert said in notes(figure)
    assert line(figure.axes[0], "per-head").tolist() == [[10, 2.2]]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: positions_figure(positions().iloc[:0], 64),
        lambda: positions_figure(positions().assign(nll=np.nan), 64),
        lambda: gains_figure(gains().iloc[:0], 64),
        lambda: gains_figure(pd.DataFrame(), 64),
        lambda: grid_figure(grid().iloc[:0]),
        lambda: grid_figure(grid(arms=("base",))),
        lambda: grid_figure(grid().assign(ratio=np.nan)),
        lambda: quality_cost_figure(pd.DataFrame(), pd.DataFrame(), {}, arms=("base",)),
        lambda: spread_curves({}, "Fine-tuning"),
        lambda: spread_curves({"base": logs([{}])}, "Fine-tuning"),
    ],
)
def test_nothing_measured_is_said(figure):
    assert EMPTY in texts(rendered(figure()))


def test_many_arms_are_drawn_apart():
    arms = tuple(ARMS)
    assert len({str(marks_of(arm)["marker"]) for arm in arms}) == len(arms) <= len(MARKERS)
    rendered(positions_figure(positions(arms=arms, texts=2), 64, resamples=10))
    rendered(gains_figure(gains(arms=arms, items=2), 64, resamples=10))
    rendered(grid_figure(grid(arms=arms)))
    rng, parts = np.random.default_rng(5), []
    for arm in arms:
        for metric, value in (("nll", 100.0), ("tokens", 200.0)):
            noise = rng.normal(0, 1, 6) * (metric == "nll")
            parts.append(
                pd.DataFrame({"arm": arm, "seed": 0, "document": range(6), "metric": metric, "value": value + noise})
            )
    frame = grid(arms=arms, measures=("prefill",)).iloc[::4].assign(measure="forward", seed=0)
    shares = {arm: 0.001 * i for i, arm in enumerate(arms)}
    rendered(quality_cost_figure(pd.concat(parts), frame, shares, arms=arms, resamples=10))


def test_labels_are_spread_in_order():
    wanted = [0.5, 0.5, 0.52, 0.1, 0.99, 1.0]
    found = spread(wanted, 0.1)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0.1 - 1e-9).all() and min(found) >= 0 and max(found) <= 1 + 1e-9
    assert found[3] == pytest.approx(0.1) and spread([], 0.1) == [] and spread([0.3], 0.1) == [0.3]
    assert np.ptp(spread([0.5] * 30, 0.1)) == pytest.approx(1)


def test_an_empty_figure_tells_why():
    figure = rendered(nothing("A study", ["a long reason " * 12]))
    assert figure.axes[0].get_title(loc="left") == "A study" and "a long reason" in notes(figure)
