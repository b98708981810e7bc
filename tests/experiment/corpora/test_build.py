"""From settings to a corpus, and to disk and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rwkvgate.experiment.corpora.build import PARTS, Corpus, build_corpus, tokenizer_texts
from rwkvgate.experiment.corpora.documents import Document
from rwkvgate.experiment.corpora.splits import near_duplicates
from rwkvgate.experiment.settings import CorpusSettings
from rwkvgate.gate.validation import SettingsError


def corpus_settings(source: str = "stories", documents: int = 3000) -> CorpusSettings:
    return CorpusSettings(
        source=source,
        documents=documents,
        hub=(),
        natural_characters=300_000,
        seed=0,
        prompt_tokens=(50, 100),
        splits=(0.8, 0.1, 0.1),
    )


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build_corpus(corpus_settings())


def test_sizes(corpus: Corpus) -> None:
    assert list(corpus.counts) == list(PARTS)
    assert [corpus.counts[name] for name in ("train", "validation", "test")] == [2400, 300, 300]
    assert corpus.counts["natural_train"] > 20 * corpus.counts["natural_validation"] > 0


def test_nothing_repeats_across_splits(corpus: Corpus) -> None:
    train, validation, test = ([d.text for d in corpus.part(name)] for name in PARTS[:3])
    assert not near_duplicates(train, validation + test)
    assert not near_duplicates(validation, test)
    natural = [[text for d in corpus.part(name) for text in d.text.split("\n\n")] for name in PARTS[3:]]
    assert not near_duplicates(*natural)


def test_the_tokenizer_learns_no_character_by_heart(corpus: Corpus) -> None:
    texts = tokenizer_texts(corpus)
    names = {m.entity for d in corpus.train for m in d.mentions if m.kind in ("person", "machine")}
    assert len(names) > 200
    stories = texts[: len(corpus.train)]
    assert not any(name in text.replace(",", " ").replace(".", " ").split() for text in stories for name in names)
    natural = texts[len(corpus.train) :]
    assert natural == [d.text for d in corpus.natural_train[: len(natural)]]


def test_text_without_labels_goes_to_the_tokenizer_whole(corpus: Corpus) -> None:
    local = [Document(text="Mira met Tolin.", domain="local")]
    texts = tokenizer_texts(replace(corpus, train=local))
    assert texts[0] == local[0].text
    assert texts[1:] == [corpus.natural_train[0].text]


def test_it_comes_back_from_disk(corpus: Corpus, tmp_path: Path) -> None:
    corpus.save(tmp_path / "corpus")
    loaded = Corpus.load(tmp_path / "corpus")
    assert loaded == corpus
    assert loaded.hashes == corpus.hashes
    path = tmp_path / "corpus" / "test.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"test\.jsonl has changed"):
        Corpus.load(tmp_path / "corpus")
    with pytest.raises(SettingsError, match="no saved corpus"):
        Corpus.load(tmp_path)


def test_the_same_settings_give_the_same_corpus() -> None:
    one, two = (build_corpus(corpus_settings(documents=20)) for _ in range(2))
    assert one.hashes == two.hashes
    assert one.counts["train"] == 16


def test_a_local_file_takes_the_place_of_the_stories(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(f"Paragraph {n} speaks of {n * n} things." for n in range(40)), encoding="utf-8")
    corpus = build_corpus(corpus_settings(str(path)))
    assert [corpus.counts[name] for name in PARTS[:3]] == [32, 4, 4]


def test_too_few_stories_are_refused() -> None:
    with pytest.raises(SettingsError, match="9 documents cannot be split"):
        build_corpus(corpus_settings(documents=9))
