"""Chores of the checkout that make, snakemake and papermill do not already do.

`python -m rwkvgate.workflow.release lock | stamp | reference`; each is a target of the Makefile. `reference` also
writes the README's results from the tables that it copies.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from rwkvgate.experiment.analysis.tables import markdown, signed
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.settings import project_root
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_folder, write_text
from rwkvgate.workflow.colab import install_cell

LOCK_HEADER = "# Every version the project is tested with, for Python 3.11 to 3.13. Written by `make lock`.\n"
# What torch's CUDA builds bring is pinned by torch itself; pip and its kin belong to the environment.
UNLOCKED = ("nvidia-", "cuda-", "triton", "pip", "setuptools", "wheel", "rwkvgate")
ADDRESSES = (
    (r"(?<=colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+/blob/[\w.-]+(?=/notebooks/)", "{slug}/blob/{release}"),
    (r"(?<=git clone https://github\.com/)[\w.-]+/[\w.-]+", "{slug}"),
)
"""Where the repository and its release stand in the README and the notebooks, and how."""

REFERENCE_FILES = (
    "manifest.json",
    "environment.txt",
    "results/table*.parquet",
    "results/ablations.parquet",
    "results/comparisons.parquet",
    "results/further.parquet",
    "results/cost.parquet",
    "results/claims.json",
    # What `make compare` reads.
    "results/documents.parquet",
    "results/latency.parquet",
)
REFERENCE_FIGURES = ("figures/*.svg",)
RESULTS_OPEN, RESULTS_CLOSE = "<!-- results -->", "<!-- end of results -->"
SHOWN = ("Perplexity", "BLEU", "ROUGE-1", "ROUGE-L", "Entity consistency", "Loss beyond the trained length")
"""Measures of the README's comparison; the report has all."""
COMPARED = ("Difference", "95 % interval", "Relative", "Over seeds", "Reading")


def slug(root: Path) -> str:
    """The repository's owner/name, from `[project.urls]` of pyproject.toml."""
    return str(_project(root)["urls"]["Repository"]).removeprefix("https://github.com/").rstrip("/")


def release(root: Path) -> str:
    """The tag that badges open and install cells clone: the version of pyproject.toml."""
    return f"v{_project(root)['version']}"


def _project(root: Path) -> dict[str, Any]:
    return dict(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def stamp(root: Path) -> list[Path]:
    """Write slug and release into badges and clone commands, and the install cell into the notebooks; what changed."""
    wanted, tag, changed = slug(root), release(root), []
    for path in [root / "README.md", root / "CITATION.cff", *sorted((root / "notebooks").glob("*.ipynb"))]:
        before = after = path.read_text(encoding="utf-8")
        for pattern, form in ADDRESSES:
            after = re.sub(pattern, form.format(slug=wanted, release=tag), after)
        if path.name == "CITATION.cff":
            after = re.sub(r"(?<=repository-code: ).*", f"https://github.com/{wanted}", after)
        if path.suffix == ".ipynb":
            after = _with_install_cell(after, install_cell(wanted, tag))
        if after != before:
            write_text(path, after)
            changed.append(path)
    return changed


def _with_install_cell(text: str, source: str) -> str:
    notebook = json.loads(text)
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "install")
    if "".join(cell["source"]) == source:
        return text
    cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def lock(root: Path) -> int:
    """Write constraints.txt from this environment, without local version labels such as +cpu; the pins' count."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pins = sorted({line.partition("+")[0].lower().replace("_", "-") for line in lines if "==" in line})
    kept = [pin for pin in pins if not pin.partition("==")[0].startswith(UNLOCKED)]
    write_text(root / "constraints.txt", LOCK_HEADER + "\n".join(kept) + "\n")
    return len(kept)


def reference(root: Path) -> Path:
    """Copy the small outputs of the finished cpu run to outputs/reference, to be committed."""
    run, target = root / "outputs" / "cpu", root / "outputs" / "reference"
    if not (run / "report.html").is_file():
        raise SettingsError(f"{run} holds no finished run; `make reproduce` makes it")
    with write_folder(target) as fresh:
        for pattern in (*REFERENCE_FILES, *REFERENCE_FIGURES):
            for path in sorted(run.glob(pattern)):
                copy = fresh / path.relative_to(run)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    write_results(root)
    return target


def write_results(root: Path) -> Path:
    """Write the README's results, between its two marks, from the committed reference run."""
    readme, run = root / "README.md", root / "outputs" / "reference"
    before, opening, rest = readme.read_text(encoding="utf-8").partition(RESULTS_OPEN)
    _, closing, after = rest.partition(RESULTS_CLOSE)
    if not (opening and closing):
        raise SettingsError(f"{readme} lacks the marks {RESULTS_OPEN} and {RESULTS_CLOSE}")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    hardware, shown = manifest["hardware"], ("Metric", *ARMS, "paper: base", "paper: enhanced")
    quality = pd.read_parquet(run / "results" / "table2.parquet")
    quality = quality[[column for column in shown if column in quality]]
    time = pd.read_parquet(run / "results" / "table1.parquet")
    time = time.loc[time["Measure"] == "forward", ["Arm", "Time (s)", "Ratio to base", "Paper (s)", "Paper ratio"]]
    compared = pd.read_parquet(run / "results" / "comparisons.parquet")
    told = (compared["Arm"] == "enhanced") & compared["Metric"].isin(SHOWN)
    compared = compared.loc[told, ["Metric", "Against", *COMPARED]]
    claims = json.loads((run / "results" / "claims.json").read_text(encoding="utf-8"))
    parts = [
        f"From the committed run of profile cpu (`outputs/reference`): {hardware['cores']} cores, no GPU, "
        f"seeds {', '.join(map(str, manifest['seeds']))}, torch {manifest['versions']['torch']}.",
        "**The ledger**: every claim of the paper, decided by the rules of `rwkvgate/experiment/rules.py`:",
        markdown(ledger_summary(claims)),
        "**Quality** (the paper's Table 2), mean over seeds ± their standard deviation:",
        markdown(quality),
        "**Enhanced against the untouched base (the paper's comparison) and the tuned base**, paired by document:",
        markdown(compared),
        "![BLEU, ROUGE-1 and ROUGE-L of each arm](outputs/reference/figures/figure3.svg)",
        "**Time of a forward pass** (the paper's Table 1), median [quartiles], ratio [95 % interval]:",
        markdown(time),
        "![Mean gate of each layer over the tokens of a text](outputs/reference/figures/gates.svg)",
    ]
    write_text(readme, before + RESULTS_OPEN + "\n" + "\n\n".join(parts) + "\n" + RESULTS_CLOSE + after)
    return readme


def ledger_summary(claims: list[dict[str, Any]]) -> pd.DataFrame:
    """The ledger in short: claim, what the paper states, ours with its interval, verdict."""
    rows = []
    for claim in claims:
        ours = "–" if claim.get("ours") is None else signed(claim["ours"])
        if claim.get("low") is not None:
            ours += f" [{signed(claim['low'])}, {signed(claim['high'])}] {claim['unit']}"
        rows.append({"Claim": claim["text"], "Paper": claim["stated"], "Ours": ours, "Verdict": claim["verdict"]})
    return pd.DataFrame(rows)


def main() -> None:
    """Run one chore on the checkout of the working directory."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.workflow.release", description=__doc__)
    parser.add_argument("chore", choices=("lock", "stamp", "reference"))
    chore, root = parser.parse_args().chore, project_root()
    try:
        print({"lock": lock, "stamp": stamp, "reference": reference}[chore](root))
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
