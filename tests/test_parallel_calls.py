"""Several calls in one round (parallel_tool_calls): whole messages, run together, all answered."""

import asyncio
import threading

import gptoss_native as gn
import numpy as np
import pytest
from gptoss_native.chat import TokenEvent
from gptoss_native.harmony import PYTHON, Message, Renderer, ToolNamespace, parse
from gptoss_native.structured import Envelope
from scripted import BEGIN, answer, call, scripted
from turns import CLOCK, SEARCH, WEATHER, random_model, sampling, small_tokenizer

TOKENIZER = small_tokenizer()
TOOLS = [WEATHER, CLOCK, SEARCH, PYTHON]
CALL = "<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{}<|call|>"


def encode(text):
    return TOKENIZER.encode(text, allow_special=True)


def written(text, **options):
    options = {"tools": TOOLS, "parallel_tool_calls": True} | options
    return Envelope(TOKENIZER, **options).turn(encode(text))


def allowed(turn):
    out = np.zeros(-(-TOKENIZER.vocab_size // 32), np.int32)
    turn.mask(out)
    return set(np.flatnonzero(np.unpackbits(out.view(np.uint8), bitorder="little")).tolist())


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def clock() -> str:
    """Tells the time."""
    return "noon"


@pytest.fixture(scope="module")
def models(config):
    made = [random_model(config, TOKENIZER, seed=seed, threads=1) for seed in range(3)]
    yield made
    for model in made:
        model.close()


# The envelope


def test_after_a_call_there_is_another_or_a_tools_answer():
    turn = written(CALL)
    assert not turn.finished
    assert turn.may_finish
    assert turn.forced() == encode("<|start|>")
    turn.accept(encode("<|start|>")[0])
    firsts = {TOKENIZER.encode(name)[0] for name in ("assistant", "functions", "search", "python")}
    assert allowed(turn) == firsts
    assert turn.spare == 1
    for token_id in encode("assistant"):
        assert not turn.finished
        turn.accept(token_id)
    assert (turn.spare, turn.may_finish, turn.finished) == (0, False, False)
    # What follows is a call: no reasoning, no preamble, no answer.
    for text in ("<|channel|>final", "<|channel|>analysis<|message|>", "<|message|>"):
        with pytest.raises(gn.InvalidArgument):
            written(CALL + BEGIN + text)
    assert written(CALL + BEGIN + CALL).may_finish


@pytest.mark.parametrize("name", ["functions.clock", "search.web", "python"])
def test_the_answer_of_a_tool_finishes_the_turn_and_is_no_part_of_it(name):
    first = TOKENIZER.encode(name)[0]
    turn = written(CALL + BEGIN + CALL)
    ids = [*encode("<|start|>"), first]
    for token_id in ids:
        turn.accept(token_id)
    assert turn.finished
    assert turn.spare == len(ids)
    assert turn.ahead([1]) == ((), 0)
    with pytest.raises(gn.InvalidArgument):
        turn.accept(first)


def test_what_ends_the_calls_is_never_guessed():
    turn = written(CALL + "<|start|>")
    for name in ("functions", "python"):
        assert turn.ahead(TOKENIZER.encode(name)) == ([], 0)
    ids, forced = turn.ahead(encode("assistant to=python"))
    assert TOKENIZER.decode(ids).startswith("assistant")
    assert forced == 0


def test_a_name_that_begins_as_the_assistants_does_not_end_what_is_begun():
    for name in ("assistant", "assistants", "assist", "a"):
        space = ToolNamespace(name, "Does it.")
        begun = f"<|channel|>analysis to={name}<|message|>x<|call|>"
        turn = written(begun + BEGIN, tools=[space, CLOCK])
        assert (turn.spare, turn.finished) == (0, False)
        turn = written(begun + "<|start|>", tools=[space])
        assert TOKENIZER.encode("functions")[0] in allowed(turn)


def test_so_many_calls_and_no_more():
    turn = written((CALL + BEGIN) * 63 + CALL)
    assert turn.finished
    assert turn.spare == 0


def test_without_it_a_call_ends_the_turn():
    assert written(CALL, parallel_tool_calls=False).finished
    assert not written(CALL, tool_choice="clock").finished
    assert written("<|channel|>final<|message|>x<|return|>").finished


@pytest.mark.parametrize("tool_choice", ["auto", "required", "clock"])
@pytest.mark.parametrize("seed", range(4))
def test_turns_of_a_random_model_parse_and_name_declared_tools(models, seed, tool_choice):
    envelope = Envelope(TOKENIZER, tools=TOOLS, tool_choice=tool_choice, parallel_tool_calls=True)
    turn = envelope.turn()
    how = sampling(TOKENIZER, seed, ("commentary", " to", "assistant"))
    stop = [TOKENIZER.special["<|return|>"]]
    stream = (
        models[0]
        .session()
        .generate([3, 1, 4], max_new_tokens=600, sampling=how, stop_ids=stop, constraint=turn)
    )
    ids = []
    for token in stream:
        ids.append(token.id)
        if turn.finished:
            break
    messages, anomalies = parse(TOKENIZER, ids[: len(ids) - turn.spare])
    assert len(anomalies) <= (not turn.finished and not turn.may_finish)
    # What the length cut off in a header has half a name.
    whole = messages[: len(messages) - len(anomalies)]
    calls = [m.recipient for m in whole if m.recipient is not None]
    names = {"functions.clock"} if tool_choice == "clock" else None
    assert set(calls) <= (
        names or {"functions.get_weather", "functions.clock", "search.web", "python"}
    )
    assert not turn.finished or calls or messages[-1].channel == "final"


def test_rendered_calls_are_such_a_turn_and_openai_harmony_reads_them():
    oracle = pytest.importorskip("harmony_oracle")
    tokenizer = oracle.tokenizer()
    calls = [Message.tool_call("functions.clock", "{}"), Message.tool_call("functions.clock", "1")]
    ids = Renderer(tokenizer).render(calls)
    begun = Renderer(tokenizer).render_for_completion([])
    turn = Envelope(tokenizer, tools=[CLOCK], parallel_tool_calls=True).turn(ids[len(begun) :])
    assert turn.may_finish
    theirs = oracle.encoding().parse_messages_from_completion_tokens(
        ids[len(begun) :], oracle.oh.Role.ASSISTANT
    )
    assert [one.recipient for one in theirs] == ["functions.clock"] * 2
    assert [one.content[0].text for one in theirs] == ["{}", "1"]


# Chats


def likely(seed):
    """Return a sampling under which rounds have calls, often several."""
    bias = dict.fromkeys(TOKENIZER.encode("assistant"), 4.0) | dict.fromkeys(
        encode("<|call|>"), 6.0
    )
    return gn.Sampling(logit_bias=bias, seed=seed)


def calling(name):
    """Return a sampling under which there are calls with nothing in them, one after the other."""
    bias = dict.fromkeys(TOKENIZER.encode(f" to=functions.{name}"), 300.0)
    bias |= dict.fromkeys(TOKENIZER.encode("assistant"), 350.0)
    bias |= dict.fromkeys(encode("<|call|>"), 400.0)
    return gn.Sampling(temperature=0, logit_bias=bias)


def test_calls_of_a_round_run_together_and_are_answered_in_order(models):
    several = 0
    for number, model in enumerate(models):
        for seed in range(4):
            tools = {"tools": [add, clock], "tokenizer": TOKENIZER, "max_new_tokens": 400}
            chat = gn.Chat(model, parallel_tool_calls=True, max_tool_rounds=1, **tools)
            turn = chat.send("go", sampling=likely(10 * number + seed), tool_choice="required")
            events = list(turn)
            reply = turn.reply
            kinds = {anomaly.kind for anomaly in reply.anomalies} - {"repeated_call"}
            assert not kinds or reply.finish_reason == "length"
            assert tuple(e.id for e in events if isinstance(e, TokenEvent)) == reply.ids
            assert [r.call.id for r in reply.tool_results] == [c.id for c in reply.tool_calls][
                : len(reply.tool_results)
            ]
            assert {call.recipient for call in reply.tool_calls} <= {
                "functions.add",
                "functions.clock",
            }
            usage = reply.usage
            assert sum(usage.by_channel.values()) == usage.generated_tokens
            # The messages are what the history's ids say.
            ids = chat.context
            begun = len(chat.renderer.render_for_completion([]))
            again = parse(TOKENIZER, ids[:-begun], None)
            assert again.anomalies == []
            several += len(reply.tool_results) > usage.tool_rounds
    assert several


def test_calls_run_at_the_same_time(demo):
    meeting = threading.Barrier(2, timeout=30)

    def meet(number: int = 0) -> str:
        """Meets."""
        meeting.wait()
        return "met"

    calls = [call("functions.meet", arguments) for arguments in ('{"number": 1}', "{}")]
    script = BEGIN.join(calls) + "<|start|>functions"
    options = {"tools": [meet], "envelope": True, "parallel_tool_calls": True}
    reply = scripted(demo, script, answer("Yes."), **options).ask("go")
    assert [result.text for result in reply.tool_results] == ["met", "met"]
    assert (reply.text, reply.anomalies, reply.finish_reason) == ("Yes.", (), "stop")


def test_a_call_that_repeats_another_is_the_last_and_is_not_run(models):
    times = []

    def meet() -> str:
        """Meets."""
        times.append(1)
        return "met"

    options = {"tools": [meet], "tokenizer": TOKENIZER, "max_tool_rounds": 1}
    chat = gn.Chat(models[0], parallel_tool_calls=True, **options)
    reply = chat.ask("go", sampling=calling("meet"))
    assert [anomaly.kind for anomaly in reply.anomalies] == ["repeated_call"] * 2
    assert (len(reply.tool_calls), reply.finish_reason) == (2, "tool_rounds")
    assert len(times) == len(reply.tool_results) == 1
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert len([m for m in reply.messages if m.role == "assistant"]) == 4


def test_the_same_comes_in_an_event_loop_and_with_guesses(models):
    def talk(**options):
        tools = {"tools": [add, clock], "tokenizer": TOKENIZER, "max_new_tokens": 300}
        chat = gn.Chat(models[1], parallel_tool_calls=True, **tools | options)
        return chat.send("go", sampling=likely(5), tool_choice="required")

    async def main():
        return await talk()

    want = talk(lookup=False).reply
    for got in (talk().reply, asyncio.run(main())):
        assert (got.ids, got.messages, got.tool_calls) == (want.ids, want.messages, want.tool_calls)


def test_a_length_after_a_whole_call_leaves_it_to_be_run(models):
    """Whether another one would have come is not known, and not needed."""
    how = calling("clock")
    options = {"tools": [clock], "tokenizer": TOKENIZER, "run_tools": False, "sampling": how}
    chat = gn.Chat(models[0], parallel_tool_calls=True, tool_choice="required", **options)
    for most in range(10, 60):
        reply = chat.fork().ask("go", max_new_tokens=most)
        if reply.tool_calls:
            break
    assert (reply.finish_reason, len(reply.pending_calls)) == ("tool_calls", 1)
    assert chat.fork().ask("go", max_new_tokens=most + 1).finish_reason == "tool_calls"


def test_it_takes_the_envelope_and_a_flag(models):
    chat = {"model": models[0], "tokenizer": TOKENIZER, "tools": [clock]}
    with pytest.raises(gn.InvalidArgument, match="parallel_tool_calls is True, wanted envelope"):
        gn.Chat(**chat, envelope=False, parallel_tool_calls=True)
    with pytest.raises(gn.InvalidArgument, match="parallel_tool_calls is 1"):
        gn.Chat(**chat, parallel_tool_calls=1)
    with pytest.raises(gn.InvalidArgument, match="parallel_tool_calls is 1"):
        Envelope(TOKENIZER, parallel_tool_calls=1)
