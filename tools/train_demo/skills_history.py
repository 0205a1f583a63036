"""Questions about what was said before in the same conversation."""

from .columns import minus, plus
from .problem import Call, Draw, Elsewhere, Problem, Result, Think
from .skills_calls import WORDINGS, plan
from .words import CITIES, COLOURS, FOODS, NAMES, proper_name

INTRODUCTIONS = {
    "name": (NAMES, "My name is {}.", "What is my name?", "Your name is {}."),
    "city": (CITIES, "I live in {}.", "Where do I live?", "You live in {}."),
    "food": (FOODS, "I like {}.", "What do I like?", "You like {}."),
    "colour": (COLOURS, "My favourite colour is {}.", "What is my favourite colour?", "It is {}."),
}


def introduction(draw: Draw) -> Problem:
    """The user says something to remember; `follow` is what."""
    kind = draw.one(list(INTRODUCTIONS))
    pool, said, _, _ = INTRODUCTIONS[kind]
    made_up = kind in ("name", "city") and draw.chance(0.2)
    value = proper_name(draw) if made_up else draw.one(pool)
    thought = draw.by_effort("", "I keep this in mind.", f"{value}. I keep this in mind.")
    user = said.format(value)
    full = "I will remember that."
    return draw.solved("introduction", user, thought, full, "noted", f"{kind} {value}")


def recalled(draw: Draw, earlier: list[Problem]) -> Problem:
    """A question that only the history answers. Elsewhere if the history has nothing to ask."""
    makers = []
    last = earlier[-1]
    for problem in earlier:
        if problem.skill == "introduction":
            makers.append(lambda p=problem: _introduced(draw, p))
    if last.follow.lstrip("-").isdigit() and last.skill not in ("call", "count"):
        makers += [lambda: _go_on(draw, int(last.follow))] * 2
    if last.skill == "call" and last.follow in ("get_weather", "get_time") and draw.tools:
        makers += [lambda: _elsewhere(draw, last.follow)] * 3
    makers += [lambda: _again(draw, earlier)]
    return draw.one(makers)()


def _introduced(draw: Draw, problem: Problem) -> Problem:
    kind, _, value = problem.follow.partition(" ")
    _, _, question, answer = INTRODUCTIONS[kind]
    thought = draw.by_effort("", f"You said {value}.", f"It was said before: {problem.user}")
    return draw.solved("recall", question, thought, answer.format(value), value)


def _go_on(draw: Draw, a: int) -> Problem:
    b = draw.between(1, 99)
    if a < 0 or a > 9999:
        raise Elsewhere
    if draw.chance(0.6) or b > a:
        thought, c = plus(draw, a, b)
        user = draw.one([f"And plus {b}?", f"Add {b} to that.", f"Now add {b}."])
        return draw.solved("recall", user, thought, f"{a} + {b} = {c}", str(c), str(c))
    thought, c = minus(draw, a, b)
    user = draw.one([f"And minus {b}?", f"Subtract {b} from that.", f"Now subtract {b}."])
    return draw.solved("recall", user, thought, f"{a} - {b} = {c}", str(c), str(c))


def _elsewhere(draw: Draw, name: str) -> Problem:
    _, arguments, result, full, bare = WORDINGS[name](draw)
    user = draw.one(["And in {}?", "And {}?", "What about {}?"]).format(arguments["city"])
    moves = [plan(draw, name), Call(name, arguments), Result(name, result)]
    moves += [Think("Done.")] if draw.effort != "low" else []
    return Problem("recall", user, [*moves, draw.answer(full, bare)], bare, name)


def _again(draw: Draw, earlier: list[Problem]) -> Problem:
    if draw.chance(0.5):
        user = draw.one(["Say that again.", "Repeat your last answer."])
        said = earlier[-1].answer
        thought = draw.by_effort("", "My last answer again.", "My last answer again.")
    else:
        user = draw.one(["What did I ask first?", "What was my first question?"])
        said = earlier[0].user
        thought = draw.by_effort("", "The first question.", "The first question again.")
    problem = draw.solved("recall", user, thought, said, said)
    problem.moves[-1] = type(problem.moves[-1])(said)
    return problem
