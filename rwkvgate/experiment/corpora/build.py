"""Builds the texts of a run from its settings: to pretrain, tune, validate and test on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rwkvgate.experiment.corpora.documents import Document, digest, read_documents, write_documents
from rwkvgate.experiment.corpora.hub import hub_documents
from rwkvgate.experiment.corpora.local import local_documents
from rwkvgate.experiment.corpora.natural import natural_documents, text_versions, without_paragraphs
from rwkvgate.experiment.corpora.splits import drop_near_duplicates, split_documents, split_sizes
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.places import place
from rwkvgate.experiment.settings import CorpusSettings
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import file_hash, write_json

PARTS = ("train", "validation", "test", "natural_train", "natural_validation")
SUMMARY_FILE = "corpus.json"
NATURAL_VALIDATION = 33
"""One natural document in so many is held out."""


@dataclass(frozen=True)
class Corpus:
    """The texts of a run.

    Attributes:
        train, validation, test: documents for fine-tuning.
        natural_train, natural_validation: natural text.
        versions: of Python and of the packages that the natural text was read from.
    """

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    natural_train: list[Document]
    natural_validation: list[Document]
    versions: dict[str, str] = field(default_factory=dict)

    def part(self, name: str) -> list[Document]:
        """One of `PARTS` by its name."""
        documents: list[Document] = getattr(self, name)
        return documents

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256, in hex, of each part as it is written to disk."""
        return {name: digest(self.part(name)) for name in PARTS}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Documents in each part."""
        return {name: len(self.part(name)) for name in PARTS}

    def save(self, folder: str | Path) -> None:
        """Write one JSONL file for each part, and last the summary: counts, hashes and versions."""
        target = Path(folder)
        for name in PARTS:
            write_documents(target / f"{name}.jsonl", self.part(name))
        write_json(target / SUMMARY_FILE, {"counts": self.counts, "hashes": self.hashes, "versions": self.versions})

    @classmethod
    def load(cls, folder: str | Path) -> Corpus:
        """The corpus that `save` wrote.

        Raises:
            SettingsError: a file is missing, or is not what was saved.
        """
        source = Path(folder)
        try:
            summary = json.loads((source / SUMMARY_FILE).read_text(encoding="utf-8"))
            hashes, versions = dict(summary["hashes"]), dict(summary.get("versions", {}))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SettingsError(f"{source} holds no saved corpus: {error}") from None
        corpus = cls(**{name: read_documents(source / f"{name}.jsonl") for name in PARTS}, versions=versions)
        for name in PARTS:
            if file_hash(source / f"{name}.jsonl") != hashes.get(name):
                raise SettingsError(f"{source / name}.jsonl has changed since it was saved")
        return corpus


def build_corpus(settings: CorpusSettings) -> Corpus:
    """The corpus of the settings; equal settings and equal versions of the packages give equal texts.

    Raises:
        SettingsError: fewer than ten documents, or a local file that cannot be used.
    """
    parts = _stories(settings) if settings.source == "stories" else _local(settings)
    if settings.hub:
        parts = _with_hub(parts, settings)
    natural = natural_documents(settings.natural_characters, settings.seed)
    train, validation = split_natural(natural)
    versions = text_versions(settings.natural_characters)
    return Corpus(**parts, natural_train=train, natural_validation=validation, versions=versions)


def _stories(settings: CorpusSettings) -> dict[str, list[Document]]:
    train, validation, test = split_sizes(settings.documents, settings.splits)
    stories = generate_stories(train + validation, settings.seed, "train")
    # The stories are drawn independently, so a plain cut is as good as a shuffle.
    splits = {"train": stories[:train], "validation": stories[train:]}
    splits["test"] = generate_stories(test, settings.seed, "held-out")
    return drop_near_duplicates(splits)


def _local(settings: CorpusSettings) -> dict[str, list[Document]]:
    documents = local_documents(place(settings.source))
    return drop_near_duplicates(split_documents(documents, settings.splits, settings.seed))


def _with_hub(parts: dict[str, list[Document]], settings: CorpusSettings) -> dict[str, list[Document]]:
    for data_set in settings.hub:
        more = split_documents(hub_documents(data_set), settings.splits, settings.seed)
        parts = {name: [*documents, *more[name]] for name, documents in parts.items()}
    parts = drop_near_duplicates(parts)
    # A run tests its first documents, and validates on its first: every domain should be among them.
    return {name: _interleaved(documents) for name, documents in parts.items()}


def _interleaved(documents: Sequence[Document]) -> list[Document]:
    """The documents with their domains evenly interleaved, each domain in its order."""
    domains: dict[str, list[Document]] = {}
    for document in documents:
        domains.setdefault(document.domain, []).append(document)
    placed = [(i / len(group), document) for group in domains.values() for i, document in enumerate(group)]
    return [document for _, document in sorted(placed, key=lambda pair: pair[0])]


def split_natural(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Natural documents for training and validation, about 97 to 3, without train paragraphs that repeat validation's.

    `natural_documents` returns its documents in a seeded order, so every 33rd is a fair sample. Of fewer documents the
    last one is held out; of a single one, none is.
    """
    step = min(NATURAL_VALIDATION, max(2, len(documents)))
    validation = list(documents[step - 1 :: step])
    train = [document for number, document in enumerate(documents, start=1) if number % step]
    return without_paragraphs(train, validation), validation


def tokenizer_texts(corpus: Corpus) -> list[str]:
    """The texts that train the tokenizer: natural text and training documents, in equal parts if both suffice.

    Training documents are without their characters' names. Otherwise a name could become one entry of the vocabulary,
    while the held-out names of the test documents are several tokens each. Without them all names split alike, and
    copying a name from the story is as hard in training as in the test.
    """
    tuning = [_without_names(document) for document in corpus.train]
    budget = sum(map(len, tuning))
    natural = []
    for document in corpus.natural_train:
        if budget <= 0:
            break
        natural.append(document.text)
        budget -= len(document.text)
    return tuning + natural


def _without_names(document: Document) -> str:
    """The text without the mentions of characters by name; the space before a name goes with it."""
    parts, done = [], 0
    for mention in document.mentions:
        if mention.kind in ("person", "machine") and document.text[mention.start : mention.end] == mention.entity:
            parts.append(document.text[done : mention.start].removesuffix(" "))
            done = mention.end
    return "".join(parts) + document.text[done:]
