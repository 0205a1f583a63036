"""Formats: a random model writes documents of any schema, texts of any grammar, or is cut off."""

import gc
import itertools
import json
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import gptoss_native as gn
import numpy as np
import pytest
from gptoss_native.harmony import BROWSER, ResponseFormat, ToolDescription
from gptoss_native.structured import Envelope, choice, json_schema, lark, regex
from jsonschema import Draft202012Validator, FormatChecker
from schemas import schema
from turns import (
    CLOCK,
    PROMPT,
    TEXT,
    WEATHER,
    ids_of,
    random_model,
    read,
    small_tokenizer,
    stream_of,
)

TOKENIZER = small_tokenizer()
ANSWER = TOKENIZER.encode("<|channel|>final<|message|>", allow_special=True)
LIKELY = {"likely": ['"', "}", "]"], "bias": 2.0}
PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHECKER = FormatChecker()
_TIME = r"\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"


def check_format(name, pattern):
    CHECKER.checks(name)(
        lambda text: not isinstance(text, str) or bool(re.fullmatch(pattern, text))
    )


check_format("time", _TIME)
check_format("date-time", rf"\d{{4}}-\d\d-\d\d[Tt ]{_TIME}")


@pytest.fixture(scope="module")
def model(config):
    with random_model(config, TOKENIZER, seed=1) as made:
        yield made


def answer(model, envelope, seed=None, count=600, **options):
    """Return what `final` has, None if the length ended it."""
    turn = envelope.turn(ANSWER)
    prompt = PROMPT + ANSWER
    stream = stream_of(model.session(), TOKENIZER, turn, seed, count, prompt=prompt, **options)
    ids = ids_of(stream)
    if stream.stats.finish_reason == "length":
        assert not turn.finished
        return None
    assert turn.finished
    return TOKENIZER.decode(ids[:-1], errors="strict")


def of(form):
    return Envelope(TOKENIZER, response_format=form)


def check_document(text, wanted):
    Draft202012Validator(wanted, format_checker=CHECKER).validate(json.loads(text))


# Schemas


@pytest.mark.parametrize("block", range(8))
def test_documents_are_valid_whatever_the_schema(model, block):
    cut = 0
    for number in range(25 * block, 25 * block + 25):
        wanted = schema(number)
        text = answer(model, of(wanted), None if number % 4 == 0 else number, **LIKELY)
        if text is None:
            cut += 1
        else:
            check_document(text, wanted)
    assert cut <= 4


TREE = {
    "type": "object",
    "properties": {"leaf": TEXT, "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    "required": ["leaf"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "object"},
        {"type": "array", "maxItems": 3},
        {},
        TREE,
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
        {"oneOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
        {"type": "object", "patternProperties": {"^a": {"type": "null"}}, "maxProperties": 2},
        {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1},
        {"type": "object", "properties": {"a": TEXT}, "required": ["b"]},
        {"type": "string", "description": "annotations", "examples": [3], "default": 4},
        {"type": ["integer", "string"], "maxLength": 4, "minimum": 5},
    ],
    ids=str,
)
def test_documents_follow_what_is_written_otherwise(model, wanted):
    texts = [answer(model, of(wanted), seed, 300, **LIKELY) for seed in (None, *range(5))]
    whole = [text for text in texts if text is not None]
    assert len(whole) >= 2
    for text in whole:
        check_document(text, wanted)


def test_white_space_between_parts_is_a_space_or_an_indented_line(model):
    wanted = {"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 3}
    for seed in range(8):
        text = answer(model, of(wanted), seed, likely=[" ", "\n"], bias=12.0)
        assert text is None or re.fullmatch(r"\S(( |\n {0,64})?\S)*", text)
    for text in ("[1,1,1]", "[1, 1, 1]", "[\n  1,\n  1,\n  1\n]"):
        end = [TOKENIZER.special["<|return|>"]]
        assert of(wanted).turn([*ANSWER, *TOKENIZER.encode(text), *end]).finished


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ('{"a": 1, "b/c": "x"}', True),
        ('{"a": 1, "\\n": "\\"\\\\"}', True),
        ('{"\\u0061": "x"}', False),
        ('{"b\\/c": "x"}', False),
        ('{"a": "x"}', False),
    ],
)
def test_a_property_is_not_written_as_another_by_its_spelling(text, may):
    wanted = {"properties": {"a": {"type": "integer"}, "b/c": {"const": "x"}}, "type": "object"}
    envelope = of(wanted | {"additionalProperties": {"type": "string"}})
    ids = [*ANSWER, *TOKENIZER.encode(text)]
    if may:
        envelope.turn(ids)
    else:
        with pytest.raises(gn.InvalidArgument, match="grammar forbids"):
            envelope.turn(ids)


def test_a_json_answer_may_say_so_in_its_header():
    text = "<|channel|>final <|constrain|>json<|message|>"
    ids = TOKENIZER.encode(text, allow_special=True)
    assert of(PERSON).turn(ids).message.channel == "final"
    with pytest.raises(gn.InvalidArgument, match="header"):
        of(regex("a")).turn(ids)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"not": {}}, r'"not"'),
        ({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}, r'"if"'),
        ({"type": "array", "uniqueItems": True}, r'"uniqueItems"'),
        ({"type": "array", "contains": {}}, r'"contains"'),
        ({"type": "object", "propertyNames": {}}, r'"propertyNames"'),
        ({"type": "object", "dependentRequired": {}}, r'"dependentRequired"'),
        ({"unevaluatedProperties": False}, r'"unevaluatedProperties"'),
        ({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}, r'"not"'),
        ({"not": {}, "x-guidance": {"lenient": True}}, r'"not"'),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"$ref": "http://example.com/schema"}, "http://example.com/schema"),
        ({"$ref": "#/$defs/lacking"}, "/lacking"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-ahead"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum"),
        ({"type": "text"}, "text"),
        ({"enum": []}, "anyOf is empty"),
        ({"items": {"additionalProperties": {}, "minProperties": 3}}, "minProperties"),
        ({"anyOf": [{"const": {"a": ["b\x01"]}}]}, "const has .*control characters"),
        ({"properties": {"a\x7f": {}}}, "properties has .*control characters"),
        *(
            ({"items": {"type": "string", "pattern": f"^a({escape}|b)$"}}, "pattern has .*control")
            for escape in (
                *(r"\x01", r"\u001f", r"\x{1}", r"\u{7F}", r"\U00000000", r"\a", r"\v"),
                *("[\\x01]", r"[\x0e-\x1f]", r"\\\x02"),
            )
        ),
        ({"patternProperties": {r"^\x03": {}}}, r"patternProperties has .*\\x03"),
        ({"properties": 3}, "properties"),
    ],
    ids=str,
)
def test_schemas_that_cannot_be_followed_are_refused_by_name(wanted, says):
    with pytest.raises(gn.InvalidArgument, match=f"(?s)response_format: .*{says}") as error:
        of(wanted)
    assert "backtrace" not in str(error.value)
    tool = ToolDescription("paint", "Paints.", wanted)
    with pytest.raises(gn.InvalidArgument, match=f"(?s)parameters of functions.paint: .*{says}"):
        Envelope(TOKENIZER, tools=[tool], strict=True)
    Envelope(TOKENIZER, tools=[tool], strict=False)


@pytest.mark.parametrize(
    "pattern",
    [r"[^\x00-\x1f\x7f]+", r"[\x00-z]{2}", r"\x41\u{1F98A}", r"\\x01", r"[]\x01]", r"\t\x0a"],
)
def test_patterns_that_can_do_without_control_characters_are_followed(pattern):
    of({"type": "string", "pattern": f"^({pattern})$"})


# Other formats


@pytest.mark.parametrize(
    "pattern", [r"[a-f]{3,9}", r"(ja|nein|vielleicht)", r"\d{4}-\d\d", "ä+b?", "", r"[^a]{0,5}"]
)
def test_answers_match_a_regular_expression(model, pattern):
    for seed in (None, *range(6)):
        text = answer(model, of(regex(pattern)), seed)
        assert text is None or re.fullmatch(pattern, text)


SUMS = r"""
start: term ("+" term)* "=" NUMBER
term: NUMBER | "(" term "*" term ")"
NUMBER: /[0-9]{1,3}/
"""


def test_answers_follow_a_lark_grammar(model):
    whole = 0
    for seed in (None, *range(12)):
        text = answer(model, of(lark(SUMS)), seed, likely=["=", ")"], bias=2.0)
        if text is None:
            continue
        whole += 1
        left, right = text.split("=")
        assert re.fullmatch(r"[0-9]{1,3}", right)
        while "(" in left:
            left, count = re.subn(r"\([0-9]{1,3}\*[0-9]{1,3}\)", "1", left)
            assert count
        assert re.fullmatch(r"[0-9]{1,3}(\+[0-9]{1,3})*", left)
    assert whole > 6


CHOICES = ["yes", "no", "yes and no", 'he said "\\n"\n', "größer 🙂", "<|return|>", ""]


def test_answers_are_one_of_the_choices(model):
    texts = {answer(model, of(choice(CHOICES)), seed, bias=1.0) for seed in range(60)}
    assert texts <= set(CHOICES)
    assert len(texts) > 3
    for text in CHOICES:
        assert answer(model, of(choice([text])), 1) == text


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (regex, "(", "unclosed group"),
        (regex, "a(?!b)", "look-around"),
        (regex, 3, "3"),
        (regex, "\ud800", "surrogate"),
        (lark, "start: other", "other"),
        (lark, "start: (((", "Expected token"),
        (lark, 'start: "a" <|end|>', "<|end|>"),
        (lark, "", "Empty grammar"),
        (choice, [], "[]"),
        (choice, "abc", "abc"),
        (choice, [1], "1"),
        (json_schema, [], "[]"),
        (json_schema, {"a": {1, 2}}, "a"),
    ],
)
def test_formats_that_are_none_are_refused_by_name(make, given, says):
    with pytest.raises(gn.InvalidArgument, match=re.escape(says)) as error:
        of(make(given))
    assert "backtrace" not in str(error.value)


def test_a_grammar_of_control_tokens_allows_none(model):
    envelope = of(lark("start: <[1020]>"))
    stream = model.session().generate(PROMPT, constraint=envelope.turn(ANSWER))
    with pytest.raises(gn.Error, match="allow"):
        next(stream)


# Where they hold


def test_reasoning_and_preambles_are_free_and_calls_follow_their_schemas(model):
    envelope = Envelope(
        TOKENIZER, tools=[WEATHER, CLOCK, BROWSER], response_format=PERSON, strict=True
    )
    schemas = {"functions.get_weather": WEATHER.parameters}
    schemas |= {f"browser.{tool.name}": tool.parameters for tool in BROWSER.tools}
    seen = set()
    for seed in (None, *range(100)):
        turn = envelope.turn()
        likely = ["analysis", "final", "=functions", ".get", ".c", "f", '"', "}"]
        stream = stream_of(model.session(), TOKENIZER, turn, seed, likely=likely)
        _, messages = read(TOKENIZER, turn, stream)
        if stream.stats.finish_reason == "length":
            continue
        *_, last = messages
        seen.add(last.recipient)
        if last.recipient == "functions.clock":
            assert json.loads(last.content) == {}
        else:
            check_document(last.content, schemas.get(last.recipient, PERSON))
    assert {None, "functions.get_weather", "functions.clock"} <= seen


def test_strict_names_the_tools_whose_arguments_are_checked():
    envelope = Envelope(TOKENIZER, tools=[WEATHER, CLOCK], strict=["clock"])
    begun = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>any"
    free = TOKENIZER.encode(begun.format("get_weather"), allow_special=True)
    envelope.turn(free)
    with pytest.raises(gn.InvalidArgument, match="grammar forbids"):
        envelope.turn(TOKENIZER.encode(begun.format("clock"), allow_special=True))


def test_a_response_format_is_what_its_schema_is(model):
    named = answer(model, of(ResponseFormat("person", PERSON)), 3)
    assert named == answer(model, of(PERSON), 3) == answer(model, of(json_schema(PERSON)), 3)


def test_the_end_comes_only_where_the_grammar_accepts():
    end = TOKENIZER.special["<|return|>"]
    turn = of(regex("12?")).turn(ANSWER)  # digits are tokens of their own
    steps = []
    for token_id in [*TOKENIZER.encode("1"), *TOKENIZER.encode("2"), end]:
        out = np.zeros(-(-TOKENIZER.vocab_size // 32), np.int32)
        turn.mask(out)
        bits = np.flatnonzero(np.unpackbits(out.view(np.uint8), bitorder="little"))
        steps.append({TOKENIZER.decode([bit]) for bit in bits})
        turn.accept(token_id)
    assert steps == [{"1"}, {"2", "<|return|>"}, {"<|return|>"}]
    with pytest.raises(gn.InvalidArgument):
        of(regex("12?")).turn([*ANSWER, end])


def test_forced_tokens_go_on_into_a_grammar():
    turn = of(choice(["certainly", "certain"])).turn(ANSWER)
    forced = turn.forced()
    assert TOKENIZER.decode(forced) in "certain"
    assert of(choice(["x"])).turn().forced()[-1:] != [TOKENIZER.special["<|return|>"]]
    assert len(of(regex("(xq){999}")).turn(ANSWER).forced()) == 256


def test_a_grammar_that_is_too_much_is_told(model):
    stream = model.session().generate(PROMPT, constraint=of(lark('start: "a" start')).turn(ANSWER))
    with pytest.raises(gn.Error, match=r"cannot go on: .*Too many items"):
        ids_of(stream)


# Many at a time, streams that are left


def kinds():
    forms = [PERSON, regex("[a-z]{3,20}"), choice(CHOICES), lark(SUMS), TREE, schema(2), schema(5)]
    return [of(form) for form in forms]


def test_grammars_of_sixteen_threads_are_those_of_each_alone(model):
    envelopes = kinds()
    forms = len(envelopes)
    alone = [answer(model, envelopes[n % forms], n, 120, **LIKELY) for n in range(32)]
    with ThreadPoolExecutor(16) as pool:
        together = pool.map(
            lambda n: answer(model, envelopes[n % forms], n, 120, **LIKELY), range(32)
        )
        assert list(together) == alone


def test_envelopes_made_by_many_threads_share_one_vocabulary():
    tokenizer, made, begin = small_tokenizer(), [], threading.Barrier(8)

    def make():
        begin.wait()
        made.append(Envelope(tokenizer, response_format=PERSON))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(envelope._tokens) for envelope in made}) == 1


def test_a_tokenizer_and_what_is_known_of_it_are_given_back():
    tokenizer = small_tokenizer()
    gone = weakref.ref(tokenizer)
    Envelope(tokenizer, response_format=PERSON).turn(ANSWER).forced()
    del tokenizer
    gc.collect()
    assert gone() is None


def test_a_document_that_was_left_is_gone_on_with(model):
    prompt = PROMPT + ANSWER
    for envelope in kinds():

        def begin(session, envelope=envelope):
            turn = envelope.turn(ANSWER)
            return stream_of(session, TOKENIZER, turn, 7, 80, prompt=prompt, **LIKELY)

        whole = ids_of(begin(model.session()))
        for cut in {1, len(whole) // 2, len(whole) - 1} - {0}:
            session = model.session()
            stream = begin(session)
            said = [token.id for token in itertools.islice(stream, cut)]
            stream.cancel()
            for left in (session, session.fork()):
                assert said + ids_of(left.resume(constraint=envelope.turn(ANSWER))) == whole


def test_a_cancelled_document_leaves_others_alone(model):
    envelope = of(PERSON)
    want = answer(model, envelope, 5, **LIKELY)
    prompt, session = PROMPT + ANSWER, model.session()
    stream = stream_of(session, TOKENIZER, envelope.turn(ANSWER), 1, prompt=prompt, **LIKELY)
    other = model.session()
    mine = stream_of(other, TOKENIZER, envelope.turn(ANSWER), 5, prompt=prompt, **LIKELY)
    said = [next(mine).id, next(mine).id]
    next(stream)
    stream.cancel()
    said += ids_of(mine)
    assert TOKENIZER.decode(said[:-1]) == want
