"""Whatever ends a request, its answers are closed; what is kept and told of them stays right."""

import asyncio
import gc
import threading
import time
import types

import gptoss_native as gn
import pytest
from gptoss_native.chat import TextDelta, TokenEvent, ToolCall
from gptoss_native.harmony import Anomaly, Message, MessageStart
from gptoss_native.server import Settings, completions, create_app
from gptoss_native.server import wanted as wanted_module
from gptoss_native.server.answers import Answers
from gptoss_native.server.chat_messages import Calls
from gptoss_native.server.endpoint import answered
from gptoss_native.server.errors import ApiError
from gptoss_native.server.responding import unless_gone
from gptoss_native.server.response_items import _messages
from gptoss_native.server.schemas import responses as shapes
from gptoss_native.server.sources import RawSource, whole_calls
from gptoss_native.server.store import Store, Stored
from gptoss_native.server.wanted import Tool, is_strict
from served import SUM, chat_tools, demo, serving


@pytest.fixture(scope="module")
def served():
    with demo() as model, serving(model, log_prompts=True) as ready:
        yield ready


def test_an_id_of_no_token_is_echoed_as_nothing():
    class Padded:
        def token_bytes(self, token_id):
            if token_id > 199:
                raise gn.InvalidArgument("no token")
            return bytes([token_id])

    assert completions._text(Padded(), [72, 105, 200, 33]) == "Hi!"


class Fake:
    """Answers whose beginning and end are counted."""

    def __init__(self):
        self.begun = self.closed = 0

    async def begin(self):
        self.begun += 1

    async def close(self):
        self.closed += 1


class Connected:
    """A request whose client stays."""

    async def receive(self):
        await asyncio.Event().wait()


def test_a_cancellation_as_the_answers_begin_closes_them():
    async def run():
        answers = Fake()

        async def begin():
            await asyncio.sleep(0)
            answers.begun += 1
            # In the tick in which this is done, before who waits for it goes on.
            task.cancel()

        answers.begin = begin
        task = asyncio.create_task(answered(Connected(), answers, None, stream=False))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (answers.begun, answers.closed) == (1, 1)

    asyncio.run(run())


def test_what_cannot_be_written_closes_the_answers():
    class Broken:
        def whole(self, request):
            raise ValueError("no")

        chunks = whole

    async def run(stream):
        answers = Fake()
        answers.engine = types.SimpleNamespace(settings=Settings())
        with pytest.raises(ValueError, match="no"):
            await answered(Connected(), answers, Broken(), stream=stream)
        assert answers.closed == 1

    for stream in (False, True):
        asyncio.run(run(stream))


def test_a_cancellation_is_not_lost_while_work_is_ended():
    class Gone:
        async def receive(self):
            return {"type": "http.disconnect"}

    async def slow_to_end():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)

    async def run():
        task = asyncio.create_task(unless_gone(Gone(), slow_to_end()))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_request_leaves_nothing_for_the_collector(served):
    body = {"model": "demo", "messages": SUM, "max_tokens": 4, "stream": True}
    served.post("/v1/chat/completions", body)
    gc.collect()
    gc.disable()
    try:
        served.post("/v1/chat/completions", body)
        eventually_closed(served)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(one).__module__.partition(".")[0] for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left & {"gptoss_native", "uvicorn", "starlette", "fastapi"}


def eventually_closed(served):
    """Wait until the server has let go of a request that its client has read."""
    deadline = time.monotonic() + 20
    while served.app.state.engine.open:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # A request after it is one that came later on the same loop.
    served.http.get("/health")


def test_calls_after_the_first_are_told_once_they_are_whole():
    def call(text, last):
        message = Message("assistant", "", channel="commentary", recipient="functions.f")
        token, delta = TokenEvent(1, None, (), None), TextDelta(text, "commentary", "functions.f")
        return [[token], [token, MessageStart(0, message)], [token, delta], [token, last]]

    def told(*calls):
        async def written():
            for one in calls:
                for group in one:
                    yield group

        async def read():
            return [event async for group in whole_calls(written()) for event in group]

        return asyncio.run(read())

    whole, repeated = ToolCall("c", "functions.f", "{}"), Anomaly("repeated_call", 0, b"")
    first, second, again = call("a", whole), call("b", whole), call("a", repeated)
    for calls in ([first], [first, second], [first, second, call("c", whole)]):
        assert told(*calls) == [event for one in calls for group in one for event in group]
    shown = [event for event in told(first, second, again) if not isinstance(event, TokenEvent)]
    assert shown == [e for e in told(first, second) if not isinstance(e, TokenEvent)]
    assert len(told(first, second, again)) == len(told(first, second)) + 4  # tokens are counted
    # One that was cut off is told as far as it came.
    assert told(first, second[:3]) == [e for g in (*first, *second[:3]) for e in g]


def test_what_came_before_a_failure_is_told():
    async def run():
        answers = Answers(types.SimpleNamespace(open=()), [None], 0.0)
        answers.first_token_s = 0.0
        one = TokenEvent(1, None, (), "final")
        seen = []
        await answers._put(0, [one])

        async def read():
            async for batch in answers.batches():
                seen.extend(batch)
                if len(seen) == 1:
                    await answers._put(0, [one])
                    answers.stop()
                    await answers._put(0, [one])  # too late: it would put the end off

        with pytest.raises(ApiError):
            await read()
        assert len(seen) == 2

    asyncio.run(run())


def test_asking_whether_a_schema_can_be_held_waits_for_no_other(monkeypatch):
    known, slow = ({"type": "object"}, {"type": "object", "properties": {"a": {}}})
    compiling, go_on = threading.Event(), threading.Event()
    tokenizer = Fake()

    def compile_(_, *, tools, strict):
        if tools[0].parameters == slow:
            compiling.set()
            assert go_on.wait(20)

    monkeypatch.setattr(wanted_module, "Envelope", compile_)
    fast, late = (
        Tool(gn.harmony.ToolDescription("x", "", parameters)) for parameters in (known, slow)
    )
    assert is_strict(tokenizer, fast)
    thread = threading.Thread(target=is_strict, args=(tokenizer, late))
    thread.start()
    try:
        assert compiling.wait(20)
        asked = threading.Thread(target=is_strict, args=(tokenizer, fast), daemon=True)
        asked.start()
        asked.join(2)
        assert not asked.is_alive()
    finally:
        go_on.set()
        thread.join()


def test_what_later_responses_hold_stays_where_an_earlier_one_goes():
    store = Store(Settings())

    def put(response_id):
        item = {"id": "msg_1", "type": "message"}
        store.put(Stored("", {"id": response_id, "output": []}, [item], (), (), {}))
        return item

    put("first")
    later = put("second")
    store.delete("first", "")
    assert store.item("msg_1", "") is later
    store.delete("second", "")
    with pytest.raises(ApiError):
        store.item("msg_1", "")


def test_many_messages_are_read_in_one_pass():
    class Counted(list):
        taken = 0

        def __getitem__(self, key):
            if isinstance(key, slice):
                Counted.taken += len(self)
            return super().__getitem__(key)

    said = shapes.MessageItem(role="assistant", content="x")
    call = shapes.CallItem(type="function_call", call_id="a", name="f", arguments="{}")
    result = shapes.ResultItem(type="function_call_output", call_id="a", output="")
    thought = shapes.ReasoningItem(type="reasoning")
    items = Counted([said, thought, call, result] * 100 + [said])
    messages = _messages(items, 0, Calls())
    channels = [one.channel for one in messages if one.role == "assistant" and not one.recipient]
    assert channels == ["commentary"] * 100 + ["final"]
    assert Counted.taken == 0


@pytest.mark.parametrize("depth", [20, 300])
def test_prompts_are_logged_or_not_but_always_answered(served, depth):
    schema = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"name": "f", "parameters": {"type": "object", "examples": [schema]}}
    body = {"model": "demo", "messages": SUM, "tools": chat_tools(tool), "max_tokens": 4}
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code in (200, 400), answer.text


def test_no_more_requests_are_prepared_than_run_and_wait():
    async def run():
        limits = gn.Limits(max_streams=1, max_waiting=1)
        with demo(limits=limits) as model:
            engine = create_app(model, Settings(retry_after_s=3)).state.engine
            two = [Answers(engine, [], 0.0) for _ in range(2)]
            for one in two:
                engine.take(one)
            with pytest.raises(ApiError) as refusal:
                await Answers(engine, [], 0.0).begin()
            told = refusal.value
            assert (told.status_code, told.headers) == (429, {"retry-after": "3"})
            await two[0].close()
            engine.take(Answers(engine, [], 0.0))
            engine.close()

    asyncio.run(run())


def test_an_answers_time_begins_with_its_request():
    async def run(model):
        settings = Settings(request_timeout_s=5)
        engine = create_app(model, settings).state.engine
        source = RawSource(model, settings, [65], (), {"max_new_tokens": 10**5})
        answers = Answers(engine, [source], time.perf_counter() - 60)

        async def ask():
            await answers.begin()
            await answers.rest()

        with pytest.raises(ApiError, match="longer than 5 s"):
            await ask()
        await answers.close()
        engine.close()

    with demo() as model:
        asyncio.run(run(model))
