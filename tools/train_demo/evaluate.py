"""Held-out problems, answered by the runtime itself from the exported checkpoint.

Right is a conversation whose calls (names and arguments, in order) and whose answer are the
expected ones, character for character. How the thoughts read does not count.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, field

import gptoss_native as gn
from gptoss_native.harmony import Message, Renderer, parse

from . import skills_history as history
from .conversation import CALLS, SKILLS, Prefix, Writer, draw_prefix, draw_problem, result_text
from .problem import Call, Elsewhere, NoneFound, Problem, Result, Think, draw_until

EFFORTS = ("low", "medium", "high")
GROUPS = [*SKILLS, *CALLS, "recall", "document"]
_ROUNDS, _MOST_TOKENS = 6, 400


@dataclass(frozen=True)
class Case:
    """One held-out conversation; `begun` is text that the analysis is made to begin with."""

    prefix: Prefix
    turns: list[Problem]
    begun: str = ""


@dataclass
class Tally:
    """Of a skill and effort: how many were right, how many there were, tokens generated, calls."""

    right: int = 0
    count: int = 0
    tokens: int = 0
    called: int = 0
    wrong: list[str] = field(default_factory=list)


def draw_case(skill: str, effort: str, rng: random.Random, split: str = "test") -> Case:
    """Return a case of a skill, in whichever prefix allows it, one in four after other turns."""
    while True:
        prefix = draw_prefix(rng, split, effort)
        if prefix.effort != effort or (prefix.keys is not None) != (skill == "document"):
            continue
        if skill in CALLS and not prefix.tools:
            continue
        try:
            earlier = []
            if skill == "recall" or rng.random() < 0.25:
                earlier = [draw_problem(prefix, rng, split) for _ in range(rng.choice([1, 1, 2]))]
            draw = prefix.draw(rng, split)
            if skill == "recall":
                if rng.random() < 0.4:
                    earlier[0] = history.introduction(draw)
                last = draw_until(lambda: history.recalled(draw, earlier), 50)  # noqa: B023
            elif skill == "document":
                last = draw_problem(prefix, rng, split)
            else:
                table = SKILLS | CALLS
                last = draw_until(lambda: table[skill][0](draw), 300)  # noqa: B023
        except (Elsewhere, NoneFound):
            continue
        return Case(prefix, [*earlier, last])


def slipped(case: Case) -> str | None:
    """Return the beginning of an analysis whose first sum is wrong, None if it has no columns."""
    think = next((m.text for m in case.turns[-1].moves if isinstance(m, Think)), "")
    head, equals, rest = think.partition("=")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    if not equals or not digits or ": " not in head:
        return None
    right = int(rest[:digits])
    wrong = right + 1 if right % 10 < 9 else right - 1
    # Not its closing bracket: with the comma after it, that is one token.
    return f"{head}={wrong} [{wrong % 10}"


def _results(problem: Problem) -> dict[str, str]:
    """Return what each expected call answers, by name and arguments."""
    found, calls = {}, []
    for move in problem.moves:
        if isinstance(move, Call):
            calls.append(f"functions.{move.name} {json.dumps(move.arguments, sort_keys=True)}")
        elif isinstance(move, Result):
            found[calls[len(found)]] = result_text(move.value)
    return found


def _call_key(message: Message) -> str:
    try:
        return f"{message.recipient} {json.dumps(json.loads(message.content), sort_keys=True)}"
    except ValueError:
        return f"{message.recipient} {message.content}"


class Runner:
    """Runs cases on a model, some at a time."""

    def __init__(self, model: gn.Model, together: int = 24) -> None:
        self._model, self._together = model, together
        self._writer = Writer(model.tokenizer)
        self._renderer = Renderer(model.tokenizer)
        self._opening = model.tokenizer.encode("<|start|>assistant", allow_special=True)

    async def answer(self, case: Case) -> tuple[list[str], str, int]:
        """Return the calls made, the answer, and how many tokens were generated."""
        tokenizer, problem = self._model.tokenizer, case.turns[-1]
        ids = [*self._writer.prefix(case.prefix), *self._writer.question(case.prefix, case.turns)]
        ids += self._opening
        begun = []
        if case.begun:
            header = "<|channel|>analysis<|message|>"
            begun = tokenizer.encode(header, allow_special=True)
            begun += tokenizer.encode_ordinary(case.begun)
        results, calls, made, total = _results(problem), [], list(begun), 0
        session = self._model.session(max_context=2048)
        prompt = ids + begun
        for _ in range(_ROUNDS):
            greedy = gn.Sampling(temperature=0.0)
            stream = session.generate(prompt, max_new_tokens=_MOST_TOKENS, sampling=greedy)
            new = [token.id async for token in stream]
            total += len(new)
            made += new
            messages = parse(tokenizer, made, "assistant").messages
            made = []
            last = messages[-1] if messages else None
            if last is None or last.recipient is None:
                final = next((m.content for m in messages if m.channel == "final"), "")
                session.close()
                return calls, final, total
            key = _call_key(last)
            calls.append(key)
            told = results.get(key, '{"error": "unknown"}')
            message = Message.tool_result(last.recipient, told)
            prompt = [*self._renderer.render([message]), *self._opening]
        session.close()
        return calls, "", total

    async def _run(self, cases: list[Case]) -> list[tuple[list[str], str, int]]:
        gate = asyncio.Semaphore(self._together)

        async def one(case: Case) -> tuple[list[str], str, int]:
            async with gate:
                return await self.answer(case)

        return await asyncio.gather(*(one(case) for case in cases))

    def run(self, cases: list[Case]) -> dict[tuple[str, str], Tally]:
        """Return the tallies by skill and effort."""
        tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
        for case, (calls, answer, tokens) in zip(cases, asyncio.run(self._run(cases)), strict=True):
            problem = case.turns[-1]
            tally = tallies[problem.skill, case.prefix.effort]
            right = calls == list(_results(problem)) and answer == problem.answer
            tally.right += right
            tally.count += 1
            tally.tokens += tokens
            tally.called += bool(calls)
            if not right:
                tally.wrong.append(
                    f"{problem.user!r}: {calls} {answer!r}, wanted {problem.answer!r}"
                )
        return dict(tallies)


def held_out(count: int, targets: Container[str] = (), seed: int = 0) -> list[Case]:
    """Return `count` cases of each skill and effort, of the test split; four times as many of a
    skill with a target, at medium effort, since 100 tell a share to 3 in a hundred only."""
    return [
        draw_case(skill, effort, random.Random(f"{seed} {skill} {effort} {n}"))
        for skill in GROUPS
        for effort in EFFORTS
        for n in range(4 * count if skill in targets and effort == "medium" else count)
    ]


def with_slips(count: int, seed: int = 0) -> list[Case]:
    """Return sums at high effort whose first column is wrong: the check has to find it."""
    cases = []
    for n in range(count):
        case = draw_case("add3", "high", random.Random(f"{seed} slip {n}"))
        begun = slipped(case)
        if begun is not None:
            cases.append(Case(case.prefix, case.turns, begun))
    return cases
