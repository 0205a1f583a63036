"""What a message of the model is to a client: reasoning, a call, a preamble, or the answer."""

from typing import Any, Literal

from .._core import InvalidArgument
from ..chat import TokenEvent
from ..harmony import Message
from ..tokenizer import Tokenizer

Kind = Literal["reasoning", "call", "preamble", "answer"]


def kind_of(message: Message) -> Kind:
    """Return what a message is. A channel that does not exist is taken for the answer's."""
    if message.recipient not in (None, "all", "assistant", "user"):
        return "call"
    if message.channel == "analysis":
        return "reasoning"
    return "preamble" if message.channel == "commentary" else "answer"


def function_name(message: Message) -> str:
    return (message.recipient or "").removeprefix("functions.")


def logprob_of(tokenizer: Tokenizer, event: TokenEvent) -> dict[str, Any]:
    """Return a token's log-probability in OpenAI's form."""
    top = [_token(tokenizer, token_id) | {"logprob": p} for token_id, p in event.top_logprobs]
    logprob = 0.0 if event.logprob is None else event.logprob
    return _token(tokenizer, event.id) | {"logprob": logprob, "top_logprobs": top}


def _token(tokenizer: Tokenizer, token_id: int) -> dict[str, Any]:
    data = token_bytes(tokenizer, token_id)
    return {"token": data.decode(errors="replace"), "bytes": list(data)}


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Return a token's bytes, none for an id of no token: published vocabularies are padded."""
    try:
        return tokenizer.token_bytes(token_id)
    except InvalidArgument:
        return b""
