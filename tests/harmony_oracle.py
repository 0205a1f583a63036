"""openai-harmony as the oracle of rendering and parsing, and a tokenizer over its vocabulary."""

import functools
import json
import os
import pathlib
import tempfile

import pytest
from gptoss_native import harmony
from gptoss_native.tokenizer import Tokenizer
from o200k import O200K_SPECIAL, as_tokenizer_json, o200k_ranks, o200k_text

oh = pytest.importorskip("openai_harmony")

NAMED = {"<|constrain|>": 200003} | O200K_SPECIAL
FREE = set(range(199998, 201088)) - set(NAMED.values())
SPECIAL = NAMED | {f"<|reserved_{token_id}|>": token_id for token_id in sorted(FREE)}


@functools.cache
def tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "tokenizer.json")
        file.write_text(json.dumps(as_tokenizer_json(o200k_ranks(), SPECIAL)))
        return Tokenizer.from_file(file)


@functools.cache
def encoding():
    """Return openai-harmony's encoding, its vocabulary read from a file and not downloaded."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        pathlib.Path(folder, "o200k_base.tiktoken").write_bytes(o200k_text())
        patch.setitem(os.environ, "TIKTOKEN_ENCODINGS_BASE", folder)
        return oh.load_harmony_encoding("HarmonyGptOss")


# Their objects from ours


def as_tool(tool):
    return oh.ToolDescription.new(tool.name, tool.description, parameters=tool.parameters)


def as_namespace(space):
    tools = [as_tool(tool) for tool in space.tools]
    return oh.ToolNamespaceConfig(name=space.name, description=space.description, tools=tools)


def as_system(content):
    return oh.SystemContent(
        model_identity=content.identity,
        reasoning_effort=content.effort and content.effort.capitalize(),
        conversation_start_date=content.date,
        knowledge_cutoff=content.knowledge_cutoff,
        channel_config=oh.ChannelConfig.require_channels(list(content.channels)),
        tools={space.name: as_namespace(space) for space in content.tools},
    )


def as_developer(content):
    out = oh.DeveloperContent(instructions=content.instructions)
    return out.with_function_tools(map(as_tool, content.tools)) if content.tools else out


def as_message(message):
    content = message.content
    if isinstance(content, harmony.SystemContent):
        content = as_system(content)
    elif isinstance(content, harmony.DeveloperContent):
        content = as_developer(content)
    author = oh.Author(role=message.role, name=message.name)
    out = oh.Message.from_author_and_content(author, content)
    out.channel, out.recipient = message.channel, message.recipient
    if message.content_type is not None:
        out.content_type = "<|constrain|>" * message.constrained + message.content_type
    return out


def conversation(messages):
    return oh.Conversation.from_messages([as_message(message) for message in messages])


def render(messages, analysis="auto"):
    config = oh.RenderConversationConfig(auto_drop_analysis=analysis == "auto")
    return encoding().render_conversation(conversation(messages), config)


# Our objects from theirs


def from_message(message):
    """Return our message for one of text that openai-harmony has parsed."""
    (content,) = message.content
    kind = message.content_type
    return harmony.Message(
        message.author.role.value,
        content.text,
        channel=message.channel,
        recipient=message.recipient,
        content_type=kind and kind.removeprefix("<|constrain|>"),
        name=message.author.name,
        constrained=bool(kind and kind.startswith("<|constrain|>")),
    )


def parse(ids, role="assistant"):
    role = role and oh.Role(role)
    parsed = encoding().parse_messages_from_completion_tokens(ids, role)
    return [from_message(message) for message in parsed]
