"""The kernel engine: answers the front end's messages about any model, in the thread of the notebook.

A long answer is given a part at a time. The front end asks for more, so it can show progress, stop by not asking, and
never waits for a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rwkvgate.explore.cards import ChannelCards
from rwkvgate.explore.effects import generated
from rwkvgate.explore.gated_text import VALUES_LIMIT
from rwkvgate.explore.interventions import Clamp
from rwkvgate.explore.live import LONGEST, LiveReading, read_live
from rwkvgate.explore.observing import gate_names, gates_over
from rwkvgate.explore.tokens import token_texts
from rwkvgate.gate.config import PRESETS
from rwkvgate.gate.patch import gates_of
from rwkvgate.metrics.inference import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = {
    "Story": "Once upon a time, in a distant land...",
    "Essay": "In the realm of artificial intelligence...",
    "Two people": "Mira kept a silver key, and her brother wanted it. When she slept, he looked for it in her coat.",
    "Other scripts": "Hello, мир, שלום, 世界, 😀!",
}
"""Example texts by name; the first two are the paper's prompts."""
LONGEST_TEXT = 200_000
"""Maximum characters of a text."""
MOST_TOKENS = 1_000
"""Maximum tokens of a continuation."""
PART = 0.2
"""Seconds of a part of an answer."""
PATIENCE = 120.0
"""Seconds after which an arm's cards are made of the documents read so far."""

Models = Mapping[str, PreTrainedModel | Callable[[], PreTrainedModel]]
"""Arms by name: models, or functions that load one at its first use."""
Reply = tuple[dict[str, Any], list[bytes]]
"""A message as JSON, and its binary buffers."""


class KernelEngine:
    """Arms behind messages; `handle` has what each message asks for.

    Args:
        arms: models by name, the first chosen at the start. One whose name holds the word "untrained" is the control of
            the change from the untrained gate.
        tokenizer: of all arms.
        text: at the start.
        title: of the page.
        documents: texts over which the cards of channels are made, at the first look at one.
        notes: sentences on arms, by name.
        beside: the arm that others are compared with at the start; without one it is the arm itself, its gate on.

    Raises:
        ValueError: `arms` is empty or lacks `beside`, or the text or a document is too long or no text.

    Example:
        >>> from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch
        >>> config = Rwkv6Config(hidden_size=32, num_hidden_layers=2, head_size=16)
        >>> model = patch(Rwkv6ForCausalLM(config), GateConfig.preset("enhanced"))
        >>> engine = KernelEngine({"model": model}, Rwkv6Tokenizer(), "Once")
        >>> message, buffers = engine.handle({"id": 1, "method": "read", "arm": "model", "text": "a fox"})
        >>> message["reading"]["pieces"], message["reading"]["layers"]
        (['a', ' fox'], 2)
    """

    def __init__(
        self,
        arms: Models,
        tokenizer: PreTrainedTokenizerBase,
        text: str = "",
        title: str = "The gate",
        documents: Sequence[str] = (),
        notes: Mapping[str, str] | None = None,
        beside: str = "",
    ) -> None:
        if not arms:
            raise ValueError("there is no arm; at least one model is needed")
        if beside and beside not in arms:
            raise ValueError(f"beside is {beside!r}; allowed are {', '.join(map(repr, arms))}")
        for each in (text, *documents):
            check_text(each)
        self.tokenizer, self.text, self.title, self.documents = tokenizer, text, title, documents
        self.notes, self.beside = notes or {}, beside
        self._arms = dict(arms)
        self._cards: dict[str, ChannelCards] = {}
        self._unfinished: dict[int, Iterator[Reply]] = {}

    @property
    def arms(self) -> list[str]:
        """The arms' names."""
        return list(self._arms)

    @property
    def untrained(self) -> str | None:
        """The name of the arm with an untrained gate."""
        return next((name for name in self._arms if "untrained" in name), None)

    def model(self, arm: str) -> PreTrainedModel:
        """The model of an arm, loaded at its first use.

        Raises:
            ValueError: there is no such arm.
        """
        if arm not in self._arms:
            raise ValueError(f"arm is {arm!r}; allowed are {', '.join(map(repr, self._arms))}")
        model = self._arms[arm]
        if not isinstance(model, PreTrainedModel):
            self._arms[arm] = model = model()
        return model

    def about(self) -> dict[str, Any]:
        """What the front end has to know before the first reading, as `engine.js` describes it."""
        arms = [self.arm(name) if place == 0 else self._unread(name) for place, name in enumerate(self._arms)]
        return {
            "engine": "kernel",
            "title": self.title,
            "vocabulary": type(self.tokenizer).__name__,
            "arms": arms,
            "limits": {"tokens": LONGEST},
            "untrained": self.untrained,
            "cards": self.arms if self.documents else [],
            "text": self.text,
            "token": max(0, len(encode(self.tokenizer, [self.text])[0]) - 1),
            "beside": self.beside,
            "examples": EXAMPLES,
        }

    def arm(self, name: str) -> dict[str, Any]:
        """An arm as `engine.js` describes it; its model is loaded."""
        model = self.model(name)
        gates = gates_of(model)
        if not gates:
            note = f"This arm has no gate. Arms with one: {', '.join(PRESETS)}."
            return {"name": name, "label": name, "gate": None, "note": self.notes.get(name, note)}
        config = gates[0].config
        gate = {
            "layers": len(gates),
            "channels": model.config.hidden_size,
            "kind": config.gating,
            "shift": config.shift,
            "norm": config.norm,
            "labels": [each.label for each in gate_names(model)],
        }
        return {"name": name, "label": name, "gate": gate, "note": self.notes.get(name, "")}

    def _unread(self, name: str) -> dict[str, Any]:
        if isinstance(self._arms[name], PreTrainedModel):
            return self.arm(name)
        return {"name": name, "label": name, "gate": None, "note": self.notes.get(name, ""), "later": True}

    def handle(self, message: Mapping[str, Any]) -> Reply:
        """Answer a message of the front end.

        Args:
            message: `id`; `method`: "arm" (`arm`), "read" (`arm`, `text`, `interventions`),
                "continue" (also `tokens`, `temperature`, `seed`), "cards" (`arm`), "more" for the rest of an unfinished
                answer, "stop" (`asked`, the ids to give up).

        Returns:
            The reply with the message's `id` and `done`; `error`, a sentence, where it was refused.
        """
        number = message.get("id")
        try:
            reply, buffers = self._answer(message)
        except Exception as error:  # a message has no caller that could show the error
            self._unfinished.pop(number, None)  # type: ignore[arg-type]
            words = str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"
            return {"id": number, "done": True, "error": words}, []
        return {"id": number, "done": True, **reply}, buffers

    def _answer(self, message: Mapping[str, Any]) -> Reply:
        method, number = message.get("method"), message.get("id")
        if not isinstance(number, int):
            raise ValueError(f"id is {number!r}; it must be a whole number")
        if method == "arm":
            return {"arm": self.arm(message["arm"])}, []
        if method == "stop":
            for each in message.get("asked", []):
                self._unfinished.pop(each, None)
            return {}, []
        if method in (long := {"read": self._reading, "continue": self._continuation, "cards": self._channel_cards}):
            self._unfinished[number] = long[method](message)
        elif method != "more":
            raise ValueError(f"method is {method!r}; allowed are arm, {', '.join(long)}, more and stop")
        if number not in self._unfinished:
            raise ValueError("stopped")
        reply = next(self._unfinished[number])
        if reply[0].get("done", True):
            del self._unfinished[number]
        return reply

    def _reading(self, message: Mapping[str, Any]) -> Iterator[Reply]:
        model, text = self.model(message["arm"]), check_text(message["text"])
        steps = read_live(model, self.tokenizer, text, self._clamps(message))
        asked = {key: message.get(key, []) for key in ("arm", "text", "interventions")}
        began = time.perf_counter()
        while True:
            try:
                read, total = next(steps)
            except StopIteration as end:
                reply, buffers = packed(end.value, self.tokenizer, model)
                yield {"reading": asked | reply}, buffers
                return
            if read < total and time.perf_counter() - began > PART:
                yield {"done": False, "read": read, "total": total}, []
                began = time.perf_counter()

    def _clamps(self, message: Mapping[str, Any], more: int = 0) -> list[Clamp]:
        """The clamps of a message's interventions, for its text and `more` tokens."""
        model, clamps = self.model(message["arm"]), list[Clamp]()
        for one in message.get("interventions", []):
            if one.get("replace") is None:
                clamps += clamps_of([one])
            else:
                length = len(encode(self.tokenizer, [check_text(message["text"])])[0]) + more
                clamps += replacing(model, self.tokenizer, one, min(length, LONGEST + more))
        return clamps

    def _channel_cards(self, message: Mapping[str, Any]) -> Iterator[Reply]:
        """What was read before an answer was given up is not read again."""
        arm, made, began = message["arm"], list[ChannelCards](), time.perf_counter()
        for name in dict.fromkeys((arm, self.untrained or arm)):
            model = self.model(name)
            if name != arm and not gates_of(model):
                continue
            cards = self._cards.setdefault(name, ChannelCards(model, self.tokenizer, self.documents))
            made.append(cards)
            start = time.perf_counter()
            for read in cards.steps():
                if time.perf_counter() - start > PATIENCE:
                    break
                if time.perf_counter() - began > PART:
                    yield {"done": False, "read": read, "total": len(self.documents)}, []
                    began = time.perf_counter()
        yield {"cards": made[0].packed(made[-1] if len(made) > 1 else None)}, []

    def _continuation(self, message: Mapping[str, Any]) -> Iterator[Reply]:
        most = message.get("tokens", 40)
        if not isinstance(most, int) or not 1 <= most <= MOST_TOKENS:
            raise ValueError(f"tokens is {most!r}; allowed are 1 to {MOST_TOKENS}")
        tokens = generated(
            self.model(message["arm"]),
            self.tokenizer,
            check_text(message["text"]),
            clamps=self._clamps(message, more=most),
            new_tokens=most,
            temperature=message.get("temperature", 0),
            seed=message.get("seed", 0),
        )
        began, written, part, shown = time.perf_counter(), list[int](), list[dict[str, Any]](), ""
        for token, chance in tokens:
            written.append(token)
            text = str(self.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            new = "" if text.endswith("\ufffd") else text[len(shown) :]  # a character that is not complete waits
            shown += new
            part.append({"id": token, "piece": token_texts(self.tokenizer, [token])[0], "text": new, "p": chance})
            if time.perf_counter() - began > PART:
                yield {"done": False, "tokens": part}, []
                part, began = [], time.perf_counter()
        yield {"tokens": part}, []


def clamps_of(interventions: Sequence[Mapping[str, Any]]) -> list[Clamp]:
    """The clamps of the front end's interventions, whose tokens count from the text's first, after the prefix.

    >>> clamps_of([{"layer": 2, "channels": None, "tokens": [0], "value": 0}])
    [Clamp(layer=2, value=0, scale=None, channels=None, tokens=[1])]
    """
    return [
        Clamp(
            one.get("layer"),
            one.get("value"),
            one.get("scale"),
            one.get("channels"),
            None if one.get("tokens") is None else [token + 1 for token in one["tokens"]],
        )
        for one in interventions
    ]


def replacing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, one: Mapping[str, Any], length: int
) -> list[Clamp]:
    """The clamps of an intervention that replaces gates by those of another text, which repeats to `length` tokens.

    Raises:
        ValueError: the intervention also has a value or scale, a text is empty or too long, or a layer has two gates.
    """
    names, other = gate_names(model), check_text(one["replace"])
    if one.get("value") is not None or one.get("scale") is not None:
        raise ValueError("exactly one of value, scale and replace must be given")
    if len({name.layer for name in names}) < len(names):
        raise ValueError("a layer of this arm has two gates; those of another text can replace one in each layer")
    ids = encode(tokenizer, [other])[0]
    if not ids:
        raise ValueError("the other text is empty; type at least one character")
    most = VALUES_LIMIT // (4 * max(1, len(names)) * int(model.config.hidden_size))
    if max(len(ids), length) > most:
        raise ValueError(f"a text has over {most:,} tokens; of this arm, gates of so many at most can be replaced")
    gates = gates_over(model, ids)
    # The prefix, at position 0, keeps its own.
    rows, (own,) = torch.arange(-1, length) % len(ids), clamps_of([{**one, "value": 0}])
    every = slice(1, None) if own.tokens is None else own.tokens
    chosen = [i for i, name in enumerate(names) if own.layer in (None, name.layer)]
    return [Clamp(names[i].layer, gates[i][rows], channels=own.channels, tokens=every) for i in chosen]


def packed(reading: LiveReading, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Reply:
    """A reading as a message: numbers in buffers, in the order that `kernel.js` takes them."""
    known = np.unique(reading.top_ids.numpy()).tolist()
    arrays = (reading.means, reading.let_in, reading.surprisal, reading.top_ids, reading.top_p)
    buffers = [array.contiguous().numpy().tobytes() for array in arrays]
    if reading.gates is not None:
        buffers.append(reading.gates.contiguous().numpy().tobytes())
    reply = {
        "pieces": reading.tokens,
        "layers": len(reading.means),
        "channels": int(getattr(model.config, "hidden_size", 0)),
        "likeliest": dict(zip(map(str, known), token_texts(tokenizer, known), strict=True)),
        "left": reading.left,
        "seconds": reading.seconds,
    }
    return reply, buffers


def check_text(text: Any) -> str:
    """Refuse what is no text, or too long.

    Raises:
        ValueError: names what was found.
    """
    if not isinstance(text, str):
        raise ValueError(f"the text is of type {type(text).__name__}; it must be a string")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the text has {len(text):,} characters; at most {LONGEST_TEXT:,} are read")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("the text holds half of a surrogate pair, which no file of text can; leave it out")
    return text
