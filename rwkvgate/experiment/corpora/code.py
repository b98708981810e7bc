"""Python code that is already installed: the standard library's modules without comments and docstrings.

It is a domain to test on, never to train on. The docstrings are removed because a base is pretrained on them.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from pathlib import Path

from rwkvgate.experiment.corpora.documents import Document

SHORTEST_CODE = 200
"""Characters: shorter code makes no document."""
LARGEST_FILE = 400_000


def code_documents(count: int, characters: int, seed: int = 0) -> list[Document]:
    """The beginnings of up to `count` modules of the running Python, of domain 'code', in an order set by the seed.

    Args:
        characters: most characters of a document, which ends with a line.

    Raises:
        ValueError: `count` or `characters` is too small.
    """
    if count < 1 or characters < SHORTEST_CODE:
        raise ValueError(f"count is {count} and characters {characters}; they must be at least 1 and {SHORTEST_CODE}")
    library = Path(sysconfig.get_path("stdlib"))
    modules = sorted(library.glob("*.py"), key=lambda path: hashlib.sha256(f"{seed}/{path.name}".encode()).digest())
    documents: list[Document] = []
    for path in modules:
        text = plain_code(path)[:characters]
        text = text[: text.rfind("\n") + 1] if len(text) == characters else text
        if len(text) >= SHORTEST_CODE:
            documents.append(Document(text.strip(), "code", key=path.name))
        if len(documents) == count:
            break
    return documents


def plain_code(path: Path) -> str:
    """A module's code without comments and docstrings; empty where it cannot be read as Python."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in strings
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
