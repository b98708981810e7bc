"""Text: seeded labelled stories, natural English of this Python, local files; splits and prompts."""

from __future__ import annotations

from rwkvgate.experiment.corpora.build import Corpus, build_corpus
from rwkvgate.experiment.corpora.documents import Document, Mention, read_documents, write_documents
from rwkvgate.experiment.corpora.local import local_documents
from rwkvgate.experiment.corpora.natural import natural_documents
from rwkvgate.experiment.corpora.prompts import split_prompt
from rwkvgate.experiment.corpora.splits import drop_near_duplicates, near_duplicates, split_documents
from rwkvgate.experiment.corpora.stories import generate_stories

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
