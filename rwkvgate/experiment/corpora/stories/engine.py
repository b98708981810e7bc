"""Generates one story: beats change who holds which object and where people are, frames put the beats into words.

No sentence contradicts an earlier one, and the last beats ("resolve", "sum") restate where every object is. Who acts,
on which object and towards whom is drawn anew at every beat, so that only the hand-overs determine the answer, not the
order of introduction.
"""

from __future__ import annotations

from collections.abc import Callable

from rwkvgate.experiment.corpora.stories.draw import Draw
from rwkvgate.experiment.corpora.stories.genre import Character, Genre
from rwkvgate.experiment.corpora.stories.template import Entity, Page, person, place, thing

CAST = 3
OBJECTS = 3
PLACES = 5

Roles = dict[str, Entity]
Beat = tuple[str, Roles]


class World:
    """The state of one story: who is present, who holds which object, where objects and people are."""

    def __init__(self, genre: Genre, people: tuple[Character, ...], draw: Draw) -> None:
        self.draw = draw
        self.cast = _cast(genre, draw.sample(people, CAST), draw)
        pairs = zip(draw.sample(genre.adjectives, OBJECTS), draw.sample(genre.nouns, OBJECTS), strict=True)
        self.objects = [thing(adjective, noun) for adjective, noun in pairs]
        self.places = [place(where) for where in draw.sample(genre.places, PLACES)]
        self.home, self.cache, self.far, *self.spots = self.places
        self.present: list[Entity] = []
        self.known: list[Entity] = []
        self.unresolved: list[Entity] = []
        self.holder: dict[str, Entity] = {}
        self.former: dict[str, Entity] = {}
        self.traveller: Entity | None = None
        self.transfer: Roles = {}

    def other(self, *these: Entity) -> Entity:
        """Someone present who is none of `these`."""
        return self.draw.pick([one for one in self.present if one not in these])

    def is_held(self, item: Entity) -> bool:
        """Whether a character has the object; otherwise it is at a place."""
        return self.holder[item.name].kind != "place"

    def held(self) -> Entity:
        """One of the objects that someone holds."""
        return self.draw.pick([item for item in self.known if self.is_held(item)])

    def move(self, item: Entity, to: Entity) -> Entity:
        """Move the object to `to`; return the person who had it last."""
        before = self.holder[item.name]
        if before.kind != "place":
            self.former[item.name] = before
        self.holder[item.name] = to
        return self.former[item.name]


def _cast(genre: Genre, drawn: list[Character], draw: Draw) -> list[Entity]:
    nouns = {kind: draw.sample(trades.nouns, CAST) for kind, trades in genre.trades.items()}
    adjectives = {kind: draw.sample(trades.adjectives, CAST) for kind, trades in genre.trades.items()}
    return [person(who, adjectives[who.kind].pop(), nouns[who.kind].pop()) for who in drawn]


def _open(world: World) -> Beat:
    world.present.append(world.cast[0])
    return "open", {"a": world.cast[0], "p": world.home}


def _meet(world: World) -> Beat:
    world.present.append(world.cast[1])
    return "meet", {"a": world.cast[0], "b": world.cast[1]}


def _third(world: World) -> Beat:
    beat: Beat = ("third", {"a": world.draw.pick(world.present), "b": world.cast[2]})
    world.present.append(world.cast[2])
    return beat


def _own(world: World) -> Beat:
    owners = list(world.holder.values())
    owner = world.draw.pick([one for one in world.present if one not in owners] or world.present)
    item = world.objects[len(world.known)]
    world.known.append(item)
    world.unresolved.append(item)
    world.holder[item.name] = owner
    return "own", {"a": owner, "x": item, "p": world.draw.pick(world.spots)}


def _mood(world: World) -> Beat:
    return "mood", {"a": world.draw.pick(world.present)}


def _give(world: World) -> Beat:
    item = world.held()
    giver = world.holder[item.name]
    taker = world.other(giver)
    world.move(item, taker)
    world.transfer = {"a": giver, "b": taker, "x": item}
    return "give", world.transfer


def _swap(world: World) -> Beat:
    item, back = world.draw.sample(world.known, 2)
    giver, taker = world.holder[item.name], world.holder[back.name]
    world.move(item, taker)
    world.move(back, giver)
    world.transfer = {"a": giver, "b": taker, "x": item}
    return "swap", world.transfer | {"y": back}


def _leave(world: World) -> Beat:
    item = world.held()
    leaver = world.move(item, world.cache)
    return "leave", {"a": leaver, "x": item, "p": world.cache}


def _fetch(world: World) -> Beat:
    item = next(item for item in world.known if not world.is_held(item))
    finder = world.draw.pick(world.present)
    world.move(item, finder)
    return "fetch", {"b": finder, "x": item, "p": world.cache}


def _back(world: World) -> Beat:
    giver, taker, item = world.transfer["b"], world.transfer["a"], world.transfer["x"]
    world.move(item, taker)
    world.transfer = {"a": giver, "b": taker, "x": item}
    return "back", world.transfer


def _why(world: World) -> Beat:
    return "why", world.transfer


def _travel(world: World) -> Beat:
    world.traveller = world.draw.pick(world.present)
    return "travel", {"a": world.traveller, "p": world.far}


def _recall(world: World) -> Beat:
    item = world.draw.pick(world.known)
    if not world.is_held(item):
        return "recall-place", {"b": world.draw.pick(world.present), "x": item, "p": world.holder[item.name]}
    holder = world.holder[item.name]
    return "recall", {"a": holder, "b": world.other(holder), "x": item}


def _resolve(world: World) -> Beat:
    item = world.unresolved.pop(world.draw.index(len(world.unresolved)))
    holder, former = world.holder[item.name], world.former.get(item.name)
    if former is not None and not world.is_held(item):
        return "lies", {"b": former, "x": item, "p": holder}
    if former is not None and former is not holder and world.draw.index(2):
        return "moved", {"a": holder, "b": former, "x": item}
    return "holds", {"a": holder, "b": world.other(holder), "x": item}


def _stays(world: World) -> Beat:
    assert world.traveller is not None, "an order must send someone away before 'stays'"
    return "stays", {"a": world.traveller, "p": world.far}


def _sum(world: World) -> Beat:
    first, second = world.draw.sample(world.known, 2)
    if not world.is_held(first):
        first, second = second, first
    one, two = world.holder[first.name], world.holder[second.name]
    if two.kind == "place":
        return "sum-place", {"a": one, "x": first, "y": second, "p": two}
    if one is two:
        return "sum-one", {"a": one, "b": world.other(one), "x": first, "y": second}
    return "sum", {"a": one, "b": two, "x": first, "y": second}


def _close(world: World) -> Beat:
    first, second = world.draw.sample(world.present, 2)
    return "close", {"a": first, "b": second}


BEATS: dict[str, Callable[[World], Beat]] = {
    "open": _open,
    "meet": _meet,
    "third": _third,
    "own": _own,
    "mood": _mood,
    "give": _give,
    "swap": _swap,
    "leave": _leave,
    "fetch": _fetch,
    "back": _back,
    "why": _why,
    "travel": _travel,
    "recall": _recall,
    "resolve": _resolve,
    "stays": _stays,
    "sum": _sum,
    "close": _close,
}


def tell(genre: Genre, people: tuple[Character, ...], draw: Draw) -> tuple[Page, tuple[tuple[str, str], ...]]:
    """One story and its (holder or place, object) facts at the end, in order of introduction.

    No frame is used twice in a story, and no filler twice in a row of one slot.
    """
    world, page = World(genre, people, draw), Page()
    used: set[str] = set()

    def fill(slot: str) -> str:
        fresh = [word for word in genre.lexicon[slot] if f"{slot} {word}" not in used]
        word = draw.pick(fresh or genre.lexicon[slot])
        used.add(f"{slot} {word}")
        return word

    for step in genre.orders[draw.pick(list(genre.orders))].split():
        if step.endswith("?") and draw.index(2):
            continue
        beat, roles = BEATS[step.rstrip("?")](world)
        frame = draw.pick([frame for frame in genre.frames[beat] if frame not in used])
        used.add(frame)
        page.add(frame, roles, fill)
    return page, tuple((world.holder[item.name].name, item.name) for item in world.known)
