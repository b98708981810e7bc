"""The stories: the same everywhere, well-formed, and decided by their facts."""

from __future__ import annotations

import lzma
import re

import pytest

from rwkvgate.experiment.corpora.documents import Document, digest
from rwkvgate.experiment.corpora.splits import near_duplicates
from rwkvgate.experiment.corpora.stories import GENRES, WORDS, generate_stories
from rwkvgate.experiment.corpora.stories.engine import BEATS
from rwkvgate.experiment.corpora.stories.genre import Genre

PRONOUNS = {"he", "him", "his", "she", "her", "it", "its"}
OPENINGS = {
    "fairy-tale": "Once upon a time, in a distant land, ",
    "technology": "In the realm of artificial intelligence, ",
}
# Of 20 stories with seed 0. It may change only when a frame, a word or the engine does.
PINNED = "8417961a636e32859d80026635df5c08b35e06a6ee53b88bb5fc0a90700bf0d2"


def test_a_seed_gives_the_same_bytes_on_every_python() -> None:
    assert digest(generate_stories(20, 0)) == PINNED


def test_a_longer_list_starts_with_the_shorter_one() -> None:
    assert generate_stories(30, 5)[:10] == generate_stories(10, 5)
    assert generate_stories(10, 5) != generate_stories(10, 6)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        generate_stories(count, 0)


def test_unknown_names_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="'tests'; allowed: train, held-out"):
        generate_stories(1, 0, names="tests")


@pytest.mark.parametrize("genre", GENRES, ids=lambda genre: genre.domain)
class TestGenre:
    def test_it_is_rich_enough(self, genre: Genre) -> None:
        frames = [frame for group in genre.frames.values() for frame in group]
        assert len(set(frames)) == len(frames) >= 40
        assert len(genre.orders) >= 4
        assert len(genre.people) >= 20
        assert len(genre.held_out) >= 12

    def test_its_orders_name_beats_and_its_frames_serve_them(self, genre: Genre) -> None:
        steps = {step.rstrip("?") for order in genre.orders.values() for step in order.split()}
        assert steps <= set(BEATS)
        told = (steps - {"resolve"}) | {"recall-place", "holds", "moved", "lies", "sum-one", "sum-place"}
        assert told == set(genre.frames)

    def test_its_frames_use_words_that_exist(self, genre: Genre) -> None:
        for group in genre.frames.values():
            for frame in group:
                slots = re.findall(r"\{(\w+)(?::\w+)?\}", frame)
                assert all(len(slot) == 1 or slot in genre.lexicon for slot in slots), frame
                assert frame.endswith(".") and frame.count(".") == 1, frame

    def test_held_out_names_are_unknown_to_train(self, genre: Genre) -> None:
        names = [character.name for character in genre.people + genre.held_out]
        assert len(set(names)) == len(names)
        fixed = " ".join(frame for group in genre.frames.values() for frame in group)
        assert not [name for name in names if re.search(rf"\b{name}\b", fixed)]


def test_held_out_names_are_never_in_a_training_story(train_stories: list[Document]) -> None:
    held_out = {character.name for genre in GENRES for character in genre.held_out}
    for document in train_stories:
        assert not held_out & set(re.findall(r"\w+", document.text))


def test_shape(train_stories: list[Document], test_stories: list[Document]) -> None:
    for document in train_stories + test_stories:
        assert document.text.startswith(OPENINGS[document.domain])
        assert 9 <= len(document.sentence_ends) <= 14
        assert WORDS[0] <= len(document.text.split()) <= WORDS[1]
    assert len({document.text for document in train_stories}) == len(train_stories)
    assert {document.domain for document in test_stories} == set(OPENINGS)


def test_sentences_are_short_enough_for_a_prompt_to_end_between_them(train_stories: list[Document]) -> None:
    lengths = [len(sentence.split()) for document in train_stories for sentence in sentences(document)]
    assert min(lengths) >= 5
    assert max(lengths) <= 23
    assert sum(6 <= length <= 16 for length in lengths) > 0.9 * len(lengths)


def test_language(train_stories: list[Document], test_stories: list[Document]) -> None:
    for document in train_stories + test_stories:
        text = document.text
        assert not re.search(r"[{}|:]\w|\{|\}|\||  |\s[.,]|\b(\w+) \1\b", text), text
        assert not re.search(r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", text), text
        for sentence in sentences(document):
            assert sentence[0].isupper() and sentence.endswith("."), sentence


def test_a_mention_is_a_surface_of_its_entity(train_stories: list[Document], test_stories: list[Document]) -> None:
    for document in train_stories[:400] + test_stories:
        last = 0
        for mention in document.mentions:
            surface = document.text[mention.start : mention.end]
            assert last <= mention.start < mention.end <= len(document.text)
            last = mention.end
            assert plausible(surface, mention.entity, mention.kind), (surface, mention)


def plausible(surface: str, entity: str, kind: str) -> bool:
    low = surface.lower()
    if kind in ("person", "machine"):
        pronouns = PRONOUNS & ({"it", "its"} if kind == "machine" else PRONOUNS - {"it", "its"})
        return surface == entity or low in pronouns or bool(re.fullmatch(r"(a|an|the) [a-z ]+", low))
    if kind == "object":
        noun = entity.split()[-1]
        return low in (f"the {entity}", f"a {entity}", f"an {entity}", f"the {noun}", "it")
    return kind == "place" and low == f"the {entity}"


def test_pronouns_agree_with_their_person(train_stories: list[Document]) -> None:
    gender = {character.name: character.pronoun for genre in GENRES for character in genre.people}
    allowed = {"he": {"he", "him", "his"}, "she": {"she", "her"}, "it": {"it", "its"}}
    for document in train_stories:
        for mention in document.mentions:
            surface = document.text[mention.start : mention.end].lower()
            if mention.entity in gender and surface in PRONOUNS:
                assert surface in allowed[gender[mention.entity]]


def test_every_name_is_mentioned_where_it_stands(train_stories: list[Document]) -> None:
    names = {character.name for genre in GENRES for character in genre.people}
    for document in train_stories[:400]:
        found = {match.start() for match in re.finditer(r"\w+", document.text) if match.group() in names}
        marked = {m.start for m in document.mentions if document.text[m.start : m.end] == m.entity}
        assert found == marked


def test_clauses_start_after_punctuation_or_at_a_conjunction(train_stories: list[Document]) -> None:
    openers = {
        "and",
        "but",
        "or",
        "so",
        "because",
        "while",
        "when",
        "who",
        "whose",
        "which",
        "where",
        "that",
        "if",
        "although",
        "until",
        "whether",
        "for",
    }
    for document in train_stories[:400]:
        starts = {0} | {end + 1 for end in document.sentence_ends}
        assert list(document.boundaries) == sorted(set(document.boundaries))
        for offset in document.boundaries:
            assert offset not in starts
            before, after = document.text[:offset], document.text[offset:]
            word = re.match(r"\w+", after)
            assert word and before.endswith(" ")
            opens = before[-2] in ",:" or word.group() in openers
            relative = re.search(r"\b(who|Anyone who) [^.]*$", before)
            mentioned = any(mention.end == offset - 1 for mention in document.mentions)
            assert opens or relative or mentioned, (before[-40:], after[:40])


def test_the_last_sentences_agree_with_the_facts(train_stories: list[Document]) -> None:
    for document in train_stories:
        objects = {mention.entity for mention in document.mentions if mention.kind == "object"}
        assert {thing for _, thing in document.owners} == objects
        for holder, thing in document.owners:
            # The last sentence about an object must name whoever, or wherever, has it now.
            last = [s for s in spans(document) if thing in entities(document, *s)][-1]
            assert holder in entities(document, *last), document.text
            assert last[0] > 0.6 * len(document.text) - 60


def test_a_hand_over_decides_who_has_what(train_stories: list[Document]) -> None:
    # Were the first to hold an object always its last, position alone would give the answer away.
    same = total = 0
    for document in train_stories:
        for holder, thing in document.owners:
            first = next(s for s in spans(document) if thing in entities(document, *s))
            total += 1
            same += holder in entities(document, *first)
    assert 0.25 < same / total < 0.75


def test_the_nearest_training_story_is_no_answer(train_stories: list[Document], test_stories: list[Document]) -> None:
    train = [document.text for document in train_stories]
    held_out = [document.text for document in generate_stories(2700, 0)[2400:]]
    for other in ([document.text for document in test_stories], held_out):
        assert not near_duplicates(train, other)
        assert not near_duplicates(train, other, n=5, threshold=0.5)


def test_stories_can_be_learnt(train_stories: list[Document], test_stories: list[Document]) -> None:
    # What a dictionary coder that has seen the training stories needs for the test stories.
    train = "\n".join(document.text for document in train_stories).encode()
    test = "\n".join(document.text for document in test_stories).encode()
    both = len(lzma.compress(train + test, preset=6)) - len(lzma.compress(train, preset=6))
    assert 0.3 < 8 * both / len(test) < 1.3


def spans(document: Document) -> list[tuple[int, int]]:
    return list(zip((0, *document.sentence_ends), document.sentence_ends, strict=False))


def sentences(document: Document) -> list[str]:
    return [document.text[start:end].strip() for start, end in spans(document)]


def entities(document: Document, start: int, end: int) -> set[str]:
    return {mention.entity for mention in document.mentions if start <= mention.start < end}
