"""Sequences that models have been seen to write, and that broke a parser somewhere.

From the issue threads of openai/harmony, vLLM, llama.cpp and others: what is complete is kept, what
is odd is told, nothing raises.
"""

import harmony_oracle as oracle
import pytest
from gptoss_native.harmony import Anomaly, Message, Parser, parse
from harmony_checks import (
    ANSWER,
    BEGIN,
    CALL,
    FINAL,
    THINK,
    analysis,
    assistant,
    check_sequence,
    final,
)


@pytest.fixture(scope="module")
def tokenizer():
    return oracle.tokenizer()


JSON = {"content_type": "json", "constrained": True}
SEEN = {
    # name: (what came after <|start|>assistant, messages, anomalies)
    "stray return after a complete answer": (
        [200005, 17196, 200008, 17045, 200007, 200002],
        [final("Answer")],
        [("stray_token", 5, b"<|return|>")],
    ),
    "start written twice": (
        f"<|start|>{FINAL}x<|return|>",
        [final("x")],
        [("repeated_start", 0, b""), ("repeated_start", 0, b"")],
    ),
    "role written again": (
        f"assistant{FINAL}x<|return|>",
        [final("x")],
        [("repeated_start", 0, b"assistant")],
    ),
    "text after the end of the answer": (
        f"{ANSWER}x<|end|>tail",
        [final("x")],
        [("stray_token", 5, b"tail")],
    ),
    "text after return, and more of it": (
        f"{ANSWER}x<|return|>tail<|end|>s",
        [final("x")],
        [("stray_token", 5, b"tail<|end|>s")],
    ),
    "answer without a header after the thought": (
        f"{THINK}t<|end|>The answer is 4.<|return|>",
        [analysis("t"), assistant("The answer is 4.")],
        [("missing_start", 5, b""), ("no_message", 5, b"")],
    ),
    "channel without start": (
        f"{THINK}t<|end|>{ANSWER}x<|return|>",
        [analysis("t"), final("x")],
        [("missing_start", 5, b"")],
    ),
    "white space between messages": (
        f"{THINK}t<|end|>\n{FINAL}x<|return|>",
        [analysis("t"), final("x")],
        [("stray_token", 5, b"\n")],
    ),
    "empty channel": (
        "<|channel|><|message|>x<|return|>",
        [assistant("x")],
        [("empty_channel", 0, b"")],
    ),
    "no channel": ("<|message|>x<|return|>", [assistant("x")], []),
    "refusal without a header": (
        f"We must refuse.<|end|>{BEGIN}{THINK}We must  refuse.<|end|>{FINAL}Sorry<|return|>",
        [assistant("We must refuse."), analysis("We must  refuse."), final("Sorry")],
        [("no_message", 0, b"")],
    ),
    "refusal right after the channel": (
        "<|channel|>analysis I must  refuse<|end|>",
        [analysis("I must  refuse")],
        [("no_message", 0, b"")],
    ),
    "body in the header, glued to the channel": (
        "<|channel|>finalHello there.<|return|>",
        [final("Hello there.")],
        [("no_message", 0, b"")],
    ),
    "bare answer without markup": (
        ' {"a": 1}<|return|>',
        [assistant(' {"a": 1}')],
        [("no_message", 0, b"")],
    ),
    "bare answer, cut off": ("Hello", [assistant("Hello")], [("no_message", 0, b"")]),
    "free text after channel": (
        "<|channel|>I wonder what to do<|end|>",
        [assistant("I wonder what to do")],
        [("no_message", 0, b""), ("empty_channel", 0, b"")],
    ),
    "question marks after channel": (
        f"<|channel|>??<|end|>{FINAL}x<|return|>",
        [assistant("", "??"), final("x")],
        [("no_message", 0, b""), ("unknown_channel", 0, b"")],
    ),
    "commentary 2?": (
        "<|channel|>commentary 2?<|end|>",
        [assistant("2?", "commentary")],
        [("no_message", 0, b"")],
    ),
    "commentary?commentary?": (
        "<|channel|>commentary?commentary?<|end|>",
        [assistant("?commentary?", "commentary")],
        [("no_message", 0, b"")],
    ),
    "doubled header without message": (
        "<|channel|>commentary to=assistant<|channel|>commentary?<|end|>",
        [assistant("?", "commentary", "assistant")],
        [("no_message", 0, b""), ("repeated_channel", 0, b"commentary")],
    ),
    "doubled header": (
        f"<|channel|>commentary?{THINK}x<|end|>",
        [analysis("x")],
        [("repeated_channel", 0, b"commentary"), ("header_text", 0, b"?")],
    ),
    "dashes in the header": (
        f"–– commentary{THINK}x<|end|>",
        [analysis("x")],
        [("header_text", 0, "–– commentary".encode())],
    ),
    "channel glued to the tool's name": (
        " to=functions.ls<|channel|>commentary<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.ls")],
        [],
    ),
    "channel twice around the tool's name": (
        "<|channel|>commentary to=functions.ls<|channel|>commentary<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.ls")],
        [("repeated_channel", 0, b"commentary")],
    ),
    "constraint glued to the tool's name": (
        CALL + "<|constrain|>json<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.f", **JSON)],
        [],
    ),
    "constrained answer": (
        "<|channel|>final <|constrain|>response<|message|>{}<|return|>",
        [assistant("{}", "final", None, "response", True)],
        [],
    ),
    "call without call, at the end": (
        CALL + " <|constrain|>json<|message|>{}",
        [assistant("{}", "commentary", "functions.f", **JSON)],
        [],
    ),
    "call without message": (
        CALL + ' <|constrain|>json{"a":1}<|call|>',
        [assistant('{"a":1}', "commentary", "functions.f", **JSON)],
        [("no_message", 0, b"")],
    ),
    "call without message or constraint": (
        CALL + ' json{"a":1}<|call|>',
        [assistant('{"a":1}', "commentary", "functions.f", "json")],
        [("no_message", 0, b"")],
    ),
    "call without to=": (
        "<|channel|>commentary functions.f json<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.f", "json")],
        [("bare_recipient", 0, b"")],
    ),
    "two recipients": (
        " to=functions.a<|channel|>commentary to=functions.b<|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.b")],
        [("repeated_recipient", 0, b"to=functions.a")],
    ),
    "constraint without a type": (
        CALL + " <|constrain|><|message|>{}<|call|>",
        [assistant("{}", "commentary", "functions.f")],
        [("empty_type", 0, b"")],
    ),
    "answer right after the thought, by its channel": (
        f"{THINK}t{ANSWER}x<|return|>",
        [analysis("t"), final("x")],
        [("missing_end", 4, b"")],
    ),
    "answer right after the thought, by its start": (
        f"{THINK}t{FINAL}x<|return|>",
        [analysis("t"), final("x")],
        [("missing_end", 4, b"")],
    ),
    "control tokens in a content": (
        f"{ANSWER}a<|message|>b<|constrain|>c<|endoftext|>",
        [final("abc")],
        [
            ("stray_token", 4, b"<|message|>"),
            ("stray_token", 6, b"<|constrain|>"),
            ("stray_token", 8, b"<|endoftext|>"),
        ],
    ),
    "control tokens in a header": (
        "<|channel|>final<|endoftext|><|message|>x",
        [final("x")],
        [("stray_token", 2, b"<|endoftext|>")],
    ),
    "misspelled role": (
        f"{THINK}t<|end|><|start|>asistant<|channel|>final<|message|>x",
        [analysis("t"), final("x")],
        [("unknown_role", 5, b"asistant")],
    ),
    "no role": (
        f"{THINK}t<|end|><|start|><|channel|>final<|message|>x",
        [analysis("t"), final("x")],
        [("no_role", 5, b"")],
    ),
    "header cut off": (
        "<|channel|>final",
        [final("")],
        [("no_message", 0, b"")],
    ),
    "next role alone": (
        f"{THINK}t<|end|>{BEGIN}",
        [analysis("t")],
        [("empty_message", 5, b"assistant")],
    ),
    "only an end": ("<|return|>", [], [("empty_message", 0, b"")]),
    "nothing": ("", [], []),
    "unknown ids anywhere": (
        [-1, 200005, 17196, 2**70, 200008, 201088, 17045, 10**5000, 200007, 300000, 220, 200019.5],
        [final("Answer")],
        [("unknown_id", n, b"") for n in (0, 3, 5, 7, 9)]
        + [("stray_token", 10, b" "), ("unknown_id", 11, b"")],
    ),
    "a tool's answer, made up": (
        f"{CALL}<|message|>{{}}<|call|><|start|>functions.f to=assistant<|channel|>commentary"
        "<|message|>1<|end|>",
        [assistant("{}", "commentary", "functions.f"), Message.tool_result("functions.f", "1")],
        [],
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_sequence_seen_in_the_wild_gives_messages_and_anomalies(tokenizer, name):
    written, messages, anomalies = SEEN[name]
    ids = tokenizer.encode(written, allow_special=True) if isinstance(written, str) else written
    found = parse(tokenizer, ids)
    assert found.messages == messages
    assert found.anomalies == [Anomaly(*anomaly) for anomaly in anomalies]
    check_sequence(tokenizer, ids, "assistant")


def test_a_header_without_end_streams_as_text_and_nothing_of_it_is_lost(tokenizer):
    ids = tokenizer.encode("<|channel|>final" + " word" * 500, allow_special=True)
    parser = Parser(tokenizer)
    streamed = [bool(parser.push(token_id)) for token_id in ids]
    assert streamed.index(True) == 128
    assert all(streamed[128:])
    parser.finish()
    assert parser.messages == [final("word" + " word" * 499)]
    assert [anomaly.kind for anomaly in parser.anomalies] == ["no_message"]
