"""Text: seeded labelled stories, natural English of this Python, local files; splits and prompts."""

from __future__ import annotations

from rwkvgate.corpora.build import Corpus, build_corpus
from rwkvgate.corpora.documents import Document, Mention, read_documents, write_documents
from rwkvgate.corpora.local import local_documents
from rwkvgate.corpora.natural import natural_documents
from rwkvgate.corpora.prompts import split_prompt
from rwkvgate.corpora.splits import drop_near_duplicates, near_duplicates, split_documents
from rwkvgate.corpora.stories import generate_stories

__all__ = [
    "Corpus",
    "Document",
    "Mention",
    "build_corpus",
    "drop_near_duplicates",
    "generate_stories",
    "local_documents",
    "natural_documents",
    "near_duplicates",
    "read_documents",
    "split_documents",
    "split_prompt",
    "write_documents",
]
