"""The published harmony form of a conversation's opening: one system and one user message."""

import datetime

from ._core import InvalidArgument
from .tokenizer import Tokenizer

EFFORTS = ("low", "medium", "high")
_SYSTEM = """You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06
Current date: {date}

Reasoning: {effort}

# Valid channels: analysis, commentary, final. Channel must be included for every message."""


def render_user(
    tokenizer: Tokenizer, text: str, *, effort: str = "medium", date: datetime.date | None = None
) -> list[int]:
    """Return the ids up to where the assistant begins to answer the user's text.

    Names of special tokens in the text stay plain text. effort: "low", "medium" or "high".
    date: what the system message calls the current date; today if None. Raises InvalidArgument,
    also for a tokenizer that has no harmony tokens.
    """
    if effort not in EFFORTS:
        raise InvalidArgument(f"effort is {effort!r}, wanted one of {', '.join(EFFORTS)}")
    lacking = {"<|start|>", "<|message|>", "<|end|>"} - tokenizer.special.keys()
    if lacking:
        raise InvalidArgument(f"the tokenizer has no {min(lacking)}: it is not made for harmony")
    start, message, end = (tokenizer.special[f"<|{name}|>"] for name in ("start", "message", "end"))
    encode = tokenizer.encode_ordinary
    system = _SYSTEM.format(date=(date or datetime.date.today()).isoformat(), effort=effort)
    ids = []
    for role, content in (("system", system), ("user", text)):
        ids += [start, *encode(role), message, *encode(content), end]
    return [*ids, start, *encode("assistant")]
