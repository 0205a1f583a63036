"""/v1/responses with the official client: items, every event, what is stored, tools."""

import asyncio
import json

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from served import PERSON, SUNNY, WEATHER, demo, events_of, known, response_tools, serving

QUESTION = "What is 17 + 25?"
ASK_WEATHER = "What is the weather in Zurich?"
GREEDY = {"model": "demo", "temperature": 0}
TOOLS = response_tools(WEATHER, strict=True)
# Sent by OpenAI too, or by its earlier versions; this client has no field for them.
OURS = ("bytes", "store", "name")


def ask(client, given=QUESTION, **options):
    return client.responses.create(input=given, **GREEDY | options)


def answer_to(response):
    call = next(item for item in response.output if item.type == "function_call")
    return {"type": "function_call_output", "call_id": call.call_id, "output": SUNNY}


def test_a_question_is_answered_with_its_reasoning_as_an_item(client):
    response = ask(client)
    assert response.output_text == "17 + 25 = 42"
    reasoning, message = response.output
    assert "42" in reasoning.content[0].text
    assert (reasoning.summary, message.phase, message.status) == ([], "final_answer", "completed")
    assert response.status == "completed"
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens


def read(served, given, **options):
    answer = served.post("/v1/responses", GREEDY | {"input": given, "stream": True} | options)
    assert answer.status_code == 200, answer.text
    return events_of(answer)


@pytest.mark.parametrize("options", [{"input": QUESTION}, {"input": ASK_WEATHER, "tools": TOOLS}])
def test_events_are_those_the_client_knows_and_add_up_to_the_response(served, options):
    options = options | {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    events = read(served, options.pop("input"), **options)
    one = TypeAdapter(ResponseStreamEvent)
    for event in events:
        known(one.validate_python(event), OURS)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    response = events[-1]["response"]
    known(Response.model_validate(response), OURS)
    for index, item in enumerate(response["output"]):
        of_item = [event for event in events if event.get("output_index") == index]
        assert of_item[0]["type"] == "response.output_item.added"
        assert of_item[0]["item"]["status"] == "in_progress"
        assert (of_item[-1]["type"], of_item[-1]["item"]) == ("response.output_item.done", item)
        text = "".join(event["delta"] for event in of_item if "delta" in event)
        wanted = (
            item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        )
        assert text == wanted
        if item["type"] == "message":
            tokens = [t for event in of_item if "delta" in event for t in event["logprobs"]]
            assert tokens == item["content"][0]["logprobs"]
            assert "".join(token["token"] for token in tokens) == text


def test_the_clients_stream_helper_follows(client):
    with client.responses.stream(input=QUESTION, **GREEDY) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "17 + 25 = 42"
    assert "response.reasoning_text.delta" in kinds


def test_what_is_given_for_a_whole_is_what_a_stream_ends_in(served):
    whole = served.post("/v1/responses", GREEDY | {"input": QUESTION}).json()
    streamed = read(served, QUESTION)[-1]["response"]
    assert whole.keys() == streamed.keys()
    assert [i["content"] for i in whole["output"]] == [i["content"] for i in streamed["output"]]


def test_a_conversation_goes_on_from_a_stored_response(client):
    first = ask(client, "What is 2 + 3?", instructions="Be brief. " * 40)
    second = ask(client, previous_response_id=first.id, instructions="Be brief. " * 40)
    assert second.output_text == "17 + 25 = 42"
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens_details.cached_tokens > 100
    # Two may go on from the same.
    third = ask(client, "What is 2 + 2?", previous_response_id=first.id)
    assert third.usage.input_tokens < second.usage.input_tokens
    assert client.responses.retrieve(second.id).output_text == "17 + 25 = 42"


@pytest.mark.parametrize("stored", [True, False])
def test_a_tool_loop(client, stored):
    first = ask(client, ASK_WEATHER, tools=TOOLS, store=stored)
    call = first.output[-1]
    assert json.loads(call.arguments) == {"city": "Zurich"}
    assert (call.name, call.status) == ("get_weather", "completed")
    if stored:
        second = ask(client, [answer_to(first)], previous_response_id=first.id, tools=TOOLS)
    else:
        items = [{"role": "user", "content": ASK_WEATHER}, *first.output, answer_to(first)]
        second = ask(client, items, tools=TOOLS, store=False)
    assert "21" in second.output_text
    thought = second.usage.input_tokens
    if not stored:
        bare = [items[0], call, items[-1]]
        assert ask(client, bare, tools=TOOLS).usage.input_tokens < thought
        again = [item.model_dump() for item in first.output]
        assert ask(client, [items[0], *again, items[-1]], tools=TOOLS).usage.input_tokens == thought


def test_a_stored_turn_is_the_ids_that_the_model_wrote(served, client):
    first = ask(client, ASK_WEATHER, tools=TOOLS)
    stored = served.app.state.engine.store.get(first.id, "")
    written = [list(entry.ids) for entry in stored.entries if entry.message.role == "assistant"]
    second = ask(client, [answer_to(first)], previous_response_id=first.id, tools=TOOLS)
    after = served.app.state.engine.store.get(second.id, "").entries
    ids = [list(entry.ids) for entry in after if entry.message.role == "assistant"]
    assert ids[: len(written)] == written


def test_calls_are_answered_before_all_else(client):
    first = ask(client, ASK_WEATHER, tools=TOOLS)
    with pytest.raises(openai.BadRequestError, match="wanted a result of each"):
        ask(client, previous_response_id=first.id, tools=TOOLS)
    with pytest.raises(openai.BadRequestError, match="answers the call 'nope'"):
        ask(client, [{"type": "function_call_output", "call_id": "nope", "output": "1"}])


def test_what_is_stored_can_be_read_listed_and_deleted(client):
    given = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    response = ask(client, given, metadata={"a": "b"})
    again = client.responses.retrieve(response.id)
    assert again.to_dict() == response.to_dict()
    listed = client.responses.input_items.list(response.id, order="asc").data
    assert [item.role for item in listed] == ["developer", "user"]
    last = client.responses.input_items.list(response.id, limit=1)
    assert (last.data[0].role, last.has_more) == ("user", True)
    assert [item.role for item in client.responses.input_items.list(response.id)] == [
        "user",
        "developer",
    ]
    reference = [
        {"type": "item_reference", "id": response.output[-1].id},
        {"role": "user", "content": "?"},
    ]
    assert ask(client, reference, max_output_tokens=20).usage.input_tokens > 50
    client.responses.delete(response.id)
    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(response.id)
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, previous_response_id=response.id)
    assert raised.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(client):
    response = ask(client, store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_only_the_last_used_are_kept():
    with demo() as model, serving(model, stored_responses=2) as served, served.client() as client:
        first, second = ask(client, max_output_tokens=3), ask(client, max_output_tokens=3)
        client.responses.retrieve(first.id)
        ask(client, max_output_tokens=3)
        client.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(second.id)


def test_an_answer_that_is_cut_is_incomplete(client):
    response = ask(client, max_output_tokens=8)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[-1].status == "incomplete"
    assert response.usage.output_tokens == 8


def test_what_was_asked_stays_where_nothing_was_said(client):
    nothing = ask(client, max_output_tokens=1)
    assert nothing.output == []
    after = ask(client, "Again?", previous_response_id=nothing.id, max_output_tokens=1)
    assert after.usage.input_tokens > nothing.usage.input_tokens


def test_answers_follow_a_schema(client):
    form = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    response = ask(client, "Alice is 30 years old.", text={"format": form})
    assert set(json.loads(response.output_text)) == {"name", "age"}

    from pydantic import BaseModel

    class Answer(BaseModel):
        result: int

    parsed = client.responses.parse(input=QUESTION, text_format=Answer, **GREEDY)
    assert isinstance(parsed.output_parsed, Answer)


def test_a_call_that_is_asked_for_comes(client):
    choice = {"type": "function", "name": "get_weather"}
    for wanted in ("required", choice):
        response = ask(client, ASK_WEATHER, tools=TOOLS, tool_choice=wanted, max_output_tokens=300)
        assert response.output[-1].type == "function_call"
    none = ask(client, ASK_WEATHER, tools=TOOLS, tool_choice="none", max_output_tokens=100)
    assert all(item.type != "function_call" for item in none.output)


def test_effort_reaches_the_model(client):
    low, high = (
        ask(client, reasoning={"effort": effort, "summary": "auto"}) for effort in ("low", "high")
    )
    spent = [one.usage.output_tokens_details.reasoning_tokens for one in (low, high)]
    assert spent[0] < spent[1]
    assert high.reasoning.effort == "high"


def test_an_event_loops_client_gets_the_same(served):
    async def main():
        async with served.async_client() as client:
            stream = await client.responses.create(input=QUESTION, stream=True, **GREEDY)
            return [event async for event in stream]

    assert asyncio.run(main())[-1].response.output_text == "17 + 25 = 42"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"reasoning": {"effort": "minimal"}}, "reasoning.effort"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
    ],
)
def test_what_is_not_done_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, **options)
    assert raised.value.param == param
