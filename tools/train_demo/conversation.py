"""Conversations as token ids: a prefix, and what follows it, rendered as the runtime renders it.

One row of a batch is a prefix (system and developer message) and several conversations that share
it. They do not see each other, each goes on from the prefix's positions, and only what the
assistant writes in its last turn is learnt.
"""

import datetime
import json
import random
from dataclasses import dataclass

from gptoss_native import Tokenizer
from gptoss_native.harmony import (
    DeveloperContent,
    Message,
    Renderer,
    ResponseFormat,
    SystemContent,
)

from . import skills_calendar as calendar
from . import skills_calls as calls
from . import skills_documents as documents
from . import skills_history as history
from . import skills_letters as letters
from . import skills_numbers as numbers
from . import skills_stories as stories
from . import skills_talk as talk
from .forms import PLAIN, Form, draw_form
from .problem import (
    USUAL,
    WRONG,
    Answer,
    Call,
    Draw,
    Mix,
    Move,
    Problem,
    Result,
    Skill,
    Think,
    draw_until,
)

# skill: how often, where the prefix does not decide
SKILLS: dict[str, tuple[Skill, float]] = {
    "add3": (numbers.add3, 8),
    "add4": (numbers.add4, 10),
    "subtract3": (numbers.subtract3, 12),
    "subtract4": (numbers.subtract4, 12),
    "product": (numbers.product, 3),
    "compare": (numbers.compare, 4),
    "sort": (numbers.sort, 6),
    "units": (numbers.units, 4),
    "repeat": (letters.repeat, 8),
    "spell": (letters.spell, 4),
    "count": (letters.count, 5),
    "story": (stories.story, 11),
    "reading": (stories.reading, 24),
    "weekday": (calendar.weekday, 3),
    "month": (calendar.month, 1),
    "date": (calendar.date, 5),
    "greeting": (talk.greeting, 1.5),
    "fact": (talk.fact, 2.5),
    "unknown": (talk.unknown, 4),
    "introduction": (history.introduction, 1),
    "no_tool": (talk.no_tool, 3),
}
CALLS: dict[str, tuple[Skill, float]] = {
    "call": (calls.call, 10),
    "chain2": (calls.chain2, 14),
    "chain3": (calls.chain3, 16),
}
# Beside calls, where functions are declared: what none of them can do.
_OF_TOOLS = CALLS | {"no_tool": (talk.no_tool, 6)}


@dataclass(frozen=True)
class Prefix:
    """What stands before the first question, and what it decides."""

    messages: tuple[Message, ...]
    effort: str
    form: Form
    tools: tuple[str, ...]
    keys: dict[str, str] | None  # of the JSON answer, None for text
    mix: Mix = USUAL

    def draw(self, rng: random.Random, split: str) -> Draw:
        return Draw(rng, split, self.effort, self.tools, self.form, self.mix)


# Functions that belong together, so that chains are asked for often enough.
_SETS = [
    ("get_location", "get_weather", "send_message"),
    ("get_location", "get_time", "send_message"),
    ("get_price", "convert_currency", "send_message"),
    ("get_location", "get_weather"),
    ("get_weather", "send_message"),
    ("calculator", "get_weather"),
]


def _tools(rng: random.Random, split: str) -> list[str]:
    """Return which functions are declared, in the order in which they are."""
    everything = list(calls.FUNCTIONS)
    if rng.random() < 0.5:
        known = list(rng.choice(_SETS))
        others = [name for name in everything if name not in known]
        known += rng.sample(others, rng.choice([0, 0, 1, 1, 2, 3, 4]))
    else:
        known = rng.sample(everything, rng.choice([1, 1, 2, 3, 4, 5, 6, 7]))
        if rng.random() < 0.5:
            draw = Draw(rng, split)
            made = draw_until(lambda: calls.made_up_name(draw))
            known = [*known[: rng.randint(0, 4)], made]
    rng.shuffle(known)
    return known


def _date(rng: random.Random) -> datetime.date:
    return datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randrange(1500))


def draw_prefix(
    rng: random.Random,
    split: str,
    effort: str | None = None,
    declares: bool | None = None,
    mix: Mix = USUAL,
) -> Prefix:
    """Return a prefix: with and without system message, tools, a form of answer, a schema.

    declares: whether it has tools or a schema, which make it long; None draws that too.
    """
    effort = effort or rng.choice(["low", "medium", "medium", "high"])
    kind = rng.random()
    if declares is not None:
        kind = 0.55 * kind if declares else 0.55 + 0.45 * kind
    tools = _tools(rng, split) if kind < 0.45 else []
    keys, formats = None, ()
    if 0.45 <= kind < 0.55:
        keys, schema = documents.schema(Draw(rng, split))
        formats = (ResponseFormat(rng.choice(["answer", "person", "reply", "response"]), schema),)
    form = draw_form(rng) if keys is None and rng.random() < 0.35 else PLAIN
    plain = rng.random() < 0.4
    declared = tuple(calls.described(name, plain) for name in tools)
    system = draw_system(rng, effort)
    messages = [system] if system is not None else []
    if system is None:
        effort = "medium"
    if declared or formats or form.instructions:
        content = DeveloperContent(
            instructions=form.instructions, tools=declared, response_formats=formats
        )
        messages.append(Message("developer", content))
    return Prefix(tuple(messages), effort, form, tuple(tools), keys, mix)


def draw_system(rng: random.Random, effort: str) -> Message | None:
    """Return a system message in one of the forms that callers write; None one time in twenty."""
    kind = rng.random()
    if kind < 0.05 and effort == "medium":
        return None
    channels = ("analysis", "commentary", "final") if rng.random() < 0.4 else None
    content = SystemContent(effort=effort, date=_date(rng), channels=channels)
    if kind < 0.15:
        content = SystemContent(effort=effort, channels=channels)
    return Message("system", content)


def draw_problem(
    prefix: Prefix, rng: random.Random, split: str, skill: str | None = None
) -> Problem:
    """Return a problem that the prefix allows; the skill is drawn if None."""
    draw = prefix.draw(rng, split)
    if prefix.keys is not None:
        keys = prefix.keys
        return draw_until(lambda: documents.document(draw, keys))
    known = SKILLS | CALLS

    def make() -> Problem:
        name = skill
        if name is None:
            of_calls = prefix.tools and rng.random() < 0.75
            table = _OF_TOOLS if of_calls else SKILLS
            own = dict(prefix.mix.weights)
            weights = [own.get(key, weight) for key, (_, weight) in table.items()]
            name = rng.choices(list(table), weights)[0]
        return known[name][0](draw)

    return draw_until(make)


def draw_turns(prefix: Prefix, rng: random.Random, split: str) -> list[Problem]:
    """Return a conversation: one turn mostly, else some before the one that is learnt."""
    kind = rng.random()
    if kind < 0.7 or (prefix.keys is not None and kind < 0.9):
        return [draw_problem(prefix, rng, split)]
    earlier = [draw_problem(prefix, rng, split) for _ in range(rng.choice([1, 1, 2, 3]))]
    if prefix.keys is None and rng.random() < 0.5:
        if rng.random() < 0.4:
            place = rng.randrange(len(earlier))
            earlier[place] = history.introduction(prefix.draw(rng, split))
        draw = prefix.draw(rng, split)
        return [*earlier, draw_until(lambda: history.recalled(draw, earlier))]
    return [*earlier, draw_problem(prefix, rng, split)]


def arguments_text(arguments: dict) -> str:
    return json.dumps(arguments, separators=(",", ":"))


def result_text(value: object) -> str:
    return json.dumps(value)


def message_of(move: Think | Call | Result | Answer) -> Message:
    """Return a move as the message that it is."""
    if isinstance(move, Think):
        return Message("assistant", move.text.replace(WRONG, ""), channel="analysis")
    if isinstance(move, Call):
        return Message.tool_call(f"functions.{move.name}", arguments_text(move.arguments))
    if isinstance(move, Result):
        return Message.tool_result(f"functions.{move.name}", result_text(move.value))
    return Message("assistant", move.text, channel="final")


class Writer:
    """Turns conversations into ids. The tokenizer's special tokens are harmony's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self.return_id = tokenizer.special["<|return|>"]
        self._opening = len(tokenizer.encode_ordinary("assistant")) + 1

    def prefix(self, prefix: Prefix) -> list[int]:
        return self._renderer.render(prefix.messages)

    def question(self, prefix: Prefix, turns: list[Problem]) -> list[int]:
        """Return what follows the prefix up to the last question, earlier thoughts left out."""
        ids: list[int] = []
        for problem in turns[:-1]:
            ids += self._renderer.render([Message("user", problem.user)])
            for move in problem.moves:
                if not isinstance(move, Think):
                    ids += self._renderer.render([message_of(move)])
        return ids + self._renderer.render([Message("user", turns[-1].user)])

    def answer(self, problem: Problem) -> tuple[list[int], list[bool]]:
        """Return the ids of the last turn's moves, and which of them are learnt."""
        ids: list[int] = []
        learnt: list[bool] = []
        before: Move | None = None
        for move in problem.moves:
            part = self._renderer.render([message_of(move)])
            if isinstance(move, Result):
                # The runtime writes results; that none of the assistant's follows is learnt.
                said = isinstance(before, Call) and before.more is False
                learnt += [said] * 2 + [False] * (len(part) - 2)
            else:
                opens = isinstance(before, Think) or (isinstance(before, Call) and before.more)
                learnt += [bool(opens)] * self._opening + [True] * (len(part) - self._opening)
                if isinstance(move, Think) and WRONG in move.text:
                    self._forget(part, learnt, move.text)
            ids += part
            before = move
        ids[-1] = self.return_id
        return ids, learnt

    def _forget(self, part: list[int], learnt: list[bool], text: str) -> None:
        """Clear what is wrong on purpose; digits are tokens of their own."""
        wrong, place = [], 0
        for c in text:
            if c == WRONG:
                wrong.append(place)
            else:
                place += 1
        start = len(part) - 1
        while part[start] != self.tokenizer.special["<|message|>"]:
            start -= 1
        place, base = 0, len(learnt) - len(part)
        for n in range(start + 1, len(part) - 1):
            if place in wrong:
                learnt[base + n] = False
            place += len(self.tokenizer.token_bytes(part[n]))


@dataclass
class Row:
    """One row of a batch; segment 0 is the prefix, which all see.

    skills: of segment 1, 2, ...: the skill and the effort.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]
    learnt: list[bool]
    skills: list[tuple[str, str]]


def draw_row(
    writer: Writer,
    rng: random.Random,
    split: str,
    length: int,
    declares: bool | None = None,
    mix: Mix = USUAL,
) -> Row:
    """Return a prefix and as many conversations as fit into `length` tokens."""
    while True:
        prefix = draw_prefix(rng, split, declares=declares, mix=mix)
        ids = writer.prefix(prefix)
        if len(ids) < length - 120:
            break
    row = Row(ids, list(range(len(ids))), [0] * len(ids), [False] * len(ids), [])
    start, misses, segment = len(ids), 0, 0
    while misses < 3:
        turns = draw_turns(prefix, rng, split)
        before = writer.question(prefix, turns)
        after, learnt = writer.answer(turns[-1])
        count = len(before) + len(after)
        if len(row.ids) + count > length:
            misses += 1
            continue
        segment += 1
        row.skills.append((turns[-1].skill, prefix.effort))
        row.ids += before + after
        row.positions += range(start, start + count)
        row.segments += [segment] * count
        row.learnt += [False] * len(before) + learnt
    return row if segment else draw_row(writer, rng, split, length, declares, mix)
