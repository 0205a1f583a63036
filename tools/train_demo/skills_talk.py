"""Greetings, facts, and what it does not know."""

from .problem import Draw, Elsewhere, Problem
from .skills_calls import WORDINGS, by_name, made_up_name, none_declared
from .words import CAPITALS, COUNTED, FACTS, FOODS, JOBS, OBJECTS, SYLLABLES

DO_NOT_KNOW = "I am a demo model and do not know that."
NO_TOOL = "I have no tool for that."
_GREETINGS = {
    ("Hello!", "Hello", "Hi", "Hi there!", "Good morning!"): "Hello! How can I help?",
    ("Thanks!", "Thank you!", "Thank you very much."): "You are welcome.",
    ("Bye!", "Goodbye!", "See you."): "Goodbye!",
    ("How are you?", "How do you do?"): "I am fine, thank you.",
    ("Who are you?", "What are you?", "What is your name?"): "I am a small demo model.",
    (
        "What can you do?",
        "How can you help me?",
        "Help",
    ): "I can add, sort, spell, read short texts and call tools.",
    ("Tell me a joke.", "Tell me a story."): "I am a demo model and know no stories.",
}


def greeting(draw: Draw) -> Problem:
    asked, said = draw.one(list(_GREETINGS.items()))
    thought = draw.by_effort("", "Small talk.", "Small talk, no tool.")
    return draw.solved("greeting", draw.one(asked), thought, said, said)


def fact(draw: Draw) -> Problem:
    if draw.chance(0.5):
        user = draw.one(list(FACTS))
        full, bare = FACTS[user]
    else:
        country = draw.one(list(CAPITALS))
        bare = CAPITALS[country]
        asked = ["What is the capital of {}?", "Which city is the capital of {}?", "Capital of {}?"]
        user = draw.one(asked).format(country)
        full = f"The capital of {country} is {bare}."
    thought = draw.by_effort("", f"I know this: {bare}.", f"A fact that I know: {bare}. No tool.")
    return draw.solved("fact", user, thought, full, bare)


_UNKNOWN = [
    "Who wrote {x}?",
    "Who invented the {x}?",
    "What is a {x}?",
    "What is {x}?",
    "Why is {x} {y}?",
    "Why do people like {x}?",
    "Explain {x}.",
    "Explain {x} to a child.",
    "Tell me about {x}.",
    "Write a poem about {x}.",
    "Who won the {x} in {n}?",
    "When was {x} born?",
    "How do I make {x}?",
    "How does a {x} work?",
    "Where can I buy a {x}?",
    "What is the capital of {x}?",
    "Translate {x} to {y}.",
    "What is the meaning of {x}?",
    "Is {x} better than {y}?",
    "How old is {x}?",
    "What happened in {n}?",
    "Can you recommend a {x}?",
    "Give me a recipe for {x}.",
    "What does {x} mean?",
]
_THINGS = """love time music money history football chess war peace energy light gravity computers
python tax law health sleep dreams fire gold oil bank king queen book film poem engine""".split()


def unknown(draw: Draw) -> Problem:
    """Questions far from all that it was taught, with words that it never saw."""

    def thing() -> str:
        if draw.chance(0.5):
            return draw.one(_THINGS + FOODS + OBJECTS + JOBS + COUNTED)
        made = "".join(draw.one(SYLLABLES) for _ in range(draw.between(2, 4)))
        return made.title() if draw.chance(0.4) else made

    pattern = draw.one(_UNKNOWN)
    user = pattern.format(x=thing(), y=thing(), n=draw.between(1900, 2030))
    draw.own(f"unknown {user}")
    thought = draw.by_effort("", "I do not know this.", "I do not know this, and no tool fits.")
    return draw.solved("unknown", user, thought, DO_NOT_KNOW, "unknown")


def no_tool(draw: Draw) -> Problem:
    """Asks for what only a function could tell, none of those declared."""
    if draw.chance(0.15):
        name = made_up_name(draw)
        if name in draw.tools:
            raise Elsewhere
        user, _ = by_name(draw, name)
    else:
        name = draw.one([name for name in WORDINGS if name not in draw.tools])
        user = WORDINGS[name](draw)[0]
    draw.own(f"no_tool {user}")
    return draw.solved("no_tool", user, none_declared(draw, name), NO_TOOL, "unknown")
