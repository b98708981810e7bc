"""The corpus of a run and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rwkvgate.experiment import order
from rwkvgate.experiment.corpora.build import Corpus, build_corpus, tokenizer_texts
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.prompts import split_prompt
from rwkvgate.experiment.corpora.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from rwkvgate.experiment.order import Step
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import CheckpointSettings, ModelSettings, Settings
from rwkvgate.experiment.steps.kept import TEXTS, kept, read_texts
from rwkvgate.experiment.steps.making import Write, complete, makes
from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer

TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Texts:
    """The corpus of a run and its tokenizer."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase

    def encode(self, documents: Sequence[Document]) -> list[list[int]]:
        """Token ids of each document, without a prefix."""
        return self.tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"] if documents else []

    def encode_text(self, text: str) -> list[int]:
        """Token ids of one text, without a prefix."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, document: Document, settings: Settings) -> tuple[str, str]:
        """Split a document into its prompt and its reference."""
        fewest, most = settings.corpus.prompt_tokens
        end = split_prompt(document, self.encode_text, fewest, most)
        return document.text[:end], document.text[end:]


def ensure_texts(run: Run) -> Texts:
    """The corpus and its tokenizer; makes them first if they are not finished.

    Of a run that keeps its models, the corpus holds the test documents alone.
    """
    if folder := kept(run, TEXTS):
        return Texts(read_texts(folder), load_tokenizer(folder))
    corpus = complete(order.corpus(run))
    folder = corpus / TOKENIZER
    world = isinstance(run.settings.model, CheckpointSettings)
    return Texts(Corpus.load(corpus), Rwkv6Tokenizer.from_pretrained(folder) if world else load_tokenizer(folder))


@makes("corpus")
def _make_texts(step: Step) -> Write:
    settings = step.run.settings

    def write(folder: Path) -> None:  # all of it here: the main process alone makes the texts
        print("corpus: reading natural text and making the fine-tuning documents", flush=True)
        corpus = build_corpus(settings.corpus)
        tokenizer = _new_tokenizer(settings.model, corpus)
        texts = Texts(corpus, tokenizer)
        for document in corpus.test:
            texts.prompt(document, settings)  # a document too short for a prompt is refused now, not in the evaluation
        corpus.save(folder)
        save_tokenizer(tokenizer, folder / TOKENIZER)

    return write


def _new_tokenizer(model: ModelSettings | CheckpointSettings, corpus: Corpus) -> PreTrainedTokenizerBase:
    if isinstance(model, CheckpointSettings):
        return Rwkv6Tokenizer()
    return train_tokenizer(tokenizer_texts(corpus), model.vocab_size)
