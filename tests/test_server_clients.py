"""Clients that others wrote: the agents SDK, and the requests of gpt-oss's compatibility test."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from served import SUNNY, WEATHER, chat_tools, response_tools


def schema(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


FUNCTIONS = [
    {"name": "get_system_health", "description": "Returns the health.", "parameters": schema()},
    {
        "name": "get_weather",
        "description": "Gets the weather.",
        "parameters": schema(
            location={"type": "string", "maxLength": 12},  # a model asked for what it never saw
            format={"type": "string", "enum": ["c", "f"]},
        ),
    },
    {
        "name": "send_email",
        "description": "Sends an e-mail.",
        "parameters": schema(
            to={"type": "string", "maxLength": 12}, body={"type": "string", "maxLength": 12}
        ),
    },
    {
        "name": "generate_chart",
        "description": "Makes a chart.",
        "parameters": schema(
            data={"type": "array", "items": {"type": "number"}, "maxItems": 3},
            kind={"type": "string", "enum": ["bar", "line"]},
        ),
    },
    {
        "name": "query_database",
        "description": "Reads a table.",
        "parameters": schema(
            table={"type": "string", "enum": ["a", "b"]}, limit={"type": "integer"}
        ),
    },
]


def checked(function, arguments):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(arguments), function["parameters"])


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one["name"])
@pytest.mark.parametrize("stream", [False, True])
def test_each_tool_can_be_called_by_both_interfaces(served, function, stream):
    name = function["name"]
    with served.client() as client:
        options = {"model": "demo", "temperature": 0, "stream": stream}
        messages = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Is the service up?"},
        ]
        choice = {"type": "function", "function": {"name": name}}
        tools = chat_tools(*FUNCTIONS, strict=True)
        extra = {"extra_body": {"max_reasoning_tokens": 20}}
        made = client.chat.completions.create(
            messages=messages,
            tools=tools,
            tool_choice=choice,
            max_completion_tokens=300,
            **options,
            **extra,
        )
        if stream:
            deltas = [c.choices[0].delta for c in made if c.choices]
            calls = [call for delta in deltas for call in delta.tool_calls or ()]
            assert calls[0].function.name == name
            arguments = "".join(call.function.arguments or "" for call in calls)
        else:
            ChatCompletion.model_validate(made.to_dict())
            (call,) = made.choices[0].message.tool_calls
            assert call.function.name == name
            arguments = call.function.arguments
        checked(function, arguments)
        made = client.responses.create(
            input="Is the service up?",
            instructions="You are a helpful assistant.",
            tools=response_tools(*FUNCTIONS, strict=True),
            tool_choice={"type": "function", "name": name},
            max_output_tokens=600,
            **options,
        )
        if stream:
            made = list(made)[-1].response
        Response.model_validate(made.to_dict())
        if made.status == "completed":
            assert made.output[-1].name == name
            checked(function, made.output[-1].arguments)


@pytest.mark.parametrize("interface", ["chat", "responses"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_agents_sdk_runs_its_loop(served, interface, streamed):
    agents = pytest.importorskip("agents", reason="needs the package openai-agents")
    agents.set_tracing_disabled(True)
    asked = []

    async def invoke(_, arguments):
        asked.append(json.loads(arguments))
        return SUNNY

    tool = agents.FunctionTool(
        name="get_weather",
        description=WEATHER["description"],
        params_json_schema=WEATHER["parameters"],
        on_invoke_tool=invoke,
    )
    kinds = {
        "chat": agents.OpenAIChatCompletionsModel,
        "responses": agents.OpenAIResponsesModel,
    }

    async def main():
        async with served.async_client() as client:
            agent = agents.Agent(
                name="a",
                model=kinds[interface](model="demo", openai_client=client),
                tools=[tool],
                model_settings=agents.ModelSettings(temperature=0, include_usage=True),
            )
            question = "What is the weather in Zurich?"
            if not streamed:
                return await agents.Runner.run(agent, question)
            result = agents.Runner.run_streamed(agent, question)
            async for _ in result.stream_events():
                pass
            return result

    result = asyncio.run(main())
    assert asked == [{"city": "Zurich"}]
    assert "21" in result.final_output
    assert sum(one.usage.output_tokens for one in result.raw_responses) > 20


def test_schemathesis_finds_no_failure_of_the_server(served):
    pytest.importorskip("schemathesis", reason="needs the package schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"]
    options = [
        "--checks",
        "not_a_server_error",
        "-n",
        "60",
        "--request-timeout",
        "30",
        "--seed",
        "1",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_the_client_for_node_follows(served):
    node = shutil.which("node")
    modules = os.environ.get("NODE_MODULES", "")
    if node is None or not (Path(modules) / "openai").is_dir():
        pytest.skip("needs node, and NODE_MODULES naming a node_modules folder with openai")
    script = Path(__file__).parent / "openai_client.mjs"
    command = [node, script, served.url, modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["whole"] == told["streamed"] == told["response"] == "17 + 25 = 42"
    assert told["city"] == "Zurich"
    assert "21" in told["tools"]
    assert told["events"][0] == "response.created"
    assert "response.output_text.delta" in told["events"]  # how many there are is a matter of time
    assert told["events"][-1] == "response.completed"
    assert told["error"] == [400, "temperature"]
    assert told["person"] == ["name", "grown"]
    assert "42" in told["reasoning"]
    assert "21" in told["stored"]
    assert 0 < told["raw"] <= 4
