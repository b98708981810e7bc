"""Natural English that is already installed: Python's help topics, and docstrings.

The text is read at run time and never shipped: first the help topics of `pydoc_data`, then the docstrings of the
standard library, then those of the installed packages in `PACKAGES`, whose files are found without an import. So the
text depends on the versions that `text_versions` returns, which belong to the inputs of every step that reads it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import metadata
from inspect import cleandoc
from pathlib import Path

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.punctuation import weak_document
from rwkvgate.experiment.corpora.splits import near_duplicates

PYTHON_CHARACTERS = 1_000_000
"""Characters that Python alone provides (3.11 has 1.37 million). A text of at most so many reads no package, and so
does not depend on their versions."""
PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "accelerate",
    "peft",
    "huggingface_hub",
    "IPython",
    "ipywidgets",
    "traitlets",
    "jupyterlab",
    "jupyter_server",
    "notebook",
    "nbformat",
    "nbconvert",
    "nbclient",
    "papermill",
    "jinja2",
    "pydantic",
    "pyarrow",
    "sympy",
    "networkx",
    "fsspec",
    "PIL",
    "aiohttp",
    "requests",
    "urllib3",
    "setuptools",
    "pip",
    "pygments",
    "snakemake",
    "rich",
    "click",
    "psutil",
    "tornado",
    "zmq",
    "yaml",
    "absl",
    "nltk",
)
"""Packages rich in prose, as they are imported. The seed mixes their files, so that a shorter text has some of each.
One that is not installed is skipped."""
DISTRIBUTIONS = {"PIL": "pillow", "zmq": "pyzmq", "yaml": "PyYAML", "absl": "absl-py"}
"""The names of those that are installed under another name than they are imported."""
SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "idlelib", "__pycache__", "site-packages", "dist-packages"})
LARGEST_FILE = 400_000
SHORTEST_PARAGRAPH = 40

_DOCSTRING = re.compile(
    r"""(?:\A(?:[ \t]*(?:\#[^\n]*)?\n)*|:[ \t]*(?:\#[^\n]*)?\n)\s*([rR]?)("{3}|'{3})(.*?)\2""", re.DOTALL
)
_RULE = re.compile(r"^\s*([-=~^*#\"'`+._])\1{2,}\s*$")
_FIELD = re.compile(r"\s*(?::\w+[^:]*:|\.\. |[-*+#] |\d+[.)] |@\w+|(?:Args|Parameters|Returns|Raises|Notes?):?\s*$)")
# "name : type" or "name (type): ...", the first line of a parameter.
_TYPED = re.compile(r"\s*(?:[\w*,. `]{1,40} : |[\w*.`]+ \([^)]*\) ?:)")
_SPACES = re.compile(r"\s+")
_PLAIN = re.compile(r"[^A-Za-z ,.;:'()]")
_NOT_WORD = re.compile(r"[^a-z0-9]+")


def text_versions(characters: int) -> dict[str, str]:
    """The versions that a natural text of so many characters depends on: Python's, and those of the packages it reads.

    Cheap: it reads no text and imports no package.
    """
    read = PACKAGES if characters > PYTHON_CHARACTERS else ()
    installed = {package: version for package in read if (version := _version(package))}
    return {"python": platform.python_version()} | installed


@cache  # every step asks, and each answer takes milliseconds
def _version(package: str) -> str:
    """The version of an installed package; "" for one that is not."""
    try:
        return metadata.version(DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return ""


def natural_documents(characters: int, seed: int) -> list[Document]:
    """Documents of domain 'natural', each the prose of one help topic or one module.

    Files are read in a fixed order until about `characters` characters are collected; the last document
    is not cut. A paragraph that repeats an earlier one, up to case and punctuation, is left out. The
    result, in an order that depends on `seed`, is the same for the same `text_versions`.

    Raises:
        ValueError: `characters` is below 1.
    """
    if characters < 1:
        raise ValueError(f"characters is {characters}; it must be at least 1")
    seen: set[bytes] = set()
    documents: list[Document] = []
    total = 0
    packages = [name for name in text_versions(characters) if name != "python"]
    for key, raw in _sources(packages, seed):
        fresh = [text for doc in raw for text in prose_paragraphs(doc) if _is_new(text, seen)]
        if not fresh:
            continue
        documents.append(weak_document("\n\n".join(fresh), "natural", key))
        total += len(documents[-1].text)
        if total >= characters:
            break
    return sorted(documents, key=lambda document: _rank(document.key, seed))


def prose_paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring that are prose, each on one line.

    Doctest sessions, tables, underlines, field lists and parameters' type lines are dropped. A paragraph must have 40
    characters, mostly letters, words of ordinary length, and final punctuation.
    """
    prose = []
    for block in re.split(r"\n\s*\n", text):
        if ">>>" in block or "|" in block or "::" in block[:-2]:
            continue
        lines = block.split("\n")
        if len(lines) > 1 and _RULE.match(lines[1]):
            lines = lines[2:]  # a heading and its underline
        lines = [line for line in lines if not (_RULE.match(line) or _TYPED.match(line))]
        while lines and _FIELD.match(lines[0]):
            lines.pop(0)
        paragraph = _SPACES.sub(" ", " ".join(lines)).strip()
        if is_prose(paragraph):
            prose.append(paragraph)
    return prose


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads as English sentences rather than as code, a list or a table."""
    if len(paragraph) < SHORTEST_PARAGRAPH or paragraph[-1] not in ".!?:)\"'`":
        return False
    words = paragraph.split(" ")
    odd = len(_PLAIN.findall(paragraph))
    return odd <= 0.08 * len(paragraph) and 3 <= len(paragraph) / len(words) <= 8.5 and len(words) >= 7


def without_paragraphs(documents: Sequence[Document], kept: Sequence[Document]) -> list[Document]:
    """`documents` without the paragraphs that are near-duplicates of one in `kept`."""
    places = [(number, text) for number, document in enumerate(documents) for text in document.text.split("\n\n")]
    held = [text for document in kept for text in document.text.split("\n\n")]
    gone = {number for number, _, _ in near_duplicates([text for _, text in places], held)}
    left: dict[int, list[str]] = {}
    for number, (position, text) in enumerate(places):
        if number not in gone:
            left.setdefault(position, []).append(text)
    touched = {places[number][0] for number in gone}
    result = []
    for position, texts in left.items():
        document = documents[position]
        if position in touched:
            document = weak_document("\n\n".join(texts), document.domain, document.key)
        result.append(document)
    return result


def _sources(packages: Iterable[str], seed: int) -> Iterator[tuple[str, list[str]]]:
    """Each help topic and module by a key, with its texts; Python's own first."""
    from pydoc_data.topics import topics  # here, for it is half a megabyte

    for name in sorted(topics):
        yield f"topics/{name}", [topics[name]]
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in _python_files(library):
        yield from _module(path, f"stdlib/{path.relative_to(library).as_posix()}")
    files = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in sorted(spec.submodule_search_locations or ()) if spec else ():
            root = Path(folder)
            files += [(f"{package}/{path.relative_to(root).as_posix()}", path) for path in _python_files(root)]
    for key, path in sorted(files, key=lambda file: _rank(file[0], seed)):
        yield from _module(path, key)


def _python_files(folder: Path) -> list[Path]:
    paths = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        paths += [Path(root, name) for name in files if name.endswith(".py")]
    return sorted(paths)


def _module(path: Path, key: str) -> Iterator[tuple[str, list[str]]]:
    try:
        source = path.read_text(encoding="utf-8") if path.stat().st_size <= LARGEST_FILE else ""
    except (OSError, UnicodeDecodeError):
        return
    yield key, docstrings(source)


def docstrings(source: str) -> list[str]:
    """The docstrings of a module's source, cleaned of their indentation, in order.

    They are found by their place, at the top or after the colon of a header, because parsing a file takes ten times as
    long. Only a docstring with escapes goes to `ast`; one that `ast` cannot read is left out.
    """
    texts = []
    for match in _DOCSTRING.finditer(source):
        raw, quotes, text = match.groups()
        if len(text) < SHORTEST_PARAGRAPH:
            continue
        if "\\" in text and not raw:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # other people's invalid escapes
                    text = ast.literal_eval(f"{quotes}{text}{quotes}")
            except (SyntaxError, ValueError):
                continue
        texts.append(cleandoc(text))
    return texts


def _is_new(paragraph: str, seen: set[bytes]) -> bool:
    plain = _NOT_WORD.sub(" ", paragraph.lower())
    mark = hashlib.blake2b(plain.encode("utf-8", errors="surrogatepass"), digest_size=12).digest()
    if mark in seen:
        return False
    seen.add(mark)
    return True


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
