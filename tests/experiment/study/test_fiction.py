"""The novels: R's data in a Debian package, built here as that one is."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from rwkvgate.experiment.study import fiction
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import file_hash

NOVELS = [["PERSUASION", "", "It was", "café.", "", "", "Anne left."], ["EMMA", "", "Handsome,", "clever."]]


def vector(lines: list[str]) -> bytes:
    """A character vector as R's lazy-load data has it."""
    texts = [line.encode() for line in lines]
    content = b"X\n" + struct.pack(">3iI5s", 3, 262657, 197888, 5, b"UTF-8") + struct.pack(">2I", 16, len(texts))
    content += b"".join(struct.pack(">2I", 0x40009, len(text)) + text for text in texts)
    return struct.pack(">I", len(content)) + zlib.compress(content)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the pinned one, pinned instead of it."""
    data, packed = b"".join(map(vector, NOVELS)), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        member = tarfile.TarInfo(fiction.DATA)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    content = b"!<arch>\n"
    for name, inside in (("debian-binary", b"2.0\n\n"), ("data.tar.xz", packed.getvalue())):
        content += (
            f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(inside):<10}`\n".encode() + inside + b"\n" * (len(inside) % 2)
        )
    (tmp_path / fiction.ARCHIVE).write_bytes(content)
    monkeypatch.setattr(fiction, "SHA256", file_hash(tmp_path / fiction.ARCHIVE))
    return tmp_path


def test_novels_are_read_with_a_line_for_each_paragraph(folder: Path) -> None:
    assert fiction.novels(folder) == {
        "PERSUASION": "PERSUASION\nIt was café.\nAnne left.",
        "EMMA": "EMMA\nHandsome, clever.",
    }


def test_another_package_is_refused(folder: Path) -> None:
    (folder / fiction.ARCHIVE).write_bytes(b"another")
    with pytest.raises(SettingsError, match="is not the pinned archive"):
        fiction.novels(folder)


def test_without_apt_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=rf"there is no apt-get here\). Put {fiction.ARCHIVE} into"):
        fiction.novels(tmp_path)
