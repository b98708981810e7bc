"""The run graph: five notebooks by papermill. `make reproduce` calls it, as snakemake --cores 2 --config profile=smoke
does; with a GPU add --resources gpu=1, or as many jobs share it as there are cores.

A rule's output is the executed notebook; what the notebook makes lies beside it in the run folder, where each step
knows its inputs by their hash. Which notebook comes before which follows from `rwkvgate.experiment.order`. A rule runs
again when its notebook or its part of the settings changes.
"""

import os
import shlex
import sys
from pathlib import Path

from rwkvgate.experiment import order
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.records import kept_difference
from rwkvgate.experiment.run import UNFINISHED, failures, lock_folder
from rwkvgate.experiment.study.committed import committed_verdicts
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import digest
from rwkvgate.workflow import graph
from rwkvgate.workflow.cluster import needs
from rwkvgate.workflow.execute import HEAD
from rwkvgate.workflow.warm import WARM, start_warm

try:
    # The words as they were typed: in `config` some have become numbers.
    GIVEN = graph.given(config, workflow.config_settings.config_args or [])
    RUN = graph.open_graph(GIVEN)
except SettingsError as error:
    sys.exit(str(error))
SETTINGS, CHANGED = RUN.settings, graph.changes(GIVEN)
STUDIES = {name: value for name, value in CHANGED.items() if name == "studies"}
FOLDER = str(RUN.folder)
HELD = []
if not workflow.subprocess_exec:  # such a process is a job's; the head, or a job's own on a node of a cluster, is not
    os.environ[HEAD] = str(os.getpid())
NOTEBOOKS = f"{FOLDER}/notebooks"
VARIANTS = RUN.variants()
TRAINED = {(variant.arm.name, variant.seed) for variant in VARIANTS if variant.arm.trained}


def variant(wildcards):
    """The arm and seed of a job."""
    return RUN.variant(wildcards.arm, int(wildcards.seed))


def executed(names):
    """The paths of executed notebooks."""
    return [f"{NOTEBOOKS}/{name}.ipynb" for name in dict.fromkeys(names)]


CLUSTER_CORES = 2
"""Of a job on a cluster that uses several: these networks gain little from more. `--set-threads ablations=8` changes it."""


def alone(wildcards):
    """The cores of a job that times things, or has nothing beside it: all of this machine, or a fixed number on a node.

    A function, for only once the file is read is it known where jobs run. Both ends of a cluster must say the same.
    """
    return workflow.cores if workflow.local_exec and not workflow.remote_exec else CLUSTER_CORES


def redo_damaged():
    """Remove the notebooks whose steps are damaged, and those after them, so that they run again, and print why."""
    outdated = order.outdated_notebooks(RUN)
    for name, reason in outdated.items():
        if reason:
            print(f"{name} runs again: {reason}", file=sys.stderr)
    if {"-n", "--dry-run", "--dryrun"} & set(sys.argv):
        return
    for name in outdated:
        Path(NOTEBOOKS, f"{name}.ipynb").unlink(missing_ok=True)
    if outdated or kept_difference(RUN.folder):
        RUN.report.unlink(missing_ok=True)


if workflow.is_main_process:  # the jobs, which read this file too, need not look
    redo_damaged()


wildcard_constraints:
    arm="|".join(ARMS),
    seed=r"\d+",


def papermill(*parameters, evaluation=None, trained=""):
    """The shell line that executes a rule's notebook and moves it into place when it has succeeded.

    What cells print goes to the terminal; a notebook that failed is kept beside, to be read.

    An arm whose training diverged is a result: its notebooks are kept as they ended, and the tables say so. `trained`
    is the arm and seed that the notebook needs, as in their folder.
    """
    fixed = ["-p", "profile", SETTINGS.profile, "-r", "run_dir", FOLDER]
    quiet = ["--no-progress-bar", "--no-log-output", "--log-level", "WARNING"]
    words = [sys.executable, "-m", "rwkvgate.workflow.execute", "{input[0]:q}", '"$part"', "-k", "python3"]
    words += [*quiet, *fixed, *parameters]
    # Through cat, for papermill opens the file it is given anew, and would cut off a log that two jobs share.
    words += ["--stdout-file", ">(cat)"]
    words += ["-y", f"evaluation: {evaluation}"] if evaluation else []
    plain = ('"$part"', "{", ">(")
    line = " ".join(word if word.startswith(plain) else quote(word) for word in words)
    failure = f"{quote(FOLDER)}/arms/{trained}.failed.json"
    kept = f"|| {{{{ test -e {failure} && grep -q '\"ename\": \"FloatingPointError\"' \"$part\"; }}}}" if trained else ""
    return (
        'export OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS=1; part={output:q}' + UNFINISHED + '; mkdir -p "$(dirname "$part")"; '
        f'{{{{ {line} {kept}; }}}} && mv "$part" {{output:q}}'
    )


def quote(word):
    # Braces are doubled, for snakemake formats the line.
    return shlex.quote(word).replace("{", "{{").replace("}", "}}")


OF_ARM = ("-p", "arm", "{wildcards.arm}", "-p", "seed", "{wildcards.seed}")
ITS_FOLDER = "{wildcards.arm}/seed{wildcards.seed}"


onstart:
    # In the head process alone: snakemake starts its jobs, here or on a cluster, without hooks.
    try:
        HELD.append(lock_folder(RUN.folder))
    except SettingsError as error:
        sys.exit(str(error))
    if workflow.local_exec:  # else jobs are on other nodes
        os.environ[WARM] = start_warm()


onerror:
    print(failures(Path(NOTEBOOKS)), file=sys.stderr)


def measured(variant):
    """The steps that notebook 03 makes."""
    return [order.evaluation(variant)] + ([order.probes(variant)] if SETTINGS.evaluation.studies else [])


rule all:
    input:
        str(RUN.report),
        # The report is made from these; they are named too, or snakemake would not notice that one was removed.
        f"{NOTEBOOKS}/01_setup.ipynb",
        executed(step.notebook for variant in VARIANTS for step in measured(variant)),
        f"{NOTEBOOKS}/04_ablations.ipynb",
        [f"{NOTEBOOKS}/05_gate_visualization.ipynb"] if ("enhanced", 0) in TRAINED else [],


rule setup:
    input:
        "notebooks/01_setup.ipynb",
    output:
        f"{NOTEBOOKS}/01_setup.ipynb",
    params:
        inputs=order.base(RUN).digest,
    threads: alone
    resources:
        **needs(SETTINGS.profile, "setup"),
    shell:
        papermill()


rule finetune:
    input:
        "notebooks/02_finetune.ipynb",
        lambda w: executed(order.arm(variant(w)).notebooks_before),
    output:
        f"{NOTEBOOKS}/02_finetune.{{arm}}.seed{{seed}}.ipynb",
    params:
        inputs=lambda w: order.arm(variant(w)).digest,
    resources:
        **needs(SETTINGS.profile, "finetune", SETTINGS.training.processes),
    shell:
        papermill(*OF_ARM, trained=ITS_FOLDER)


def base_before(variant):
    """The base's notebook 03, for an arm's reads its scores too, and two must not make them at once."""
    base = RUN.variant("base")
    return executed([order.evaluation(base).notebook]) if variant.arm != base.arm else []


rule evaluate:
    input:
        "notebooks/03_evaluate.ipynb",
        lambda w: executed(order.evaluation(variant(w)).notebooks_before),
        lambda w: base_before(variant(w)),
    output:
        f"{NOTEBOOKS}/03_evaluate.{{arm}}.seed{{seed}}.ipynb",
    params:
        inputs=lambda w: digest([step.inputs for step in measured(variant(w))]),
    resources:
        **needs(SETTINGS.profile, "evaluate"),
    shell:
        papermill(*OF_ARM, evaluation=STUDIES, trained=ITS_FOLDER)


rule ablations:
    input:
        "notebooks/04_ablations.ipynb",
        executed(step.notebook for variant in VARIANTS for step in measured(variant)),
    output:
        f"{NOTEBOOKS}/04_ablations.ipynb",
    params:
        inputs=digest([SETTINGS.evaluation.model_dump(mode="json"), [order.times(v).inputs for v in VARIANTS]]),
        study=digest(committed_verdicts()),  # which it shows beside the run's own
    # It times the arms, and long texts, so nothing else may run beside it; smoke's times mean nothing.
    threads: 1 if SETTINGS.profile == "smoke" else alone
    resources:
        **needs(SETTINGS.profile, "ablations"),
    # The only notebook that asks which arms and seeds there are; in the others' commands it would redo them all.
    shell:
        papermill(evaluation=CHANGED)


rule report:
    input:
        rules.ablations.output,
    output:
        str(RUN.report),
    localrule: True  # a second's work: it waits for no node of a cluster
    shell:
        f"{quote(sys.executable)} -m rwkvgate.workflow.report {quote(FOLDER)} {{input:q}}"


rule gate_visualization:
    input:
        "notebooks/05_gate_visualization.ipynb",
        executed([order.arm(RUN.variant("enhanced")).notebook]),
    output:
        f"{NOTEBOOKS}/05_gate_visualization.ipynb",
    params:
        inputs=order.arm(RUN.variant("enhanced")).digest,
    resources:
        **needs(SETTINGS.profile, "gate_visualization"),
    shell:
        papermill("-p", "arm", "enhanced", "-p", "seed", "0", trained="enhanced/seed0")
