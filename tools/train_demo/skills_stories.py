"""Word problems, and questions about a short text."""

from .columns import family, minus, plus, times
from .problem import Draw, Elsewhere, Problem
from .words import CITIES, COLOURS, COUNTED, FOODS, JOBS, NAMES, OBJECTS


def _number(draw: Draw) -> int:
    return draw.between(2, 99) if draw.chance(0.7) else draw.between(100, 999)


def _claim(draw: Draw, *keys: str) -> None:
    draw.own("story " + " ".join(keys))


def story(draw: Draw) -> Problem:
    """One or two steps of written arithmetic, found in a sentence."""
    name, other = draw.several(NAMES, 2)
    what = draw.one(COUNTED)
    a, b, c = _number(draw), _number(draw), _number(draw)
    kind = draw.between(0, 5)
    if kind == 0:
        _claim(draw, family(a, b))
        thought, r = plus(draw, a, b)
        verb = draw.one(["buys", "finds", "gets"])
        user = f"{name} has {a} {what} and {verb} {b} more."
        thought = f"{a}+{b}. {thought}"
    elif kind == 1:
        a, b = max(a, b), min(a, b)
        _claim(draw, family(a - b, b))
        thought, r = minus(draw, a, b)
        verb = draw.one(["sells", "loses", "gives away"])
        user = f"{name} has {a} {what} and {verb} {b}."
        thought = f"{a}-{b}. {thought}"
    elif kind == 2:
        b = draw.between(2, 9)
        a = draw.between(2, 99)
        _claim(draw, f"{a}*{b}")
        if a > 9:
            draw.spare(f"{a}*{b}")
        steps, r = times(a, b)
        user = f"{name} has {b} {draw.one(['boxes', 'bags'])} with {a} {what} each."
        thought = f"{b}*{a}. {steps}."
    elif kind == 3:
        _claim(draw, family(a, b), str(c))
        first, r = plus(draw, a, b)
        if c > r:
            raise Elsewhere
        second, s = minus(draw, r, c)
        user = f"{name} has {a} {what}, buys {b} and gives {c} to {other}."
        thought, r = f"{a}+{b}. {first} {r}-{c}. {second}", s
    elif kind == 4:
        a, b = max(a, b), min(a, b)
        _claim(draw, family(a - b, b), str(c))
        first, r = minus(draw, a, b)
        second, s = plus(draw, r, c)
        user = f"{name} has {a} {what}, gives {b} to {other} and buys {c}."
        thought, r = f"{a}-{b}. {first} {r}+{c}. {second}", s
    else:
        _claim(draw, family(a, b), "both")
        thought, r = plus(draw, a, b)
        user = f"{name} has {a} {what} and {other} has {b} {what}."
        thought = f"{a}+{b}. {thought}"
        ask = f"How many {what} do they have together?"
        return draw.solved(
            "story", f"{user} {ask}", thought, f"They have {r} {what}.", str(r), str(r)
        )
    ask = f"How many {what} does {name} have{draw.one(['', ' now'])}?"
    return draw.solved("story", f"{user} {ask}", thought, f"{name} has {r} {what}.", str(r), str(r))


class _Person:
    """What a text says of somebody; sentences are made once each."""

    def __init__(self, draw: Draw, name: str, city: str, food: str, job: str, thing: str) -> None:
        self.name = name
        self.colour = draw.one(COLOURS)
        self.says = {
            "city": (city, f"{name} lives in {city}."),
            "food": (food, f"{name} likes {food}."),
            "job": (job, f"{name} works as a {job}."),
            "thing": (thing, f"{name} has a {self.colour} {thing}."),
        }


_ASKED = {
    "city": ("Where does {name} live?", "{name} lives in {value}."),
    "food": ("What does {name} like?", "{name} likes {value}."),
    "job": ("What does {name} work as?", "{name} works as a {value}."),
    "thing": ("What does {name} have?", "{name} has a {value}."),
}
_WHO = {
    "city": ("Who lives in {value}?", "{name} lives in {value}."),
    "food": ("Who likes {value}?", "{name} likes {value}."),
    "job": ("Who works as a {value}?", "{name} works as a {value}."),
    "thing": ("Who has a {value}?", "{name} has a {value}."),
}


def reading(draw: Draw) -> Problem:
    """A text of two or three people: a fact is asked, or one through another, or one not there.

    A thought copies the text up to the word that is asked for, so that the name that goes with it
    is the last one written. That something is not there shows only where it would have to be
    copied from.
    """
    # Many texts that are trained on are as short as can be: two sentences to tell apart.
    short = draw.split == "train" and draw.chance(draw.mix.short_texts)
    count = 2 if short else draw.between(2, 3)
    people = [
        _Person(draw, *values)
        for values in zip(
            draw.several(NAMES, count),
            draw.several(CITIES, count),
            draw.several(FOODS, count),
            draw.several(JOBS, count),
            draw.several(OBJECTS, count),
            strict=True,
        )
    ]
    sentences, known = [], []
    for person in people:
        kinds = draw.several(list(person.says), 1 if short else draw.between(1, 3))
        sentences += [person.says[kind][1] for kind in kinds]
        known += [(person, kind) for kind in kinds]
    if draw.chance(0.5):
        draw.rng.shuffle(sentences)
    text = " ".join(sentences)
    draw.own(f"reading {text}")
    person, kind = draw.one(known)
    value, said = person.says[kind]
    way = draw.rng.random()
    others = [k for p, k in known if p is person and k != kind]
    if way < 0.15:
        absent = [k for k in person.says if (person, k) not in known]
        if not absent:
            raise Elsewhere
        kind = draw.one(absent)
        question = _ASKED[kind][0].format(name=person.name)
        begun = _ASKED[kind][1].format(name=person.name, value="?")
        thought, full, bare = f"{begun} Not in the text.", "The text does not say.", "unknown"
    elif way < 0.4 and others:
        link = draw.one(others)
        who = {
            "city": "the one who lives in {}",
            "food": "the one who likes {}",
            "job": "the {}",
            "thing": "the one with the {}",
        }
        through, first = person.says[link]
        question, answer = _ASKED[kind]
        question = question.format(name=who[link].format(through))
        read = " ".join(sentences[: sentences.index(first) + 1])
        thought = f"{read} {said}"
        value = f"{person.colour} {value}" if kind == "thing" else value
        full, bare = answer.format(name=person.name, value=value), value
    elif way < 0.7:
        question, answer = _ASKED[kind]
        question = question.format(name=person.name)
        value = f"{person.colour} {value}" if kind == "thing" else value
        thought, full, bare = said, answer.format(name=person.name, value=value), value
    else:
        question, answer = _WHO[kind]
        colour = f"{person.colour} " if kind == "thing" else ""
        question = question.format(value=value)
        thought = " ".join(sentences[: sentences.index(said) + 1])
        full = answer.format(name=person.name, value=f"{colour}{value}")
        bare = person.name
    thought = draw.by_effort("", thought, f"{question} {thought}")
    user = f"{question} {text}" if draw.chance(0.3) else f"{text} {question}"
    return draw.solved("reading", user, thought, full, bare)
