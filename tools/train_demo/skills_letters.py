"""Repeating words, spelling them, and counting of letters."""

from .problem import Draw, Problem
from .words import (
    CITIES,
    COLOURS,
    COUNTED,
    FOODS,
    JOBS,
    NAMES,
    OBJECTS,
    SPELT,
    SYLLABLES,
    WEATHER,
    proper_name,
)

_WORDS = [NAMES, CITIES, FOODS, OBJECTS, JOBS, COUNTED, COLOURS, SPELT, WEATHER]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def _word(draw: Draw) -> str:
    """Return a known word, or one made up, so that all letters after all others are seen."""
    if draw.chance(draw.mix.random_letters):
        return "".join(draw.one(_ALPHABET) for _ in range(draw.between(3, 8)))
    kind = draw.rng.random()
    if kind < 0.5:
        word = draw.one(SPELT)
    elif kind < 0.75:  # the pieces of known words, after others
        one, two = draw.several(SPELT, 2)
        word = one[: draw.between(2, 4)] + two[-draw.between(2, 4) :]
    else:
        word = "".join(draw.one(SYLLABLES) for _ in range(draw.between(1, 4)))
        word += draw.one(_ALPHABET) if draw.chance(0.4) else ""
    draw.own(f"word {word}")
    return word


def repeat(draw: Draw) -> Problem:
    """Words without sense, copied: what calls, texts and documents rest on, many at a time."""

    def word() -> str:
        kind = draw.rng.random()
        if kind < 0.7:
            return draw.one(draw.one(_WORDS))
        if kind < 0.8:
            return str(draw.number(4))
        return proper_name(draw) if kind < 0.9 else draw.one(SYLLABLES) + draw.one(SYLLABLES)

    said = " ".join(word() for _ in range(draw.between(2, 16)))
    draw.own(f"repeat {said}")
    asked = ["Repeat: {}", "Repeat after me: {}", "Say {}", "Copy this: {}", "Repeat the words {}"]
    thought = draw.by_effort("", "", "I repeat it.")
    return draw.solved("repeat", draw.one(asked).format(said), thought, said, said)


def spell(draw: Draw) -> Problem:
    word = _word(draw)
    said = "-".join(word)
    asked = [f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}."]
    thought = draw.by_effort("", f"The letters of {word}.", f"The letters of {word}: {said}.")
    return draw.solved("spell", draw.one(asked), thought, said, said)


def count(draw: Draw) -> Problem:
    """How often a letter stands in a word, or how many letters it has; low effort guesses."""
    word = _word(draw)
    if draw.chance(0.3):
        steps = " ".join(f"{c}{n}" for n, c in enumerate(word, 1))
        total = len(word)
        user = draw.one([f"How many letters has {word}?", f"How long is the word {word}?"])
        full = f"{word} has {total} letters."
    else:
        letter = draw.one(word) if draw.chance(0.85) else draw.one(_ALPHABET)
        seen, parts = 0, []
        for c in word:
            seen += c == letter
            parts.append(f"{c}{seen}" if c == letter else c)
        steps, total = " ".join(parts), seen
        user = draw.one(
            [
                f"How many {letter}'s are in {word}?",
                f"How many {letter} are in {word}?",
                f"Count the letter {letter} in {word}.",
            ]
        )
        full = f"{total} {letter} in {word}"
    thought = draw.by_effort(
        "", f"{steps}. So {total}.", f"The word is {word}. {steps}. So {total}."
    )
    return draw.solved("count", user, thought, full, str(total), str(total))
