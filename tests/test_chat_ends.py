"""How a chat's turns end: by a stop string, cut off, cancelled, late, by an error, or dropped."""

import asyncio
import gc
import threading
import weakref

import gptoss_native as gn
import pytest
from gptoss_native.chat import TextDelta
from scripted import analysis, answer, call, final, scripted, talk, thought, user

SUM = "What is 17 + 25?"


# Stop strings


def test_stop_strings_hold_for_the_answer_and_are_not_part_of_it(demo):
    script = thought("a song, a song") + answer("sing a so so song now")
    turn = scripted(demo, script).send("x", stop=["song"])
    texts = "".join(e.text for e in turn if isinstance(e, TextDelta) and e.channel == "final")
    reply = turn.reply
    assert (reply.text, texts, reply.stop_string) == ("sing a so so ", "sing a so so ", "song")
    assert reply.reasoning == "a song, a song"
    assert reply.finish_reason == "stop"
    assert turn._play._chat.messages[-1] == final("sing a so so ")


def test_stop_strings_hold_where_they_are_asked_to(demo):
    script = thought("a song") + answer("sing")
    reply = scripted(demo, script).ask("x", stop="song", stop_scope="analysis")
    assert (reply.reasoning, reply.text, reply.stop_string) == ("a ", "", "song")
    reply = scripted(demo, script).ask("x", stop="sing", stop_scope=["analysis", "final"])
    assert (reply.reasoning, reply.text) == ("a song", "")
    arguments = call("functions.f", '{"a": "song"}')
    reply = scripted(demo, arguments, answer("y")).ask("x", stop="song", stop_scope="commentary")
    assert reply.text == "y"
    reply = scripted(demo, arguments).ask("x", stop="song", stop_scope="all")
    assert (reply.stop_string, reply.tool_calls) == ("song", ())


def test_what_only_begins_a_stop_string_is_shown_in_the_end(demo):
    reply = scripted(demo, answer("a so")).ask("x", stop=["song", "a sock"])
    assert (reply.text, reply.stop_string) == ("a so", None)


# Turns that do not end by themselves


def answer_after(model, chat, question):
    """Ask, and see that a chat which gets the very history anew answers the same: the model has
    learnt no history with a turn that was cut off, and need not be right after one."""
    told = [*chat.entries, user(question)]
    reply = chat.ask(question)
    another = talk(model)
    assert another.ask(told).text == reply.text
    assert another.context == chat.context
    return reply


def test_a_turn_that_is_cut_off_keeps_what_was_written(demo):
    chat = talk(demo)
    reply = chat.ask(SUM, max_new_tokens=10)
    assert (reply.finish_reason, reply.finish_detail) == ("length", "max_new_tokens")
    assert reply.reasoning == "17+25: 7"[: len(reply.reasoning)]
    assert reply.reasoning
    assert chat.messages == [user(SUM), analysis(reply.reasoning)]
    assert answer_after(demo, chat, SUM).text.startswith("17 + 25 = ")
    small = talk(demo, max_context=90)
    reply = small.ask("What is 17 + 25?")
    assert (reply.finish_reason, reply.finish_detail) == ("length", "context")
    with pytest.raises(gn.InvalidArgument, match="wanted fewer than max_context, 90"):
        small.ask(SUM)
    small.rewind(0)
    assert small.ask(SUM, max_new_tokens=2).finish_detail == "max_new_tokens"
    assert small.messages == []  # nothing was written that could be kept


def test_leaving_the_loop_ends_the_turn_and_the_chat_goes_on(demo):
    chat = talk(demo)
    turn = chat.send(SUM)
    for event in turn:
        if isinstance(event, TextDelta) and event.text == "=":
            break
    reply = turn.reply
    assert reply.finish_reason == "cancelled"
    assert reply.reasoning == "17+25: 7+5="
    assert chat.messages == [user(SUM), analysis("17+25: 7+5=")]
    assert answer_after(demo, chat, "What is 2 + 3?").text.startswith("2 + 3 = ")
    before = chat.messages

    turn = chat.send(SUM)

    def fail():
        for _ in turn:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert turn.reply.finish_reason == "cancelled"
    assert chat.messages == before  # nothing had been written
    assert chat.ask(SUM).text == "17 + 25 = 42"


def test_a_turn_is_cancelled_from_another_thread_or_by_the_next_one(demo):
    chat = talk(demo)
    turn = chat.send(SUM)
    for event in turn:
        if isinstance(event, TextDelta):
            thread = threading.Thread(target=turn.cancel)
            thread.start()
            thread.join()
    assert turn.reply.finish_reason == "cancelled"
    first = chat.send(SUM)
    for _ in range(9):
        next(first)
    assert chat.ask("What is 2 + 3?").text == "2 + 3 = 5"
    assert first.reply.finish_reason == "cancelled"
    assert next(first, None) is None
    never = chat.send(SUM)
    chat.send("Hello!").cancel()
    assert (never.reply.finish_reason, never.reply.ids) == ("cancelled", ())


def test_a_timeout_ends_the_turn(demo):
    chat = talk(demo)
    reply = chat.ask(SUM, timeout=1e-6)
    assert (reply.finish_reason, reply.text) == ("timeout", "")
    assert chat.messages == []
    assert chat.ask(SUM, timeout=600).text == "17 + 25 = 42"


def test_a_cancelled_task_leaves_the_chat_usable(demo):
    async def main():
        chat = talk(demo)

        async def read():
            async for event in chat.asend(SUM):
                if isinstance(event, TextDelta):
                    seen.set()

        seen = asyncio.Event()
        task = asyncio.create_task(read())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async for _ in chat.asend("Hello!"):
            break
        told = [*chat.entries, user("What is 2 + 3?")]
        reply = await chat.asend("What is 2 + 3?")
        assert reply.text == talk(demo).ask(told).text
        return reply

    assert asyncio.run(main()).text.startswith("2 + 3 = ")


def test_errors_of_the_engine_are_raised_and_the_rest_is_there(demo):
    chat = talk(demo)
    turn = chat.send(SUM)
    for _ in range(12):
        next(turn)
    chat.session.close()
    with pytest.raises(gn.InvalidArgument):
        list(turn)
    assert turn.reply.finish_reason == "error"
    assert turn.reply.reasoning
    with pytest.raises(gn.InvalidArgument):
        chat.ask(SUM)


def test_one_reader_at_a_time(demo):
    chat = talk(demo)
    asked = []

    def again():
        with pytest.raises(gn.InvalidArgument, match="another turn of this chat is being read"):
            chat.ask("x")
        with pytest.raises(gn.InvalidArgument, match="this turn is being read elsewhere"):
            next(turn)
        asked.append(chat.fork().ask("What is 2 + 3?").text)
        return "fine"

    again.__name__ = "get_weather"
    chat = scripted(demo, call("functions.get_weather"), answer("2 + 3 = 5"), answer("ok"))
    chat.toolbox.__init__([again])
    turn = chat.send("x")
    reply = turn.reply
    assert [result.text for result in reply.tool_results] == ["fine"]
    assert asked == ["2 + 3 = 5"]


def test_a_chat_that_is_dropped_gives_its_cache_back_at_once(demo):
    gc.disable()
    try:
        chat = talk(demo, tools=[len_of])
        chat.ask(SUM)
        for _ in chat.send(SUM):
            break
        held = weakref.ref(chat.session)
        del chat
        assert held() is None
    finally:
        gc.enable()


def len_of(text: str) -> int:
    return len(text)
