"""Chat.save and load: a conversation goes on from its file as if it had not been left."""

import contextlib
import dataclasses
import datetime
import json
import os

import gptoss_native as gn
import pytest
from gptoss_native.harmony import (
    BROWSER,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import answer, call, scripted, talk, thought

GREEDY = gn.Sampling(temperature=0.0)
SUM = "What is 17 + 25?"
NEXT = "What is 2 + 3?"


def get_weather(city: str) -> str:
    """Gets the weather."""
    return f"sunny in {city}"


def same(one, other):
    assert one.messages == other.messages
    assert one.opening == other.opening
    assert one.context == other.context


@pytest.mark.parametrize("seed", [None, 3])
def test_a_loaded_chat_goes_on_as_the_saved_one(demo, tmp_path, seed):
    path = tmp_path / "talk.json"
    sampling = GREEDY if seed is None else gn.Sampling(seed=seed)
    options = {"sampling": sampling, "tools": [get_weather], "max_new_tokens": 200}
    chat = talk(demo, instructions="Be brief.", reasoning_effort="low", **options)
    chat.ask(SUM)
    chat.ask("What is the weather in Paris?")
    chat.save(path)
    held = chat.session.position
    with gn.Chat.load(demo, path, **options) as loaded:
        same(loaded, chat)
        assert loaded.reasoning_effort == "low"
        assert loaded.session.tokens == chat.session.tokens
        want, got = chat.ask(NEXT), loaded.ask(NEXT)
        assert dataclasses.replace(got, usage=want.usage) == want
        # Reasoning is dropped now; ways back from it are not in the file.
        assert held - got.usage.rounds[0].cached_tokens < 128


def test_without_the_session_it_is_computed_again(demo, tmp_path):
    path = tmp_path / "talk.json"
    chat = talk(demo)
    chat.ask(SUM)
    chat.save(path, cache=False)
    assert os.listdir(tmp_path) == ["talk.json"]
    loaded = gn.Chat.load(demo, path, sampling=GREEDY)
    same(loaded, chat)
    assert loaded.session.position == 0
    want, got = chat.ask(NEXT), loaded.ask(NEXT)
    assert (got.text, got.ids) == (want.text, want.ids)
    # One that an earlier save left is not another conversation's.
    chat.save(path)
    assert sorted(os.listdir(tmp_path)) == ["talk.json", "talk.json.session"]
    chat.save(path, cache=False)
    assert os.listdir(tmp_path) == ["talk.json"]


def test_what_the_model_wrote_in_its_own_way_keeps_its_ids(demo, tmp_path):
    """A recipient before the channel is the renderer's way; after it, the model's."""
    script = thought("Hm.") + call("functions.get_weather", '{"city": "Rome"}')
    chat = scripted(demo, script, answer("Sunny."), tools=[get_weather])
    chat.ask("Weather?")
    chat.save(tmp_path / "c", cache=False)
    saved = json.loads((tmp_path / "c").read_text())["messages"]
    assert [one["role"] for one in saved] == ["user", "assistant", "assistant", "tool", "assistant"]
    assert ["ids" in one for one in saved] == [False, False, True, False, False]
    same(gn.Chat.load(demo, tmp_path / "c", tools=[get_weather]), chat)


def test_calls_are_counted_on_and_answered(demo, tmp_path):
    tool = ToolDescription("look_up", "Looks it up.", None)
    chat = scripted(demo, call("functions.look_up"), answer("It is so."), tools=[tool])
    assert chat.ask("Is it so?").tool_calls[0].id == "call_1"
    chat.save(tmp_path / "c", cache=False)
    loaded = gn.Chat.load(demo, tmp_path / "c", tools=[tool])
    assert loaded.next_call_id() == chat.next_call_id() == "call_2"


def test_any_opening_and_any_message_come_back(demo, tmp_path):
    tool = ToolDescription("f", "Does it.", {"type": "object", "properties": {"é": {}}})
    form = ResponseFormat("answer", {"type": "integer"}, "A number.")
    content = DeveloperContent(instructions="Now.", tools=(tool,), response_formats=(form,))
    said = [
        Message("developer", content),
        Message("developer", "As text <|end|> 🦊\0\u2028"),
        Message("user", "Hi", name="ann"),
        Message.tool_call("functions.f", "{}"),
        Message.tool_result("functions.f", "1"),
        Message("user", ""),
    ]
    for system in (
        SystemContent(date=datetime.date(2025, 1, 2), tools=(BROWSER,), channels=("final",)),
        SystemContent(identity=None, knowledge_cutoff=None),
    ):
        chat = scripted(demo, answer("Yes."), system=system, instructions="é")
        chat.ask(said)
        assert chat.messages[:-1] == said
        chat.save(tmp_path / "c", cache=False)
        loaded = gn.Chat.load(demo, tmp_path / "c")
        same(loaded, chat)
        loaded.save(tmp_path / "d", cache=False)
        assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


def test_what_is_given_anew_counts(demo, tmp_path):
    chat = talk(demo, max_context=2000, reasoning_effort="low", instructions="Be brief.")
    chat.ask(SUM)
    chat.save(tmp_path / "c")
    loaded = gn.Chat.load(demo, tmp_path / "c", reasoning_effort="high", instructions=None)
    assert loaded.reasoning_effort == "high"
    assert loaded.messages == chat.messages
    assert len(loaded.opening) == 1
    assert gn.Chat.load(demo, tmp_path / "c", max_context=2000).max_context == 2000
    with pytest.raises(gn.InvalidArgument, match="max_context is 3000, the saved session's 2000"):
        gn.Chat.load(demo, tmp_path / "c", max_context=3000)
    assert gn.Chat.load(demo, tmp_path / "c", max_context=3000, cache=False).max_context == 3000


def test_a_turn_that_goes_on_is_saved_with_what_is_whole(demo, tmp_path):
    chat = talk(demo)
    chat.ask(SUM)
    turn = chat.send(NEXT)
    next(turn)
    chat.save(tmp_path / "c")
    assert turn.reply.text == "2 + 3 = 5"
    loaded = gn.Chat.load(demo, tmp_path / "c", sampling=GREEDY)
    assert loaded.messages[0].content == SUM
    assert loaded.ask(NEXT).text == "2 + 3 = 5"


# Files that are none


@pytest.fixture(scope="module")
def saved(demo, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "c"
    script = thought("Hm.") + call("functions.get_weather", '{"city": "Rome"}')
    chat = scripted(demo, script, answer("Sunny."), tools=[get_weather])
    chat.ask("Weather?")
    chat.save(path, cache=False)
    return json.loads(path.read_text())


def load(demo, folder, values):
    path = folder / "c"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return gn.Chat.load(demo, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"version": 2}, "version is 2"),
        ({"version": True}, "version is True"),
        ({"reasoning_effort": "huge"}, "reasoning_effort is 'huge'"),
        ({"instructions": 3}, "instructions is 3"),
        ({"instructions": "\ud800"}, "surrogate"),
        ({"system": []}, "system is"),
        ({"system": {"date": 3, "tools": []}}, "system.date is 3"),
        ({"system": {"channels": "final", "tools": []}}, "channels is 'final'"),
        ({"system": {"channels": [3], "tools": []}}, "channels is 3"),
        ({"system": {"tools": [{"name": "a b"}]}}, r"tools.0..* is missing"),
        ({"next_call": 0}, "next_call is 0"),
        ({"next_call": 10**400}, "next_call"),
        ({"messages": {}}, "messages is"),
        ({"messages": [3]}, r"messages\[0\] is 3"),
        ({"messages": [{"role": "system", "content": ""}]}, "role is 'system'"),
        ({"messages": [{"role": "user", "content": None}]}, "content is None"),
        ({"messages": [{"role": "user", "content": {"tools": 3}}]}, "tools is 3"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, r"messages\[0\]"),
        ({"messages": [{"role": "tool", "content": ""}]}, r"messages\[0\]: name is None"),
        ({"messages": [{"role": "user", "channel": "a b"}]}, "channel is 'a b'"),
        ({"messages": [{"role": "user", "constrained": 1}]}, "constrained is 1"),
    ],
    ids=str,
)
def test_what_a_file_may_not_say_is_refused_by_name(demo, tmp_path, saved, change, says):
    with pytest.raises(gn.CheckpointError, match=says) as caught:
        load(demo, tmp_path, saved | change)
    assert str(tmp_path / "c") in str(caught.value)


def test_ids_that_spell_something_else_are_refused(demo, tmp_path, saved):
    encode = demo.tokenizer.encode
    number = next(n for n, one in enumerate(saved["messages"]) if "ids" in one)
    own = saved["messages"][number]["ids"]
    before = encode("<|start|>user<|message|>x<|end|>", allow_special=True)
    for ids in ([], [*own, *own], before + own, own[:-1], own[1:], [-1], [2**70], [1.0], ["a"]):
        messages = [dict(one) for one in saved["messages"]]
        messages[number]["ids"] = ids
        with pytest.raises(gn.CheckpointError, match="ids"):
            load(demo, tmp_path, saved | {"messages": messages})
    ids = encode("<|start|>user<|message|>x<|end|>", allow_special=True)
    told = [{"role": "user", "content": "x", "ids": ids}]
    with pytest.raises(gn.CheckpointError, match="of the assistant"):
        load(demo, tmp_path, saved | {"messages": told})


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_conversations(demo, tmp_path_factory, saved, data):
    text = json.dumps(saved)
    at = data.draw(st.integers(0, len(text) - 1))
    piece = data.draw(st.sampled_from(["", '"', "[", "}", "0", "9e999", "null", "\\ud800", "\0"]))
    folder = tmp_path_factory.mktemp("damaged")
    damaged = text[:at] + piece + text[at + data.draw(st.integers(0, 9)) :]
    with contextlib.suppress(gn.CheckpointError), load(demo, folder, damaged) as chat:
        assert chat.context


def test_files_that_cannot_be_read_or_written_are_named(demo, tmp_path, saved):
    for text in ("", "[]", "[" * 100_000, '{"a": 1, "a": 2}', "NaN"):
        with pytest.raises(gn.CheckpointError, match="c: "):
            load(demo, tmp_path, text)
    with pytest.raises(gn.CheckpointError, match="missing"):
        gn.Chat.load(demo, tmp_path / "lacking")
    chat = talk(demo)
    chat.ask(SUM)
    for cache in (True, False):
        with pytest.raises(gn.Error, match="cannot be"):
            chat.save(tmp_path / "no" / "c", cache=cache)
    (tmp_path / "folder").mkdir()
    with pytest.raises(gn.Error, match="cannot be written"):
        chat.save(tmp_path / "folder", cache=False)
    assert sorted(os.listdir(tmp_path)) == ["c", "folder"]
    for wrong in (None, "", "a\0b", 3):
        with pytest.raises(gn.InvalidArgument, match="path is"):
            chat.save(wrong)
        with pytest.raises(gn.InvalidArgument, match="path is"):
            gn.Chat.load(demo, wrong)


def test_a_session_that_is_damaged_or_anothers_is_refused_until_told(demo, tmp_path):
    path, session = tmp_path / "c", tmp_path / "c.session"
    chat = talk(demo)
    chat.ask(SUM)
    chat.save(path)
    whole = session.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        session.write_bytes(damaged)
        with pytest.raises(gn.CheckpointError, match="session"):
            gn.Chat.load(demo, path)
    session.write_bytes(whole)
    with gn.Model.demo(precision="exact") as other:
        with pytest.raises(gn.CheckpointError, match="session"):
            gn.Chat.load(other, path)
        assert gn.Chat.load(other, path, cache=False).messages == chat.messages
