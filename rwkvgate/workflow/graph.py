"""What the run graph is given on snakemake's command line becomes a `Run`, or is refused in one sentence.

Light enough for the run graph to import. `python -m rwkvgate.workflow.graph profile=cpu`, with which `make reproduce`
ends, prints the answer of the finished run that the words describe.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rwkvgate.experiment import order
from rwkvgate.experiment.arms import ARMS
from rwkvgate.experiment.corpora.local import check_source
from rwkvgate.experiment.inputs import gate_of
from rwkvgate.experiment.open_run import usable
from rwkvgate.experiment.records import intact, reading
from rwkvgate.experiment.run import Run, check_folder
from rwkvgate.experiment.settings import MOST_SEEDS, resolve
from rwkvgate.gate.validation import SettingsError, shown, unknown

KEYS = ("profile", "run_dir", "arms", "seeds", "studies")
"""What `--config` may set."""
SWITCH = {"on": True, "off": False, "true": True, "false": False}
UNSAFE = "'\"`$\\"
"""Characters that snakemake does not quote where it hands its own settings to the jobs of a cluster."""


def given(config: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """The settings of a command line, by name, as they were typed.

    Args:
        config: snakemake's configuration, in which 2026_11_24 and 1e3 have become numbers.
        arguments: the words after `--config`, name=value.

    Raises:
        SettingsError: a name is none of `KEYS`.
    """
    typed = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for name in [*config, *typed]:
        if name not in KEYS:
            raise SettingsError(unknown("key", name, KEYS, where="--config"))
    return {name: typed.get(name, value) for name, value in config.items() if typed.get(name, value) not in (None, "")}


def changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The changes to the profile's `evaluation`: arms, seeds and studies, where they are given.

    Raises:
        SettingsError: the number of seeds is none, studies are neither on nor off, or arms names none.
    """
    found: dict[str, Any] = {}
    if "arms" in settings:
        words = str(settings["arms"])
        names = list(ARMS) if words == "all" else [name.strip() for name in words.split(",") if name.strip()]
        if not names:
            raise SettingsError(f"arms is {shown(words)}; it must be all, or arms with commas: enhanced,fixed-gate")
        found["arms"] = list(dict.fromkeys(["base", *names]))
    if "seeds" in settings:
        words = str(settings["seeds"])
        if not (words.isascii() and words.isdecimal() and 1 <= int(words[:9]) <= MOST_SEEDS):
            raise SettingsError(f"seeds is {shown(words)}; it must be a whole number from 1 to {MOST_SEEDS}")
        found["seeds"] = int(words)
    if "studies" in settings:
        words = str(settings["studies"]).lower()
        if words not in SWITCH:
            raise SettingsError(f"studies is {shown(settings['studies'])}; it must be on or off")
        found["studies"] = SWITCH[words]
    return found


def open_graph(settings: Mapping[str, Any]) -> Run:
    """The run of a command line, with every check that needs no network and no weights; nothing is written.

    Raises:
        SettingsError: a setting is impossible, the folder is somebody else's, or the corpus is no file of text.
    """
    run = Run(resolve(settings.get("profile", "auto"), settings.get("run_dir", ""), evaluation=changes(settings)))
    folder = str(run.folder)
    for text, characters in ((run.settings.run_dir, UNSAFE), (folder, "{}")):
        if bad := [c for c in text if c in characters]:
            raise SettingsError(f"run_dir is {shown(text)}; the run graph takes no path with {bad[0]} in it")
    with usable(run.folder):
        check_folder(run)
        nearest = next(place for place in (run.folder, *run.folder.parents) if os.path.lexists(place))
        if not stat.S_ISDIR(nearest.stat().st_mode):
            raise SettingsError(f"run_dir {run.folder} cannot be made: {nearest} is no folder")
        if not os.access(nearest, os.W_OK):
            hint = "; the notebooks, opened by hand, read a finished run there" if nearest == run.folder else ""
            raise SettingsError(f"run_dir {run.folder} cannot be used: {nearest} cannot be written to{hint}")
    check_source(run.settings.corpus.source)
    order.base(run)  # hashes local texts
    for variant in run.variants():
        gate_of(variant.arm, run.settings)
    return run


def last_words(run: Run) -> list[str]:
    """What a finished run says of the paper, a sentence each, and where its report lies.

    Raises:
        SettingsError: the run's claims are missing or damaged.
    """
    from rwkvgate.experiment.claims import answer  # here, for it loads pandas and scipy

    with reading(intact(run.folder / "results" / "claims.json")) as path:
        claims = json.loads(path.read_text(encoding="utf-8"))
    return [*answer(claims), f"The report: {run.report}"]


def main() -> None:
    """Print the last words of the run that the command line describes, as snakemake's --config does."""
    words = sys.argv[1:]
    if wrong := [word for word in words if "=" not in word]:
        sys.exit(f"{wrong[0]!r} is no setting; write name=value, such as profile=smoke")
    try:
        print("", *last_words(open_graph(given(dict(word.split("=", 1) for word in words), words))), sep="\n")
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
