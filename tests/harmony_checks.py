"""What must hold of any sequence of ids that is parsed, and short names for the parser's tests."""

import collections
import dataclasses

from gptoss_native import InvalidArgument
from gptoss_native.harmony import (
    Anomaly,
    Delta,
    Message,
    MessageEnd,
    MessageStart,
    Parser,
    Renderer,
    parse,
)

# What a model writes, and what comes before and after.
BEGIN = "<|start|>assistant"
ANSWER = "<|channel|>final<|message|>"
FINAL = BEGIN + ANSWER
THINK = "<|channel|>analysis<|message|>"
CALL = "<|channel|>commentary to=functions.f"


def assistant(content, channel=None, recipient=None, content_type=None, constrained=False):
    return Message("assistant", content, channel, recipient, content_type, constrained=constrained)


def final(content):
    return assistant(content, "final")


def analysis(content):
    return assistant(content, "analysis")


def text_bytes(tokenizer, ids):
    """Return the bytes of the ids that are ordinary tokens."""
    special = set(tokenizer.special.values())
    out = b""
    for token_id in ids:
        try:
            out += b"" if token_id in special else tokenizer.token_bytes(token_id)
        except InvalidArgument:
            continue
    return out


def visible(text):
    """Count the bytes of text, or of bytes, but not white space: headers do not keep it."""
    if isinstance(text, bytes):
        text = text.decode(errors="surrogateescape")
    return collections.Counter("".join(text.split()).encode(errors="surrogateescape"))


def has_written_role(tokenizer, ids, anomalies):
    """Whether a role stands in the ids before a content, and was taken for one."""
    starts = [n for n, token_id in enumerate(ids) if token_id == tokenizer.special["<|start|>"]]
    implied = {n for kind, n in anomalies if kind in ("no_role", "unknown_role", "missing_start")}
    return bool(starts) and not any(n >= starts[-1] for n in implied)


def accounted(tokenizer, ids, events):
    """Count the bytes that messages and anomalies hold of what was decoded."""
    out, before = collections.Counter(), 0
    kinds = [(event.kind, event.offset) for event in events if isinstance(event, Anomaly)]
    for event in events:
        if isinstance(event, Anomaly):
            out += visible(event.data)
        elif isinstance(event, MessageStart):
            # A role that is wrong at the very same id is the next header's.
            last = {"missing_start": event.offset}
            here = [
                (kind, n - before)
                for kind, n in kinds
                if before <= n <= last.get(kind, event.offset - 1)
            ]
            message = event.message
            if message.role == "tool":
                out += visible(message.name)
            elif has_written_role(tokenizer, ids[before : event.offset], here):
                out += visible(message.role + f":{message.name}" * (message.name is not None))
            out += visible(f"to={message.recipient}" * (message.recipient is not None))
            out += visible(message.channel or "") + visible(message.content_type or "")
        elif isinstance(event, MessageEnd):
            out += visible(event.message.content)
            before = event.offset
    return out


def check_contents(tokenizer, ids, events):
    """Each content is its tokens' text, each message's deltas are its content."""
    opened, deltas = None, []
    for event in events:
        if isinstance(event, MessageStart):
            opened, deltas = event, []
            assert event.message.content == ""
        elif isinstance(event, Delta):
            assert event.text
            header = opened.message
            assert (event.channel, event.recipient) == (header.channel, header.recipient)
            deltas.append(event.text)
        elif isinstance(event, MessageEnd):
            assert dataclasses.replace(event.message, content="") == opened.message
            assert "".join(deltas) == event.message.content
            if ids[opened.offset : opened.offset + 1] == [tokenizer.special["<|message|>"]]:
                data = text_bytes(tokenizer, ids[opened.offset : event.offset])
                assert event.message.content == data.decode(errors="replace")


def check_sequence(tokenizer, ids, role, cut=0):
    """Hold what a sequence gives against everything that is promised of any sequence."""
    parser = Parser(tokenizer, role)
    events, ends = [], []
    for token_id in ids:
        events += parser.push(token_id)
        ends.append(len(parser.messages))
    events += parser.finish()
    assert parser.finish() == []
    assert parser.offset == len(ids)
    assert [e.message for e in events if isinstance(e, MessageEnd)] == parser.messages
    assert [e for e in events if isinstance(e, Anomaly)] == parser.anomalies
    assert all(0 <= event.offset <= len(ids) for event in events)
    check_contents(tokenizer, ids, events)
    # No decoded byte is lost.
    lost = visible(text_bytes(tokenizer, ids)) - accounted(tokenizer, ids, events)
    assert not lost, lost
    # How the ids are cut changes nothing, and what was whole stays as it was.
    again = Parser(tokenizer, role)
    whole = again.feed(ids[:cut])
    assert again.messages == parser.messages[: ends[cut - 1] if cut else 0]
    assert [*whole, *again.feed(ids[cut:]), *again.finish()] == events
    # The messages are such as can be rendered, and they come back.
    messages = [m for m in parser.messages if m.recipient != "all"]
    rendered = Renderer(tokenizer).render(messages, analysis="all")
    back = parse(tokenizer, rendered, None)
    assert back.messages == messages
    assert {anomaly.kind for anomaly in back.anomalies} <= {"unknown_channel"}
