"""/v1/chat/completions with the official client: whole and streamed, tools, formats, reasoning."""

import asyncio
import json

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from served import (
    CALCULATOR,
    PERSON,
    SUM,
    SUNNY,
    WEATHER,
    chat_tools,
    events_of,
    known,
    response_tools,
)

OURS = ("reasoning_content",)
GREEDY = {"model": "demo", "temperature": 0}


def ask(client, messages=SUM, **options):
    return client.chat.completions.create(messages=messages, **GREEDY | options)


def streamed(client, messages=SUM, **options):
    """Return the message that a stream's chunks make, the finish reason and the usage."""
    message = {"content": "", "reasoning_content": "", "tool_calls": []}
    reason = usage = None
    stream = ask(client, messages, stream=True, stream_options={"include_usage": True}, **options)
    for chunk in stream:
        usage = chunk.usage or usage
        if not chunk.choices:
            continue
        delta = chunk.choices[0].delta
        message["content"] += delta.content or ""
        message["reasoning_content"] += getattr(delta, "reasoning_content", None) or ""
        for call in delta.tool_calls or ():
            if call.index == len(message["tool_calls"]):
                message["tool_calls"].append(
                    {"id": call.id, "name": call.function.name, "arguments": ""}
                )
            message["tool_calls"][call.index]["arguments"] += call.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    return message, reason, usage


def test_a_question_is_answered_with_its_reasoning_apart(client):
    reply = ask(client)
    choice = reply.choices[0]
    assert choice.message.content == "17 + 25 = 42"
    assert "42" in choice.message.reasoning_content
    assert (choice.finish_reason, choice.index, reply.model) == ("stop", 0, "demo")


def test_a_stream_says_the_same_as_the_whole(client):
    for options in (
        {},
        {
            "tools": chat_tools(WEATHER),
            "messages": [{"role": "user", "content": "What is the weather in Zurich?"}],
        },
    ):
        whole = ask(client, **options)
        message, reason, usage = streamed(client, **options)
        said = whole.choices[0].message
        assert message["content"] == (said.content or "")
        assert message["reasoning_content"] == said.reasoning_content
        assert reason == whole.choices[0].finish_reason
        calls = [
            {"name": c.function.name, "arguments": c.function.arguments}
            for c in said.tool_calls or ()
        ]
        assert [
            {key: c[key] for key in ("name", "arguments")} for c in message["tool_calls"]
        ] == calls
        assert usage.completion_tokens == whole.usage.completion_tokens
        assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_what_is_sent_is_what_the_client_knows(served):
    body = GREEDY | {"messages": SUM, "logprobs": True, "top_logprobs": 2, "n": 2}
    whole = served.post("/v1/chat/completions", body).json()
    known(ChatCompletion.model_validate(whole), OURS)
    answer = served.post(
        "/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    *chunks, done = events_of(answer)
    assert done == "[DONE]"
    for chunk in chunks:
        known(ChatCompletionChunk.model_validate(chunk), OURS)
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert all("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"] == []


def test_usage_is_counted(client):
    usage = ask(client).usage
    assert usage.prompt_tokens > 50
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    # What a prompt shares with an earlier one is found in the cache: all share a system message.
    long = [{"role": "system", "content": "Be brief. " * 60}, *SUM]
    first = ask(client, long).usage
    second = ask(client, [*long, {"role": "assistant", "content": "42"}, *SUM]).usage
    assert first.prompt_tokens_details.cached_tokens < 100
    assert second.prompt_tokens_details.cached_tokens > 100


def test_a_tool_loop_goes_on_with_its_reasoning(client):
    tools = chat_tools(WEATHER, strict=True)
    messages = [{"role": "user", "content": "What is the weather in Zurich?"}]
    reply = ask(client, messages, tools=tools)
    said = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = said.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Zurich"}
    # As the client's own object, and as a dictionary with nulls.
    result = {"role": "tool", "tool_call_id": call.id, "content": SUNNY}
    for sent in (said, said.model_dump()):
        after = ask(client, [*messages, sent, result], tools=tools)
        assert "21" in after.choices[0].message.content
    with_thought = after.usage.prompt_tokens
    bare = {key: value for key, value in said.model_dump().items() if key != "reasoning_content"}
    assert ask(client, [*messages, bare, result], tools=tools).usage.prompt_tokens < with_thought
    # Once there is an answer the reasoning before it is left out.
    final = {"role": "assistant", "content": "It is sunny."}
    more = [*messages, said, result, final, *SUM]
    less = [*messages, bare, result, final, *SUM]
    assert ask(client, more, tools=tools).usage.prompt_tokens == (
        ask(client, less, tools=tools).usage.prompt_tokens
    )


def test_several_calls_may_be_answered_at_once(client):
    tools = chat_tools(WEATHER, CALCULATOR)
    made = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(
            [("get_weather", '{"city": "Oslo"}'), ("calculator", '{"expression": "1+1"}')]
        )
    ]
    messages = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": made},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"result": 2}'},
        {"role": "tool", "tool_call_id": "call_0", "content": SUNNY},
    ]
    reply = ask(client, messages, tools=tools, parallel_tool_calls=True, max_completion_tokens=60)
    assert reply.choices[0].finish_reason in ("stop", "tool_calls", "length")


def test_a_call_that_repeats_another_is_not_told(client, served):
    """A tool's answer, by which the model says that it has no more calls, is forbidden here."""
    tokenizer = served.app.state.engine.model.tokenizer
    bias = {str(tokenizer.encode("functions")[0]): -100}
    messages = [{"role": "user", "content": "What is the weather in Zurich?"}]
    options = {"tools": chat_tools(WEATHER), "logit_bias": bias}
    (call,) = ask(client, messages, **options).choices[0].message.tool_calls
    several = options | {"parallel_tool_calls": True}
    whole = ask(client, messages, **several)
    message, reason, usage = streamed(client, messages, **several)
    (told,), (streamed_call,) = whole.choices[0].message.tool_calls, message["tool_calls"]
    assert told.function == call.function
    assert streamed_call["arguments"] == call.function.arguments
    assert whole.choices[0].finish_reason == reason == "tool_calls"
    # The second one was written.
    one = ask(client, messages, **options | {"parallel_tool_calls": False})
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.completion_tokens > one.usage.completion_tokens + 10
    response = client.responses.create(
        model="demo", input=messages, tools=response_tools(WEATHER), parallel_tool_calls=True
    )
    assert response.parallel_tool_calls is True


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "calculator"}}]
)
def test_a_call_that_is_asked_for_comes(client, choice):
    tools = chat_tools(WEATHER, CALCULATOR)
    question = [{"role": "user", "content": "What is 34*27?"}]
    reply = ask(client, question, tools=tools, tool_choice=choice, max_completion_tokens=200)
    assert reply.choices[0].finish_reason == "tool_calls"
    name = reply.choices[0].message.tool_calls[0].function.name
    assert name == "calculator" or choice == "required"
    json.loads(reply.choices[0].message.tool_calls[0].function.arguments)


def test_no_call_comes_where_none_may(client):
    question = [{"role": "user", "content": "What is the weather in Zurich?"}]
    tools = chat_tools(WEATHER)
    reply = ask(client, question, tools=tools, tool_choice="none", max_completion_tokens=100)
    assert reply.choices[0].message.tool_calls is None


def test_answers_follow_a_schema(client):
    form = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": PERSON, "strict": True},
    }
    question = [{"role": "user", "content": "Alice is 30 years old."}]
    for options in ({}, {"tools": chat_tools(WEATHER)}):
        reply = ask(
            client,
            question,
            response_format=form,
            extra_body={"max_reasoning_tokens": 40},
            **options,
        )
        message = reply.choices[0].message
        if message.tool_calls is None:
            assert set(json.loads(message.content)) == {"name", "age"}
    reply = ask(
        client,
        response_format={"type": "json_object"},
        max_completion_tokens=400,  # it may go on and on within a text
        extra_body={"max_reasoning_tokens": 60},
    )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)


def test_the_clients_parse_gives_a_model_of_the_answer(client):
    from pydantic import BaseModel

    class Answer(BaseModel):
        result: int

    completion = client.chat.completions.parse(
        messages=SUM, response_format=Answer, **GREEDY, extra_body={"max_reasoning_tokens": 60}
    )
    assert isinstance(completion.choices[0].message.parsed, Answer)


def test_effort_reaches_the_model(client):
    low, high = (ask(client, reasoning_effort=effort) for effort in ("low", "high"))
    spent = [reply.usage.completion_tokens_details.reasoning_tokens for reply in (low, high)]
    assert spent[0] < spent[1]


def test_reasoning_may_be_bounded(client):
    reply = ask(client, reasoning_effort="high", extra_body={"max_reasoning_tokens": 10})
    assert reply.usage.completion_tokens_details.reasoning_tokens <= 18
    assert reply.choices[0].message.content


def test_limits_and_stop_strings(client):
    cut = ask(client, max_completion_tokens=5)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)
    assert ask(client, max_tokens=5).usage.completion_tokens == 5
    stopped = ask(client, stop=[" = ", "never"])
    assert stopped.choices[0].message.content == "17 + 25"
    assert stopped.choices[0].finish_reason == "stop"
    assert streamed(client, stop=" = ")[0]["content"] == "17 + 25"


def test_logprobs_are_those_of_the_answers_tokens(client):
    whole = ask(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = whole.logprobs.content
    assert "".join(token.token for token in tokens) == whole.message.content
    assert all(bytes(token.bytes).decode() == token.token for token in tokens)
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in tokens)
    chunks = ask(client, logprobs=True, top_logprobs=3, stream=True)
    told = [c.choices[0].logprobs for c in chunks if c.choices]
    assert [t.token for one in told if one for t in one.content] == [t.token for t in tokens]


def test_a_seed_gives_the_same_again_and_n_different_ones(client):
    unsure = [{"role": "user", "content": "Tell me of birds."}]

    def texts(**options):
        reply = ask(client, unsure, temperature=2, max_completion_tokens=40, **options)
        return [
            (c.message.reasoning_content or "") + (c.message.content or "") for c in reply.choices
        ]

    many = texts(seed=7, n=4)
    assert many == texts(seed=7, n=4)
    assert many[:1] == texts(seed=7)
    assert len(set(many)) > 1
    assert texts(seed=-1) == texts(seed=-1)


def test_bias_and_penalties_reach_the_engine(client, served):
    tokenizer = served.app.state.engine.model.tokenizer
    # Every token of the answer's digits is forbidden.
    bias = {str(tokenizer.encode(digit)[0]): -100 for digit in "0123456789"}
    reply = ask(client, logit_bias=bias, max_completion_tokens=40)
    assert not any(c.isdigit() for c in (reply.choices[0].message.reasoning_content or ""))
    plain, pushed = (
        ask(client, presence_penalty=p, frequency_penalty=p, reasoning_effort="high")
        for p in (0, 2)
    )
    assert plain.choices[0].message != pushed.choices[0].message


def test_developer_messages_are_instructions(client):
    messages = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *SUM]
    more = ask(client, messages).usage.prompt_tokens
    assert more > ask(client).usage.prompt_tokens
    later = [*SUM, {"role": "assistant", "content": "42"}, {"role": "system", "content": "x"}, *SUM]
    assert ask(client, later).choices[0].message.content


def test_many_at_once_each_get_their_own(served):
    async def one(client, number):
        question = [{"role": "user", "content": f"What is 1{number % 10} + {number}?"}]
        stream = await client.chat.completions.create(messages=question, **GREEDY, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them():
        async with served.async_client() as client:
            return await asyncio.gather(*(one(client, number) for number in range(10, 42)))

    for number, text in enumerate(asyncio.run(all_of_them()), 10):
        assert f"1{number % 10} + {number}" in text
        assert str(10 + number % 10 + number) in text


def test_what_cannot_be_is_an_error_of_the_clients_kind(client):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, temperature=9)
    assert (raised.value.param, raised.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, model="gpt-9")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, [{"role": "user", "content": "a " * 140_000}])
    assert raised.value.code == "context_length_exceeded"
