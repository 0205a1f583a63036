"""The bundled model's curriculum: answers are right, splits apart, wrong steps not learnt."""

import json
import random
import re
import sys
from pathlib import Path

import gptoss_native as gn
import jsonschema
import pytest
from gptoss_native.harmony import parse
from gptoss_native.model import demo_path

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from train_demo import columns
from train_demo.conversation import (
    CALLS,
    SKILLS,
    Writer,
    draw_prefix,
    draw_problem,
    draw_row,
    draw_turns,
)
from train_demo.problem import (
    SPLITS,
    WRONG,
    Answer,
    Call,
    Draw,
    Mix,
    Result,
    Think,
    draw_until,
    split_of,
)
from train_demo.skills_documents import document, schema

TOOLS = ("get_weather", "get_time", "get_location", "get_price", "send_message", "calculator")
MORE = ("convert_currency", "get_phone")


@pytest.fixture(scope="module")
def writer():
    return Writer(gn.Tokenizer.from_checkpoint(demo_path()))


def draws(skill, split="train", effort="high", count=200, tools=(*TOOLS, *MORE)):
    make = (SKILLS | CALLS)[skill][0]
    for n in range(count):
        draw = Draw(random.Random(f"{skill} {n}"), split, effort, tools)
        yield draw_until(lambda draw=draw: make(draw))


@pytest.mark.parametrize("brackets", [True, False])
def test_columns_give_the_sum_and_the_difference(brackets):
    rng = random.Random(0)
    for _ in range(500):
        a, b = rng.randrange(10 ** rng.randint(1, 5)), rng.randrange(10 ** rng.randint(1, 5))
        sums, differences = columns.add(a, b, brackets), columns.subtract(max(a, b), min(a, b))
        for text, result in ((sums, a + b), (differences, abs(a - b))):
            columns_of = re.findall(r"([\d+*-]+)=(\d+)", text)
            for left, right in columns_of:
                assert eval(left) == int(right)  # every step by itself
            digits = [right[-1] for _, right in columns_of[:-1]] + [columns_of[-1][1]]
            assert int("".join(reversed(digits))) == result
        text, result = columns.times(a, b % 10)
        assert result == a * (b % 10)


@pytest.mark.parametrize("skill", ["add3", "add4", "subtract3", "subtract4", "product"])
@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_answers_are_what_python_computes(skill, effort):
    for problem in draws(skill, effort=effort):
        expression, result = problem.answer.split(" = ")
        assert eval(expression) == int(result) == int(problem.bare)


def test_sorted_and_counted_answers_are_right():
    for problem in draws("sort"):
        numbers = [int(n) for n in re.findall(r"\d+", problem.user)]
        down = "large to small" in problem.user or "falling" in problem.user
        wanted = sorted(numbers, reverse=down)
        assert problem.answer == ", ".join(map(str, wanted))
    for problem in draws("count"):
        if found := re.fullmatch(r"(\d+) (\w) in (\w+)", problem.answer):
            assert int(found[1]) == found[3].count(found[2])


def test_repeated_words_are_the_askers_and_spelt_words_their_letters():
    for problem in draws("repeat"):
        assert problem.user.endswith(problem.answer)
    for problem in draws("spell"):
        assert problem.answer.replace("-", "") in problem.user


def test_a_mix_says_what_is_asked_for():
    rng = random.Random(0)
    mix = Mix((("repeat", 0.0), ("add4", 1e9)))
    skills = set()
    for _ in range(60):
        prefix = draw_prefix(rng, "train", declares=False, mix=mix)
        skills.add(draw_problem(prefix, rng, "train").skill)
    assert skills == {"add4"}


def test_stories_compute_what_they_tell():
    for problem in draws("story", effort="medium"):
        numbers = [int(n) for n in re.findall(r"\d+", problem.user)]
        plus, minus, times = (
            sum(numbers[:2]),
            numbers[0] - numbers[1] if len(numbers) > 1 else 0,
            numbers[0] * numbers[-1],
        )
        third = numbers[2] if len(numbers) > 2 else 0
        assert int(problem.bare) in {plus, minus, times, plus - third, minus + third}


def test_splits_share_no_problem():
    """Questions of a split are no other's, and no training text holds a held-out sum."""
    seen = {split: set() for split in SPLITS}
    for split in SPLITS:
        for skill in ("add3", "add4", "subtract3", "sort", "date", "weekday", "reading", "story"):
            seen[split] |= {problem.user for problem in draws(skill, split, count=100)}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    for skill in ("add3", "add4", "subtract3", "subtract4", "story"):
        for problem in draws(skill, count=300):
            for move in problem.moves:
                text = move.text.replace(WRONG, "") if isinstance(move, Think) else ""
                for a, sign, b in re.findall(r"(\d\d+)([+-])(\d+):", text):
                    a, b = int(a), int(b)
                    a = a if sign == "+" else a - b
                    if max(a, b) > 9 and a >= 0:
                        assert split_of(columns.family(a, b)) == "train", text


@pytest.mark.parametrize("skill", ["add3", "subtract3"])
def test_checks_fail_where_a_step_was_wrong_and_the_answer_is_right(skill):
    wrong = 0
    for problem in draws(skill, count=400):
        text = next(m.text for m in problem.moves if isinstance(m, Think))
        assert (WRONG in text) == ("wrong. Again:" in text)
        wrong += WRONG in text
        checks = re.findall(r"(\d+)\? [\d+-]+=(\d+) (right|wrong)", text)
        assert checks
        for written, found, said in checks[:-1]:  # the last column keeps both its digits
            assert (written[-1] == found[-1]) == (said == "right")
    assert 80 < wrong < 200


def test_the_last_column_tells_which_number_is_less():
    assert columns.less(17, 25, True) == "17-25: 7-5=2 [2], 1-2 less."
    assert columns.less(5, 7, True) == "5-7: 5-7 less."
    assert columns.less(36, 92, False) == "36-92: 6-2=4, 3-9 less."
    wanted = "0093-1020: 3-0=3 [3], 9-2=7 [73], 0-0=0 [073], 0-1 less."
    assert columns.less(93, 1020, True) == wanted


def test_wrong_steps_are_not_learnt(writer):
    tokenizer, found = writer.tokenizer, 0
    for problem in draws("add3", count=200):
        ids, learnt = writer.answer(problem)
        text = next(m.text for m in problem.moves if isinstance(m, Think))
        skipped = [i for i, on in zip(ids[3:], learnt[3:], strict=True) if not on]
        wanted = [text[n + 1] for n, c in enumerate(text) if c == WRONG]
        body = [tokenizer.decode([i]) for i in skipped if i not in tokenizer.special.values()]
        assert [d for d in body if d.isdigit()] == wanted
        found += len(wanted)
    assert found


def test_calls_name_declared_functions_and_results_follow():
    for skill in CALLS:
        for problem in draws(skill, effort="medium"):
            calls = [m for m in problem.moves if isinstance(m, Call)]
            results = [m for m in problem.moves if isinstance(m, Result)]
            assert [c.name for c in calls] == [r.name for r in results]
            assert {c.name for c in calls} <= {*TOOLS, *MORE}
            assert isinstance(problem.moves[-1], Answer)
            assert len(calls) == {"call": 1, "chain2": 2, "chain3": 3}[skill]


def test_documents_follow_their_schemas():
    for n in range(200):
        draw = Draw(random.Random(n))
        keys, wanted = schema(draw)
        problem = draw_until(lambda draw=draw, keys=keys: document(draw, keys))
        jsonschema.validate(json.loads(problem.answer), wanted)


def test_rows_are_whole_conversations(writer):
    """What the assistant writes parses without anomaly; prefixes are never learnt."""
    for n in range(60):
        row = draw_row(writer, random.Random(n), "train", 512)
        assert len(row.ids) == len(row.positions) == len(row.segments) == len(row.learnt) <= 512
        assert not any(on for on, s in zip(row.learnt, row.segments, strict=True) if s == 0)
        for segment in range(1, row.segments[-1] + 1):
            ids = [i for i, s in zip(row.ids, row.segments, strict=True) if s == segment]
            parsed = parse(writer.tokenizer, ids, None)
            assert parsed.anomalies == []
            assert parsed.messages[-1].channel == "final"
            places = [p for p, s in zip(row.positions, row.segments, strict=True) if s == segment]
            start = row.segments.count(0)
            assert places == list(range(start, start + len(ids)))


def test_the_same_seed_draws_the_same(writer):
    one, two = (draw_row(writer, random.Random("7"), "train", 384) for _ in range(2))
    assert one == two
    rng = random.Random(3)
    prefix = draw_prefix(rng, "test", "high")
    assert prefix.effort == "high"
    assert draw_turns(prefix, rng, "test")
