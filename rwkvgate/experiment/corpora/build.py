"""From settings to the texts of a run: what to pretrain, tune, choose and test on."""

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
from rwkvgate.experiment.settings import CorpusSettings, place
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json

PARTS = ("train", "validation", "test", "natural_train", "natural_validation")
SUMMARY_FILE = "corpus.json"
# One natural document in this many is held out.
NATURAL_VALIDATION = 33


@dataclass(frozen=True)
class Corpus:
    """The texts of a run. The first three parts are for fine-tuning, the last two are natural text.

    `versions` are those that the natural text was read from: Python's, and the packages'.
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
            hashes, versions = summary["hashes"], summary.get("versions", {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{source} holds no saved corpus: {error}") from None
        corpus = cls(**{name: read_documents(source / f"{name}.jsonl") for name in PARTS}, versions=versions)
        for name in PARTS:
            if corpus.hashes[name] != hashes.get(name):
                raise SettingsError(f"{source / name}.jsonl has changed since it was saved")
        return corpus


def build_corpus(settings: CorpusSettings) -> Corpus:
    """The corpus that the settings describe; the same settings on the same installation give the same.

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
    told = generate_stories(train + validation, settings.seed, "train")
    # The stories are drawn independently, so a plain cut is as good as a shuffle.
    splits = {"train": told[:train], "validation": told[train:]}
    splits["test"] = generate_stories(test, settings.seed, "held-out")
    return drop_near_duplicates(splits)


def _local(settings: CorpusSettings) -> dict[str, list[Document]]:
    documents = local_documents(place(settings.source))
    return drop_near_duplicates(split_documents(documents, settings.splits, settings.seed))


def _with_hub(parts: dict[str, list[Document]], settings: CorpusSettings) -> dict[str, list[Document]]:
    for wanted in settings.hub:
        more = split_documents(hub_documents(wanted), settings.splits, settings.seed)
        parts = {name: [*documents, *more[name]] for name, documents in parts.items()}
    parts = drop_near_duplicates(parts)
    # A run tests its first documents, and watches its first validation documents: every domain should be among them.
    return {name: _in_turn(documents) for name, documents in parts.items()}


def _in_turn(documents: Sequence[Document]) -> list[Document]:
    """The documents with their domains evenly spread, each domain in its order."""
    domains: dict[str, list[Document]] = {}
    for document in documents:
        domains.setdefault(document.domain, []).append(document)
    placed = [(i / len(kind), document) for kind in domains.values() for i, document in enumerate(kind)]
    return [document for _, document in sorted(placed, key=lambda pair: pair[0])]


def split_natural(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Natural text in two by document, about 97 to 3, without train paragraphs that repeat validation's.

    `natural_documents` gives its documents in a seeded order, so every 33rd is a fair sample. With
    fewer documents than that the last one is held out; a single one leaves validation empty.
    """
    step = min(NATURAL_VALIDATION, max(2, len(documents)))
    validation = list(documents[step - 1 :: step])
    train = [document for number, document in enumerate(documents, start=1) if number % step]
    return without_paragraphs(train, validation), validation


def tokenizer_texts(corpus: Corpus) -> list[str]:
    """What the tokenizer is trained on: natural text and training documents in equal parts, as far as both reach.

    Training documents come without their characters' names. A name that became one entry of the vocabulary
    would reach the model whole, while the held-out names of the test documents reach it in pieces; left out,
    all names break up alike, and a model that copies pieces from the story is as good on the one as on the other.
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
    kept, done = [], 0
    for mention in document.mentions:
        if mention.kind in ("person", "machine") and document.text[mention.start : mention.end] == mention.entity:
            kept.append(document.text[done : mention.start].removesuffix(" "))
            done = mention.end
    return "".join(kept) + document.text[done:]
