"""Data sets of the hub, read by the same call from a local folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rwkvgate.experiment.corpora import hub
from rwkvgate.experiment.corpora.build import build_corpus
from rwkvgate.experiment.corpora.hub import LONGEST, SHORTEST, articles, hub_documents
from rwkvgate.experiment.settings import CorpusSettings, HubSet
from rwkvgate.gate.validation import SettingsError

SENTENCE = "The {animal} number {i} walked along the river and counted {n} stones. "


def folder(path: Path, texts: list[Any], column: str = "text") -> str:
    path.mkdir(exist_ok=True)
    lines = (json.dumps({column: text}) + "\n" for text in texts)
    (path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(path)


def stories(count: int, sentences: int = 14, animal: str = "fox") -> list[str]:
    return [
        "".join(SENTENCE.format(animal=animal, i=i * 31 + k, n=i + k * k) for k in range(sentences))
        for i in range(count)
    ]


def test_documents_are_the_first_that_fit(tmp_path: Path) -> None:
    texts = ["too short", *stories(6), "", *stories(8, sentences=40)]
    found = hub_documents(HubSet(name=folder(tmp_path / "TinyTales", texts), documents=12))
    assert [d.text for d in found[:6]] == [text.strip() for text in texts[1:7]]
    assert all(SHORTEST <= len(d.text) <= LONGEST and d.text.endswith(".") for d in found)
    assert {d.domain for d in found} == {"tinytales"} and found[3].key == "tinytales/3"
    assert all(d.sentence_ends for d in found)


def test_lines_become_articles(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        rows += ["", f" = Title {i} = \n", "", stories(1)[0] + f"about {i}", " = = A section = = \n", "more of it .\n"]
    found = hub_documents(HubSet(name=folder(tmp_path / "wikitext", rows), documents=10))
    assert len(found) == 10 and found[4].text.endswith("about 4\nmore of it .")
    assert not any("=" in d.text for d in found)
    assert list(articles(["", " = A = ", "x", " = B = ", " = = s = = ", "y"])) == ["x", "y"]


def test_they_join_the_stories_in_every_split(tmp_path: Path) -> None:
    sets = [
        HubSet(name=folder(tmp_path / name, stories(40, animal=animal)), documents=40)
        for name, animal in (("one", "hare"), ("two", "owl"))
    ]
    settings = CorpusSettings(
        source="stories",
        documents=100,
        hub=tuple(sets),
        natural_characters=20_000,
        seed=0,
        prompt_tokens=(50, 100),
        splits=(0.8, 0.1, 0.1),
    )
    corpus = build_corpus(settings)
    for name in ("train", "validation", "test"):
        domains = [d.domain for d in corpus.part(name)]
        assert {"one", "two", "fairy-tale", "technology"} <= set(domains[: len(domains) // 2])
    assert corpus.counts["test"] == 10 + 4 + 4
    plain = build_corpus(settings.model_copy(update={"hub": ()}))
    assert [d for d in corpus.train if d.domain in ("fairy-tale", "technology")] != []
    assert replace(plain).counts["test"] == 10


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder(tmp_path / "few", stories(11))
    with pytest.raises(SettingsError, match="has 11 documents of at least 700 characters; 20 are asked for"):
        hub_documents(HubSet(name=name, documents=20))
    with pytest.raises(SettingsError, match="no text column 'body'; it has text"):
        hub_documents(HubSet(name=name, column="body", documents=10))
    with pytest.raises(SettingsError, match="split test cannot be read"):
        hub_documents(HubSet(name=name, split="test", documents=10))

    def unreachable(wanted: HubSet) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(hub, "_texts", unreachable)
    with pytest.raises(SettingsError, match=r"revision abc, split train cannot be read \(ConnectionError: no route\)"):
        hub_documents(HubSet(name="owner/set", revision="abc", documents=10))


def test_an_empty_row_before_documents_makes_no_article_of_them(tmp_path: Path) -> None:
    found = hub_documents(HubSet(name=folder(tmp_path / "tales", ["", "  ", *stories(12)]), documents=12))
    assert [d.text for d in found] == [text.strip() for text in stories(12)]
    with pytest.raises(SettingsError, match="has 0 documents of at least 700 characters"):
        hub_documents(HubSet(name=folder(tmp_path / "void", ["", " "] * 3), documents=12))


def test_a_long_text_whose_sentences_end_early_is_cut_where_it_is_long_enough(tmp_path: Path) -> None:
    texts = ["Chapter one. " + "Word " * 2000] * 10
    found = hub_documents(HubSet(name=folder(tmp_path / "verse", texts), documents=10))
    assert len(found) == 10 and all(LONGEST - 1 <= len(d.text) <= LONGEST for d in found)
