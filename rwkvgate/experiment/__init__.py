"""What the five notebooks share: settings, arms, corpora, training, steps, studies, claims and the search."""

from importlib.util import find_spec

NEEDED = ("accelerate", "datasets", "filelock", "matplotlib", "peft", "pyarrow", "seaborn")
"""Packages of the extra `experiment` that Colab has before its first cell runs, which itself installs the others."""

missing = [name for name in NEEDED if find_spec(name) is None]
if NEEDED[0] in missing:  # the one that every module here leads to; without the others, training still works
    raise ModuleNotFoundError(
        f"rwkvgate.experiment needs {', '.join(missing)}; the extra `experiment` brings them: "
        'pip install "rwkvgate[experiment]"'
    )
