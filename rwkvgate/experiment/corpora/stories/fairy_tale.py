"""The fairy-tale genre: "Once upon a time, in a distant land, ..."."""

from __future__ import annotations

from rwkvgate.experiment.corpora.stories.genre import Genre, Place, Trades, coined

_LEXICON = {
    "time": ("morning", "evening", "spring day", "summer day", "winter day", "afternoon"),
    "season": ("spring", "summer", "autumn", "winter"),
    "weather": ("cold", "warm", "wet", "windy", "mild", "dry"),
    "feeling": ("happy", "lonely", "tired", "hopeful", "sad", "calm"),
    "topic": ("the harvest", "the long winter", "the lost king", "distant towns", "the sea", "old times"),
    "habit": (
        "loved to sing",
        "told good stories",
        "never told a lie",
        "laughed at everything",
        "rose before the sun",
        "knew every path",
    ),
    "relative": ("mother", "father", "grandmother", "uncle", "aunt", "sister"),
    "past": (
        "had come from the sea",
        "was older than the king",
        "had once been a prize",
        "smelled of roses",
        "was said to bring luck",
    ),
    "price": ("three coins", "a loaf of bread", "a basket of apples", "a bag of salt", "two warm coats"),
    "span": ("a week", "three days", "a month", "one night"),
    "until": ("the first snow", "the harvest", "the new moon", "the end of the year"),
}

_FRAMES = {
    "open": (
        "Once upon a time, in a distant land, {a:trade} named {a} lived {p:in}.",
        "Once upon a time, in a distant land, {a} worked as {a:trade} {p:in}.",
        "Once upon a time, in a distant land, there was {a:trade} named {a}, | who lived {p:in}.",
        "Once upon a time, in a distant land, {p} was the home of {a}, {a:trade}.",
        "Once upon a time, in a distant land, {a}, {a:trade}, spent every day {p:in}.",
        "Once upon a time, in a distant land, everyone {p:in} knew {a}, {a:trade}.",
    ),
    "meet": (
        "There {a:he} had a friend, {b:trade} named {b}.",
        "{b}, {b:trade}, was {a:his} best friend.",
        "{a:his} neighbor {b} was {b:trade} | who {habit}.",
        "One {time}, {a} met {b}, {b:trade} | who {habit}.",
        "{a} often worked with {b}, {b:trade} from the next village.",
        "{a} liked to share {a:his} bread with {b}, {b:trade}.",
    ),
    "third": (
        "Soon {b}, {b:trade}, came to stay with them.",
        "Later {b:trade} named {b} arrived | and asked for work.",
        "On the road they met {b}, {b:trade} | who {habit}.",
        "A third friend, {b:trade} named {b}, joined them that {season}.",
        "{a} also knew {b}, {b:trade} | who {habit}.",
    ),
    "own": (
        "{a} owned {x:a}, | which was a gift from {a:his} {relative}.",
        "{a} had {x:a} | and took good care of {x:it}.",
        "In {a:his} bag {a} carried {x:a} | that {past}.",
        "{a} had found {x:a} | while {a:he} was resting {p:in}.",
        "{a} kept {x:a} | that had belonged to {a:his} {relative}.",
        "{a} was proud of {x:a} | that {past}.",
        "The king had once given {x:a} to {a}.",
    ),
    "mood": (
        "The {season} was {weather}, | and the days felt long.",
        "A {weather} wind blew that {time}, | and the birds fell silent.",
        "Nobody worked that {time}, | because the village held a feast.",
        "{a} felt {feeling} | and sang an old song.",
        "The friends sat together | and talked about {topic}.",
        "{a} dreamed of {topic} | and woke up {feeling}.",
    ),
    "give": (
        "One {time}, {a} gave {x} to {b}.",
        "When {b} fell ill, | {a} gave {b:him} {x}.",
        "{a} wanted to thank {b}, | so {a:he} gave {b:him} {x}.",
        "{b} admired {x}, | so {a} let {b:him} have {x:it}.",
        "On the feast day, {b} received {x} from {a}.",
        "{a} lost a wager, | and {b} won {x} from {a:him}.",
        "{a} sold {x} to {b} for {price}.",
    ),
    "swap": (
        "{a} and {b} agreed to trade {x} for {y}.",
        "{a} gave {x} to {b} | and received {y} in return.",
        "{b} offered {y}, | and {a} gave {x} for {y:it}.",
        "One {time}, {a} traded {x} for {y}, | which {b} had carried.",
        "They made a fair exchange: | {a} took {y}, | and {b} took {x}.",
    ),
    "leave": (
        "One {time}, {a} hid {x} {p:in}.",
        "{a} left {x} {p:in} | because {a:his} bag was too heavy.",
        "{a} was afraid of thieves, | so {a:he} hid {x} {p:in}.",
        "{a} forgot {x} {p:in} | while {a:he} was resting.",
        "On the way home, {a} left {x} behind {p:in}.",
    ),
    "fetch": (
        "{b} went to {p} | and picked up {x}.",
        "Later {b} found {x} {p:in} | and kept {x:it}.",
        "The next day {b} walked to {p} | and took {x}.",
        "When {b} passed {p}, | {b:he} took {x} home.",
        "{b} needed {x}, | so {b:he} fetched {x:it} from {p}.",
    ),
    "back": (
        "After {span}, {a} gave {x} back to {b}.",
        "{b} missed {x}, | so {a} returned {x:it}.",
        "{a} knew | that {x} mattered to {b}, | and {a:he} gave {x:it} back.",
        "Before long, {x} went back from {a} to {b}.",
        "{b} asked for {x}, | and {a} returned {x:it} with a smile.",
    ),
    "why": (
        "{b} thanked {a} | and promised to guard {x} well.",
        "{b:the} smiled, | because {x} belonged to {b:him} now.",
        "{a} did not miss {x:short}, | because {b} was a true friend.",
        "{b} put {x:short} in {b:his} bag | and smiled at {a}.",
        "From then on, {b} carried {x:short} everywhere.",
    ),
    "travel": (
        "After that, {a} walked to {p} | and rested there.",
        "That night, {a} travelled to {p}.",
        "{a} said goodbye | and went to {p}.",
        "{a} had work to do {p:in}, | so {a:he} went there.",
        "A letter came, | and {a} hurried to {p}.",
    ),
    "recall": (
        "{b} remembered | that {a} had {x}.",
        "{b} asked about {x}, | and {a} showed {x:it} to {b:him}.",
        "{b} knew | that {x} belonged to {a}.",
        "{a} polished {x} | while {b} watched.",
        "{a} held up {x}, | and {b} looked at {x:it} with wonder.",
        "{b} told everyone | that {a} carried {x}.",
    ),
    "recall-place": (
        "{b} remembered | that {x} was {p:in}.",
        "{b} often dreamed of {x} | that was {p:in}.",
        "{b} passed {p} | and saw {x} there.",
        "{b} told nobody | that {x} was {p:in}.",
    ),
    "holds": (
        "At the end of the year, {a} still had {x}.",
        "When {b} came to visit, | {a} still had {x}.",
        "{x} stayed with {a}, | and {b} did not ask for {x:it}.",
        "A stranger asked | who had {x}, | and the answer was {a}.",
        "All {season} long, {a} took care of {x}.",
        "Nobody could steal {x}, | because {a} kept {x:it} under {a:his} bed.",
    ),
    "moved": (
        "{b} no longer had {x}, | because {a} was keeping {x:it}.",
        "{b} looked for {x}, | but then remembered | that {a} had {x:it}.",
        "{x} had once been with {b}, | but now {a} had {x:it}.",
        "{a} had {x} now, | although {b} had carried {x:it} before.",
        "{b} sometimes asked {a} | if {x} was safe with {a:him}.",
        "It was {a}, not {b}, | who had {x} now.",
    ),
    "lies": (
        "{x} was still {p:in}, | where {b} had left {x:it}.",
        "Nobody had {x}, | because {x:it} was still {p:in}.",
        "{b} often thought of {x}, | which lay {p:in}.",
        "Anyone | who looked for {x} | would find {x:it} {p:in}.",
        "At the end of the year, {x} was still {p:in}.",
    ),
    "stays": (
        "{a} was still {p:in} | and felt {feeling}.",
        "{a} stayed {p:in} until {until}.",
        "Anyone | who went to {p} | could meet {a} there.",
        "From that day on, {a} lived {p:in}.",
        "{a} did not leave {p} again.",
    ),
    "sum": (
        "So {a} had {x}, | and {b} had {y}.",
        "In the end, {a} kept {x}, | while {b} kept {y}.",
        "The old people say | that {a} has {x} | and {b} has {y}.",
        "{a} slept beside {x}, | and {b} slept beside {y}.",
        "Everyone knew | that {x} was with {a} | and {y} was with {b}.",
    ),
    "sum-one": (
        "So {a} had both {x} and {y}.",
        "In the end, {a} kept {x} and {y}, | while {b} had neither.",
        "Both {x} and {y} were with {a}, | and {b} did not mind.",
        "{b} had neither {x} nor {y}, | because {a} kept both.",
    ),
    "sum-place": (
        "So {a} had {x}, | while {y} was {p:in}.",
        "In the end, {x} was with {a}, | and {y} was {p:in}.",
        "{a} kept {x}, | but nobody fetched {y} from {p}.",
        "Everyone knew | that {a} had {x} | and {y} was {p:in}.",
    ),
    "close": (
        "And {a} and {b} lived happily ever after.",
        "{a} and {b} remained friends for the rest of their lives.",
        "And so the story of {a} and {b} came to an end.",
        "The people still tell this story to their children.",
        "{a} and {b} told this story to their grandchildren.",
        "After that, {a} never quarrelled with {b}.",
    ),
}

STARTS = "Mar Tol Bren Kel Dor Fen Gar Hal Jor Ros Sab Vin"
MEN, HELD_OUT_MEN = coined("he", STARTS, "in ek o ald en is")
WOMEN, HELD_OUT_WOMEN = coined("she", STARTS, "a eth elle una ia i")

FAIRY_TALE = Genre(
    domain="fairy-tale",
    people=MEN + WOMEN,
    held_out=HELD_OUT_MEN + HELD_OUT_WOMEN,
    trades={
        "person": Trades(
            ("young", "kind", "clever", "brave", "old"),
            ("miller", "baker", "shepherd", "tailor", "gardener"),
        )
    },
    adjectives=("silver", "golden", "wooden", "blue"),
    nouns=("key", "lantern", "cup", "ring", "flute"),
    places=(
        Place("old mill", "in"),
        Place("round tower", "in"),
        Place("dark forest", "in"),
        Place("royal garden", "in"),
        Place("narrow valley", "in"),
        Place("deep well", "by"),
        Place("quiet lake", "by"),
        Place("stone bridge", "by"),
        Place("village market", "at"),
        Place("green hill", "on"),
    ),
    lexicon=_LEXICON,
    frames=_FRAMES,
    orders={
        "gift": "open meet own own give why mood? recall travel resolve stays resolve sum close",
        "exchange": "open meet own own swap why recall mood? travel? resolve resolve sum close",
        "hidden": "open own meet own leave recall mood travel resolve stays? resolve sum close",
        "found": "open meet own leave own mood? fetch recall travel resolve resolve stays? sum close",
        "circle": "open meet third own own give give why? recall mood? resolve resolve sum close",
        "loan": "open meet own own give why? back mood? recall travel resolve stays resolve sum close",
    },
)
