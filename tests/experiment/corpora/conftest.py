"""Texts that several tests read, made once a run."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.natural import natural_documents
from rwkvgate.experiment.corpora.stories import generate_stories
from rwkvgate.experiment.corpora.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def train_stories() -> list[Document]:
    """2,400 training stories, as the cpu profile has."""
    return generate_stories(2400, seed=0)


@pytest.fixture(scope="session")
def test_stories() -> list[Document]:
    """300 stories with held-out names."""
    return generate_stories(300, seed=0, names="held-out")


@pytest.fixture(scope="session")
def natural() -> list[Document]:
    """About a million characters of natural text."""
    return natural_documents(1_000_000, seed=0)


@pytest.fixture(scope="session")
def tokenizer(natural: list[Document], train_stories: list[Document]) -> PreTrainedTokenizerFast:
    """A BPE of 2,048 entries, as the cpu profile has."""
    return train_tokenizer([document.text for document in natural + train_stories], 2048)
