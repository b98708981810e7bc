"""What README, docs/results.md and the site say of the committed run: its numbers become Markdown here alone.

All is read from `outputs/reference`, `outputs/study/claims.json` and the settings of the profiles. `write_results`
writes README's marked parts and docs/results.md; `make reference` and `make study` end with it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment import order
from rwkvgate.experiment.analysis.comparison import BASE, CONTROL
from rwkvgate.experiment.analysis.tables import comparison_table, markdown, quality_table, time_table, trivial_table
from rwkvgate.experiment.claims import answer, claims_summary
from rwkvgate.experiment.judgements import Records
from rwkvgate.experiment.plan import SHAPES, download_bytes, notebook_steps, parameters_of, plan, shape_of
from rwkvgate.experiment.records import intact, reading
from rwkvgate.experiment.rules import AT_THE_SHAPE
from rwkvgate.experiment.run import Run, read_manifest
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.study.committed import beside_study, committed_arms, committed_verdicts
from rwkvgate.gate.validation import SettingsError
from rwkvgate.metrics.roofline import T4
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import write_text
from rwkvgate.rwkv6.hub import PAPER_MODEL
from rwkvgate.workflow.app import open_finished

REFERENCE = Path("outputs", "reference")
README, PAGE, STUDY = Path("README.md"), Path("docs", "results.md"), Path("docs", "study.md")
OPEN, CLOSE = "<!-- {} -->", "<!-- end of {} -->"
"""Between these a part of the README is written; its name stands in both."""
FIGURES = {
    "figure3.svg": "BLEU, ROUGE-1 and ROUGE-L of each arm (network compared), with the paper's",
    "gates.svg": "Mean gate of each layer over the tokens of a text, tuned",
}
"""Those that carry the answer."""
SHOWN = ("perplexity", "bleu", "rouge1", "rougeL", "entity_consistency", "loss_far")
"""The metrics in the comparison; the report has all."""
COMPARED = ("Metric", "Against", "Difference", "95 % interval", "Relative", "Over seeds", "Reading")
TIMES = ("Arm", "Time (s)", "Ratio to base", "Paper (s)", "Paper ratio")
DOES = {
    order.NOTEBOOKS["corpus"]: "texts, tokenizer, base model",
    order.NOTEBOOKS["arm"]: "fine-tuning of one arm with one seed",
    order.NOTEBOOKS["evaluation"]: "the base and one arm",
    order.ABLATIONS: "all arms: tables, figures, ablations, claims",
    order.VISUALIZATION: "the gate over tokens, layers and channels",
}
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({})"


def write_results(root: Path, address: str) -> list[Path]:
    """Write README's marked parts and docs/results.md from what is committed; returns both paths.

    Args:
        address: on Colab, of the checkout's notebooks.

    Raises:
        SettingsError: a mark is missing, or the committed run is missing or damaged.
    """
    reference, readme = root / REFERENCE, root / README
    claims = read_claims(reference)
    text = readme.read_text(encoding="utf-8")
    verdicts, arms = committed_verdicts(root), committed_arms(root)
    told = [*answer_part(reference, claims), *study_part(verdicts, STUDY, arms)]
    text = _between(text, "answer", [*told, *figures_part(REFERENCE / "figures")], readme)
    text = _between(text, "notebooks", [markdown(notebooks_table(address))], readme)
    page = "\n\n".join(filter(None, results_page(reference, claims, verdicts, arms))) + "\n"
    write_text(root / PAGE, page)
    write_text(readme, text)
    return [readme, root / PAGE]


def read_claims(reference: Path) -> list[Records]:
    """The committed run's claims, once their file is what its record says."""
    with reading(intact(reference / "results" / "claims.json")) as path:
        claims: list[Records] = json.loads(path.read_text(encoding="utf-8"))
    return claims


def answer_part(reference: Path, claims: list[Records]) -> list[str]:
    """Paragraphs: what the committed run was measured on, its answer in a few sentences, and its limits."""
    manifest = read_manifest(reference)
    shape, seeds = shape_of(open_finished(reference)), ", ".join(map(str, manifest["seeds"]))
    where = (
        f"Measured on networks of {parameters_of(shape) / 1e6:.1f} M parameters ({shape.num_hidden_layers} layers of "
        f"{shape.hidden_size} channels), seeds {seeds}, on {manifest['hardware']['cores']} CPU cores; the paper's "
        f"numbers are of {parameters_of(Rwkv6Config(**SHAPES[PAPER_MODEL])) / 1e9:.1f} B parameters ({AT_THE_SHAPE})."
    )
    return [where, "\n".join(f"- {sentence}" for sentence in answer(claims)), _limits(reference, shape.vocab_size)]


def _limits(reference: Path, vocabulary: int) -> str:
    """What the committed run's numbers cannot say, with what tuning did to the base."""
    values = _table(reference, "summary").set_index(["metric", "arm"])["value"]
    before, after = (values["perplexity_natural", arm] for arm in (BASE, CONTROL))
    return (
        f"**Limits.** The untouched base has perplexity {values['perplexity', BASE]:,.0f} on the test stories, with "
        f"{vocabulary:,} tokens to choose from: little better than a guess, so that any tuning gains much over it. "
        f"Tuning forgets: of natural text the tuned base has perplexity {after:,.0f}, the untouched one {before:,.0f}. "
        "The stories come from a grammar. No network of the paper's size was trained or scored, and none on a GPU."
    )


def study_part(verdicts: list[Records], page: Path, arms: pd.DataFrame | None = None) -> list[str]:
    """What the committed study says of pretraining, with a link to its page; nothing where there is no study.

    Args:
        arms: of `committed.committed_arms`; variants of the gate that are better than every control are told.
    """
    if not verdicts:
        return []
    from rwkvgate.experiment.study.verdicts_page import better_variants, pretraining  # which loads torch

    about = "has more seeds, controls of equal compute, and networks of its own (64x4: 64 channels, 4 layers)."
    first, places = pretraining(verdicts)
    listed = ["\n".join(f"- {place}" for place in places)] if places else []
    return [f"[The study]({page.as_posix()}) {about} {first}", *listed, *better_variants(verdicts, arms)]


def figures_part(folder: Path) -> list[str]:
    """The figures that carry the answer, for a page beside which they lie in `folder`."""
    return [f"![{words}]({(folder / name).as_posix()})" for name, words in FIGURES.items()]


def notebooks_table(address: str) -> pd.DataFrame:
    """Each notebook with its badge, its time by itself on a T4 as `make plan` counts it, and what it downloads."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:  # where nothing is made yet
        run = Run(resolve(profile="t4", run_dir=folder))
        size = f"{download_bytes(run) / 1e9:.1f} GB and texts"
        for name, does in DOES.items():
            time = _roughly(plan(run, T4, notebook_steps(run, name))["seconds"].sum())
            opens = name == order.VISUALIZATION
            rows.append(
                {
                    "Notebook": f"[{name}](notebooks/{name}.ipynb): {does}",
                    "Alone on a free T4": f"at once; {time} for the paper's model" if opens else time,
                    "Downloads": f"nothing; {size}" if opens else size,
                    "": BADGE.format(f"{address}/notebooks/{name}.ipynb"),
                }
            )
    return pd.DataFrame(rows)


def _roughly(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def results_page(
    reference: Path, claims: list[Records], study: list[dict[str, Any]], arms: pd.DataFrame | None = None
) -> list[str]:
    """The paragraphs of docs/results.md: claims, tables and figures of the committed run, and every claim's rule.

    Args:
        study: of `committed.committed_verdicts`, shown beside the run's own verdicts.
        arms: as `study_part` takes them.
    """
    command = f"make reproduce SEEDS={len(read_manifest(reference)['seeds'])}"
    return [
        "# The committed run, claim by claim",
        f"`make reference` writes this page from `outputs/reference`, the committed run of profile cpu: `{command}`.",
        *answer_part(reference, claims),
        *study_part(study, Path(STUDY.name), arms),
        *results_in_markdown(reference, study),
        "## Verdicts, reasons and rules",
        "`rwkvgate/experiment/rules.py` has the rules with their history.",
        *_reasons(claims),
    ]


def _reasons(claims: list[Records]) -> Iterator[str]:
    """Each claim's reason and rule; a rule that several have is written out at the first."""
    first: dict[str, str] = {}
    for claim in claims:
        yield f"### {claim['text'][0].upper()}{claim['text'][1:]}"
        yield f"*{claim['verdict'].capitalize()}*: {claim['reason']}."
        told = f"the same as that of *{first[claim['rule']]}*" if claim["rule"] in first else claim["rule"]
        first.setdefault(claim["rule"], claim["text"])
        yield f"The paper: {claim['stated']} ({claim['source']}). The rule: {told}."


def results_in_markdown(reference: Path, study: list[dict[str, Any]]) -> list[str]:
    """The tables and figures of a committed run."""
    names = ("summary", "times", "comparisons", "trivial")
    summary, times, compared, trivial = (_table(reference, name) for name in names)
    is_shown = (compared["arm"] == "enhanced") & compared["metric"].isin(SHOWN) & (compared["domain"] == "")
    is_shown &= compared["against"].isin(["base", "base-tuned"])
    figures = figures_part(Path("..") / REFERENCE / "figures")
    return [
        "## Claims",
        "The last column is of [the study](study.md), which has its own networks and seeds. It fine-tunes at two "
        "choices of the learning rates, and the seeds are those of each; one verdict stands for both, the weaker one "
        "where they disagree, and the study's page has each."
        if study
        else "",
        markdown(claims_summary(beside_study(read_claims(reference), study))),
        "## Quality",
        "The paper's Table 2; mean over seeds ± their standard deviation.",
        markdown(quality_table(summary)),
        "Systems that write without any model, scored in the same way: near theirs, a score says little of a network.",
        markdown(trivial_table(trivial)),
        figures[0],
        "The enhanced network against the untouched base, which is the paper's comparison, and against the tuned base, "
        "paired by document. *Better* and *worse* are by each row's own test at 5 %, and so is its minimum detectable "
        "effect, the smallest difference that as many seeds would show in four of five runs. The verdicts above, and "
        "their minimum detectable effects, are corrected for the number of tests:",
        markdown(comparison_table(compared[is_shown])[list(COMPARED)]),
        "## Time of a forward pass",
        "The paper's Table 1; median [quartiles], ratio [95 % interval]. Seconds are those of seeds that were timed at "
        "different moments, and cannot be divided by one another; a ratio is of an arm and the base timed in turn.",
        markdown(time_table(times)[list(TIMES)]),
        "## The gate",
        figures[1],
    ]


def _table(reference: Path, name: str) -> pd.DataFrame:
    with reading(intact(reference / "results" / f"{name}.parquet")) as path:
        return pd.read_parquet(path)


def _between(text: str, name: str, parts: list[str], readme: Path) -> str:
    """A text whose part between two marks is replaced."""
    opening, closing = OPEN.format(name), CLOSE.format(name)
    before, found, rest = text.partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        raise SettingsError(f"{readme} lacks the marks {opening} and {closing}")
    return f"{before}{opening}\n" + "\n\n".join(parts) + f"\n{closing}{after}"
