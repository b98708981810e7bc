"""The technology genre: "In the realm of artificial intelligence, ..."."""

from __future__ import annotations

from rwkvgate.experiment.corpora.stories.genre import Genre, Place, Trades, coined

_LEXICON = {
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "trait": ("a sharp memory", "a gentle voice", "quick answers", "tidy notes", "steady habits"),
    "quality": (
        "had cost a fortune",
        "was almost new",
        "nobody else used",
        "had never failed",
        "was easy to repair",
    ),
    "source": ("another laboratory", "a small company", "the university", "an old project", "a partner team"),
    "speed": ("slow", "busy", "stable", "quiet", "overloaded"),
    "span": ("two hours", "all night", "three days", "the whole week", "a full day"),
    "topic": ("the budget", "the new model", "the error rate", "the last results", "the safety rules"),
    "event": ("meeting", "demo", "night shift", "review", "first test"),
    "purpose": ("the next experiment", "a speech test", "a robot trial", "the public show", "a long study"),
}

_FRAMES = {
    "open": (
        "In the realm of artificial intelligence, {a} worked as {a:trade} {p:in}.",
        "In the realm of artificial intelligence, {a:trade} named {a} worked {p:in}.",
        "In the realm of artificial intelligence, everyone {p:in} knew {a}, {a:trade}.",
        "In the realm of artificial intelligence, {p} was the workplace of {a}, {a:trade}.",
        "In the realm of artificial intelligence, {a}, {a:trade}, spent every day {p:in}.",
        "In the realm of artificial intelligence, {a:trade} called {a} had a task {p:in}.",
    ),
    "meet": (
        "{b}, {b:trade}, worked on the same team.",
        "{a:his} closest partner was {b}, {b:trade} with {trait}.",
        "There {a:he} met {b}, {b:trade} with {trait}.",
        "The project also needed {b}, {b:trade} with {trait}.",
        "On {weekday}, {b:trade} named {b} joined the project.",
        "{a} shared most tasks with {b}, {b:trade}.",
    ),
    "third": (
        "Soon {b:trade} named {b} came to help them.",
        "A third member, {b}, was {b:trade} with {trait}.",
        "The manager also sent {b}, {b:trade}.",
        "{b}, {b:trade}, completed the small team.",
        "{a} then asked {b}, {b:trade}, for help.",
    ),
    "own": (
        "{a} was responsible for {x:a}.",
        "The manager had given {x:a} to {a}.",
        "{a} always worked with {x:a} | that {quality}.",
        "{a} had {x:a} | that came from {source}.",
        "For every experiment, {a} used {x:a}.",
        "{a} had received {x:a} from {source}.",
        "{a} had built {x:a} | while working {p:in}.",
    ),
    "mood": (
        "It was {weekday}, | and the network was {speed}.",
        "The training run took {span}, | so everybody waited.",
        "An alarm sounded, | but it was only a test.",
        "The team discussed {topic} | while the model was training.",
        "{a} studied {topic} | and wrote a short report.",
        "The deadline was close, | and the lights stayed on all night.",
    ),
    "give": (
        "On {weekday}, {a} handed {x} to {b}.",
        "{b} needed {x}, | so {a} handed {x:it} over.",
        "{a} passed {x} to {b} | before the {event} started.",
        "The plan changed, | and {a} gave {x} to {b}.",
        "{b} took over {x} from {a} on {weekday}.",
        "{a} had too much work, | so {b} took {x}.",
    ),
    "swap": (
        "{a} and {b} agreed to exchange {x} and {y}.",
        "{a} gave {x} to {b} | and got {y} in return.",
        "For {purpose}, {a} took {y}, | and {b} took {x}.",
        "{a} swapped {x} for {y}, | which {b} had used before.",
        "The manager told {a} to take {y} | and {b} to take {x}.",
    ),
    "leave": (
        "{a} left {x} {p:in} after the {event}.",
        "To save time, {a} stored {x} {p:in}.",
        "After the {event}, {a} locked {x} in a box {p:in}.",
        "{a} left {x} {p:in} | because a repair was due.",
        "On {weekday}, {a} forgot {x} {p:in}.",
    ),
    "fetch": (
        "{b} went to {p} | and collected {x}.",
        "Later {b} found {x} {p:in} | and kept {x:it}.",
        "After the {event}, {b} picked up {x} {p:in}.",
        "On {weekday}, {b} brought {x} back from {p}.",
        "{b} needed {x} | and fetched {x:it} from {p}.",
    ),
    "back": (
        "After the {event}, {a} gave {x} back to {b}.",
        "{b} needed {x} again, | so {a} returned {x:it}.",
        "On {weekday}, {x} went back from {a} to {b}.",
        "{a} finished early | and returned {x} to {b}.",
        "The work was done, | so {b} got {x} back from {a}.",
    ),
    "why": (
        "{b} tested {x:short} | and thanked {a} for {x:it}.",
        "{b} wrote in the log | that {x} had arrived.",
        "{a} updated the list, | so {x:short} was now under {b}.",
        "Now {b} could use {x} for {purpose}.",
        "{a} explained {x:short} to {b} in a few words.",
        "The transfer was quick, | and {b} kept {x:short} close.",
    ),
    "travel": (
        "After the {event}, {a} moved to {p}.",
        "A new task sent {a} to {p}.",
        "{a} was needed {p:in} | and left at once.",
        "On {weekday}, {a} went to {p} for {purpose}.",
        "The manager called, | and {a} hurried to {p}.",
    ),
    "recall": (
        "{b} checked the log | and saw | that {a} had {x}.",
        "{b} asked | who was using {x}, | and {a} answered.",
        "The log said | that {x} was with {a}.",
        "{a} used {x} | while {b} watched the screen.",
        "{a} showed {x} to {b} during the {event}.",
        "{b} reminded the team | that {a} had {x}.",
    ),
    "recall-place": (
        "The log said | that {x} was {p:in}.",
        "{b} reminded the team | that {x} was {p:in}.",
        "{b} checked the log | and saw | that {x} was {p:in}.",
        "{b} noticed {x} {p:in} | but did not move {x:it}.",
    ),
    "holds": (
        "At the end of the project, {a} still had {x}.",
        "When the manager asked for {x}, | {a} had {x:it}.",
        "The final report listed {x} under {a}.",
        "{a} kept {x} for {purpose}.",
        "{x} stayed with {a}, | and {b} did not need {x:it}.",
        "Nobody else touched {x}, | because {a} was using {x:it}.",
    ),
    "moved": (
        "{b} no longer had {x}, | because {a} was using {x:it}.",
        "{b} searched for {x} | until {a} reported having {x:it}.",
        "{x} had once been with {b}, | but now {a} had {x:it}.",
        "The list was corrected: | {a}, not {b}, had {x}.",
        "{a} was now in charge of {x}, | although {b} had used {x:it} before.",
        "{b} asked {a} | whether {x} still worked.",
    ),
    "lies": (
        "{x} was still {p:in}, | where {b} had left {x:it}.",
        "Nobody had {x}, | because {x:it} was still {p:in}.",
        "The final report said | that {x} was still {p:in}.",
        "Anyone | who needed {x} | could find {x:it} {p:in}.",
        "At the end of the project, {x} was still {p:in}.",
    ),
    "stays": (
        "{a} was still {p:in} | when the project ended.",
        "{a} stayed {p:in} for {purpose}.",
        "The schedule kept {a} {p:in} until {weekday}.",
        "Messages for {a} were now sent to {p}.",
        "From then on, {a} worked {p:in}.",
    ),
    "sum": (
        "The final log was clear: | {a} had {x}, | and {b} had {y}.",
        "So {a} kept {x}, | while {b} kept {y}.",
        "In the end, {x} was with {a}, | and {y} was with {b}.",
        "The manager noted | that {a} had {x} | and {b} had {y}.",
        "Everyone knew | that {x} was with {a} | and {y} was with {b}.",
    ),
    "sum-one": (
        "The final log was clear: | {a} had both {x} and {y}.",
        "So {a} kept {x} and {y}, | while {b} had neither.",
        "In the end, both {x} and {y} were with {a}.",
        "The manager noted | that {a} had {x} and {y}.",
    ),
    "sum-place": (
        "The final log was clear: | {a} had {x}, | and {y} was {p:in}.",
        "So {a} kept {x}, | while {y} was {p:in}.",
        "In the end, {x} was with {a}, | and {y} was {p:in}.",
        "The manager noted | that {a} had {x} | and {y} was {p:in}.",
    ),
    "close": (
        "The project was a success, | and {a} congratulated {b}.",
        "The experiment ended, | and {a} thanked {b} for the help.",
        "From then on, {a} and {b} worked on every project together.",
        "This is how {a} and {b} learned to keep careful records.",
        "The team published the results | and began the next experiment.",
        "{a} and {b} were ready for the next experiment.",
    ),
}

STARTS = "Bar Chan Dev Hir Jan Kir Lat Nar Pav Rak Tar Zof"
MEN, HELD_OUT_MEN = coined("he", STARTS, "an ir ov esh im o")
WOMEN, HELD_OUT_WOMEN = coined("she", STARTS, "a ita ena ya ina i")
MACHINES, HELD_OUT_MACHINES = coined("it", "Vex Zor Tek Nex Qor Syn Hex Orb Pix Lux", "on el ara ium ix or")

TECHNOLOGY = Genre(
    domain="technology",
    people=MEN + WOMEN + MACHINES,
    held_out=HELD_OUT_MEN + HELD_OUT_WOMEN + HELD_OUT_MACHINES,
    trades={
        "person": Trades(
            ("young", "careful", "patient", "senior"),
            ("engineer", "researcher", "analyst", "designer", "technician"),
        ),
        "machine": Trades(
            ("small", "fast", "modern", "friendly"),
            ("delivery robot", "kitchen robot", "museum robot", "garden robot", "hospital robot"),
        ),
    },
    adjectives=("wireless", "spare", "black", "orange"),
    nouns=("sensor", "camera", "tablet", "antenna", "keyboard"),
    places=(
        Place("north laboratory", "in"),
        Place("server room", "in"),
        Place("robot workshop", "in"),
        Place("control room", "in"),
        Place("training hall", "in"),
        Place("old library", "in"),
        Place("data center", "at"),
        Place("test track", "at"),
        Place("charging station", "at"),
        Place("roof terrace", "on"),
    ),
    lexicon=_LEXICON,
    frames=_FRAMES,
    orders={
        "hand-over": "open meet own own give why mood? recall travel resolve stays resolve sum close",
        "exchange": "open meet own own swap why recall mood? travel? resolve resolve sum close",
        "stored": "open own meet own leave recall mood travel resolve stays? resolve sum close",
        "collected": "open meet own leave own mood? fetch recall travel resolve resolve stays? sum close",
        "relay": "open meet third own own give give why? recall mood? resolve resolve sum close",
        "return": "open meet own own give why? back mood? recall travel resolve stays resolve sum close",
    },
)
