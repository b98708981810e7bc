"""Real fiction for fine-tuning: Jane Austen's six novels, from a pinned package of Debian.

The package r-cran-janeaustenr has the MIT licence, and the novels are in the public domain. It is downloaded, never
installed; the text is read out of its R data without R. Two novels are held out whole.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from rwkvgate.experiment.study.texts import pinned

ARCHIVE = "r-cran-janeaustenr_1.0.0-1_all.deb"
SHA256 = "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
DATA = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
VALIDATION, TEST = "NORTHANGER ABBEY", "Persuasion"
"""The novels that are held out, as they are titled."""
PEOPLE = (
    *("Anne", "Miss Anne", "Elizabeth", "Mary", "Charles", "Charles Hayter", "Henrietta", "Louisa", "Sir Walter"),
    *("Lady Russell", "Mr Elliot", "Miss Elliot", "Captain Wentworth", "Captain Harville", "Captain Benwick"),
    *("Admiral Croft", "the Admiral", "Mrs Croft", "Mrs Clay", "Mrs Smith", "Mrs Musgrove", "Mr Musgrove"),
    "Mr Shepherd",
)
"""People of the test novel, as it names them."""


def novels(folder: Path) -> dict[str, str]:
    """The novels by their titles, each paragraph a line, from the package in `folder`, or downloaded to it.

    Raises:
        SettingsError: the package cannot be downloaded, or is not the pinned one.
    """
    package, version = ARCHIVE.split("_")[:2]
    path = pinned(folder, ARCHIVE, SHA256, ["apt-get", "download", f"{package}={version}"])
    return {lines[0]: unwrapped(lines) for lines in _vectors(_member(path.read_bytes()))}


def unwrapped(lines: list[str]) -> str:
    """Paragraphs, which empty lines separate, each on a line of its own.

    Example:
        >>> unwrapped(["It was", "late.", "", "They left."])
        'It was late.\\nThey left.'
    """
    paragraphs = "\n".join(lines).split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _member(package: bytes) -> bytes:
    """The R data of a Debian package: an `ar` archive whose last member is a tar archive."""
    at = len(b"!<arch>\n")
    while not package[at:].startswith(b"data.tar"):
        at += 60 + int(package[at + 48 : at + 58])
        at += at % 2  # members begin at even offsets
    with tarfile.open(fileobj=io.BytesIO(package[at + 60 :])) as archive:
        member = archive.extractfile(DATA)
        assert member is not None
        return member.read()


def _vectors(data: bytes) -> Iterator[list[str]]:
    """The character vectors of R's lazy-load data: each a length of four bytes and a zlib stream.

    A stream holds a vector as R serialises it: after a header the type 16 and the number of strings, and of each its
    flags, its length in bytes and the bytes.
    """
    while data:
        stream = zlib.decompressobj()
        content = stream.decompress(data[4:])
        data = stream.unused_data
        at = content.index(b"\0\0\0\x10") + 8
        count = struct.unpack(">I", content[at - 4 : at])[0]
        lines = []
        for _ in range(count):
            size = struct.unpack(">I", content[at + 4 : at + 8])[0]
            lines.append(content[at + 8 : at + 8 + size].decode("utf-8"))
            at += 8 + size
        yield lines
