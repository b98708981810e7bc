"""Write what is derived from other files of the checkout: pinned versions, addresses, the reference run.

`python -m rwkvgate.workflow.release lock | stamp | reference | readme`; each but the last is a target of the
Makefile. `reference` also writes what README and docs/results.md say of the files that it copies; `readme`, the end
of `make study`, writes that alone.
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

from rwkvgate.experiment import order
from rwkvgate.experiment.corpora.documents import write_documents
from rwkvgate.experiment.corpora.tokenizer import save_tokenizer
from rwkvgate.experiment.environment import packages
from rwkvgate.experiment.places import project_root
from rwkvgate.experiment.records import KEPT, intact, keep_record
from rwkvgate.experiment.run import MODELS, Run, check_results
from rwkvgate.experiment.steps import ensure_texts
from rwkvgate.experiment.steps.arm import load_arm
from rwkvgate.experiment.steps.kept import ARMS, LARGEST, TEST, TEXTS
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_folder, write_json, write_text
from rwkvgate.workflow.app import REFERENCE, open_finished
from rwkvgate.workflow.colab import INSTALL_METADATA, install_cell
from rwkvgate.workflow.results import write_results

LOCK_HEADER = "# Every version the project is tested with, for Python 3.11 to 3.13. Written by `make lock`.\n"
OF_TORCH = ("nvidia-", "cuda-", "triton")
UNLOCKED = (*OF_TORCH, "pip", "setuptools", "wheel")
"""Names that begin so are not pinned: torch pins its CUDA packages itself, and an environment brings its own pip."""
HASHES_HEADER = """\
# What `make install` installs, each file by its hash, for Python 3.11.5 to 3.13. Written by `make lock`.
# torch and its CUDA packages are installed after these, at the version in constraints.txt and without hashes: an index
# of CPU or ROCm builds, or a wheel made for one machine, has another file of that version, which hashes would refuse.
"""
UV = ".venv-lock/bin/uv"
COMPILE = (
    *("pip", "compile", "pyproject.toml", "--universal", "--python-version=3.11.5", "--constraint=constraints.txt"),
    *("--extra=notebooks", "--extra=study", "--extra=dev"),
    *("--generate-hashes", "--no-annotate", "--no-header", "--quiet"),
)
"""What `make lock` asks of uv: the pinned versions with the hashes of their files on every system."""
ADDRESSES = (
    (r"(?<=colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+/blob/[\w.-]+(?=/notebooks/)", "{slug}/blob/{release}"),
    (r"(?<=git clone https://github\.com/)[\w.-]+/[\w.-]+", "{slug}"),
    (r"(?<=https://)[\w.-]+\.github\.io/[\w.-]+", "{site}"),
    (r"(?<=\(https://github\.com/)[\w.-]+/[\w.-]+/blob/[\w.-]+(?=/(?:docs|outputs)/)", "{slug}/blob/{release}"),
)
"""Patterns of the repository's address and release in the README and the notebooks, and what replaces them."""

REFERENCE_FILES = (
    "manifest.json",
    "environment.txt",
    "results/summary.parquet",
    "results/seeds.parquet",
    "results/times.parquet",
    "results/comparisons.parquet",
    "results/cost.parquet",
    "results/trivial.parquet",
    "results/claims.json",
    "results/settings.json",
    # `make compare` reads these two.
    "results/documents.parquet",
    "results/latency.parquet",
    "figures/*.svg",
    f"results/{KEPT}",
    f"figures/{KEPT}",
)

EXECUTED = (
    "01_setup",
    "02_finetune.enhanced.seed0",
    "03_evaluate.enhanced.seed0",
    "04_ablations",
    "05_gate_visualization",
)
"""The executed notebooks that are committed."""
REPORT = "report.html"
TIMES = ("papermill", "execution")
"""Metadata that papermill and the kernel write into an executed notebook."""


def slug(root: Path) -> str:
    """The repository's owner/name, from `[project.urls]` of pyproject.toml."""
    return str(_project(root)["urls"]["Repository"]).removeprefix("https://github.com/").rstrip("/")


def release(root: Path) -> str:
    """The tag that badges open and install cells clone: the version of pyproject.toml."""
    return f"v{_project(root)['version']}"


def _project(root: Path) -> dict[str, Any]:
    return dict(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def stamp(root: Path) -> list[Path]:
    """Write address and release into badges and clone commands, and the install cells; returns the changed files."""
    address, tag, changed = slug(root), release(root), []
    site = address.replace("/", ".github.io/")
    for path in [root / "README.md", root / "CITATION.cff", *sorted((root / "notebooks").glob("*.ipynb"))]:
        before = after = path.read_text(encoding="utf-8")
        for pattern, form in ADDRESSES:
            after = re.sub(pattern, form.format(slug=address, release=tag, site=site), after)
        if path.name == "CITATION.cff":
            after = re.sub(r"(?<=repository-code: ).*", f"https://github.com/{address}", after)
        if path.suffix == ".ipynb":
            after = _with_install_cell(after, install_cell(address, tag))
        if after != before:
            write_text(path, after)
            changed.append(path)
    return changed


def _with_install_cell(text: str, source: str) -> str:
    notebook = json.loads(text)
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "install")
    stamped = {"metadata": INSTALL_METADATA, "source": source.splitlines(keepends=True)}
    if cell | stamped == cell:
        return text
    cell |= stamped
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def lock(root: Path) -> int:
    """Write constraints.txt, the installed packages without labels of builds such as +cpu, and requirements.lock.

    Returns the number of packages in the latter. `make lock` installs the uv that it calls.
    """
    pins = sorted(line.partition("  #")[0] for line in packages() if not line.startswith(("#", *UNLOCKED)))
    write_text(root / "constraints.txt", LOCK_HEADER + "\n".join(pins) + "\n")
    compiled = subprocess.run([UV, *COMPILE], cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    entries = hashed(compiled)
    write_text(root / "requirements.lock", HASHES_HEADER + "".join(entries))
    return len(entries)


def hashed(compiled: str) -> list[str]:
    """The entries of a compiled list, a name with its hashes each, without what is installed by no hash."""
    entries = re.split(r"^(?=\w)", compiled, flags=re.MULTILINE)[1:]
    return [entry for entry in entries if not entry.startswith((*OF_TORCH, "torch=="))]


def reference(root: Path) -> Path:
    """Copy what a reader wants of the finished cpu run to outputs/reference, to be committed: the small outputs, five
    executed notebooks, the report and three models.

    Raises:
        SettingsError: the run is not finished, also with settings that were changed since, or damaged, or its models
            would take too much room.
    """
    run, target = root / "outputs" / "cpu", root / "outputs" / REFERENCE
    if not (run / REPORT).is_file():
        raise SettingsError(f"{run} holds no finished run; `make reproduce` makes it")
    check_results(run)
    with write_folder(target) as fresh:
        for pattern in REFERENCE_FILES:
            for path in sorted(run.glob(pattern)):
                copy = fresh / path.relative_to(run)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path if path.parent == run or path.name == KEPT else intact(path), copy)
        keep_notebooks(run, fresh)
        keep_models(open_finished(run), fresh / MODELS)
    readme(root)
    return target


def readme(root: Path) -> list[Path]:
    """Write what README and docs/results.md say of the committed run and the study; returns both."""
    return write_results(root, f"https://colab.research.google.com/github/{slug(root)}/blob/{release(root)}")


def keep_notebooks(run: Path, folder: Path) -> None:
    """Copy each notebook of a run as it was executed, of several arms and seeds one, and the report, with records.

    Papermill's own metadata, times and paths, is left out, and the run folder is called as in the checkout.
    """
    for name in EXECUTED:
        source = run / "notebooks" / f"{name}.ipynb"
        executed = json.loads(
            intact(source).read_text(encoding="utf-8").replace(str(run.resolve()), f"outputs/{run.name}")
        )
        for part in (executed, *executed["cells"]):
            part["metadata"] = {key: value for key, value in part["metadata"].items() if key not in TIMES}
        write_json(folder / "notebooks" / source.name, executed)
    shutil.copyfile(intact(run / REPORT), folder / REPORT)
    keep_record(folder / "notebooks", *(folder / "notebooks").glob("*.ipynb"))
    keep_record(folder, folder / REPORT)


def keep_models(run: Run, folder: Path) -> None:
    """Write what the explorer needs of a finished run: weights in float16, tokenizer, test documents, and a record.

    Raises:
        SettingsError: an arm or the corpus is not finished, or the files have more than `kept.LARGEST` bytes.
    """
    order.corpus(run).verified()
    texts = ensure_texts(run)
    save_tokenizer(texts.tokenizer, folder / TEXTS)
    write_documents(folder / TEXTS / TEST, texts.corpus.test)
    for arm in ARMS:
        load_arm(run.variant(arm)).half().save_pretrained(folder / arm)
    files = [path for path in folder.rglob("*") if path.is_file()]
    if (size := sum(path.stat().st_size for path in files)) > LARGEST:
        raise SettingsError(f"the models of {run.folder} take {size:,} bytes; at most {LARGEST:,} are committed")
    keep_record(folder, *files)


def main() -> None:
    """Run one chore on the checkout of the working directory."""
    parser = argparse.ArgumentParser(prog="python -m rwkvgate.workflow.release", description=__doc__)
    parser.add_argument("chore", choices=("lock", "stamp", "reference", "readme"))
    chore, root = parser.parse_args().chore, project_root()
    try:
        print({"lock": lock, "stamp": stamp, "reference": reference, "readme": readme}[chore](root))
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
