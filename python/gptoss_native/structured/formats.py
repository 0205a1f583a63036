"""What a text has to be: a JSON schema, a regular expression, a Lark grammar, one of some choices.

llguidance compiles them and computes the masks. It reports errors as state, never by raising; they
are asked for here and raised before anything is generated.
"""

import contextlib
import json
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._core import Error, InvalidArgument
from ..harmony import ResponseFormat
from ..json_fields import shown
from ..tokenizer import Tokenizer
from .schema_keys import broken_key

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_NEEDS = "structured output needs llguidance: pip install 'gptoss-native[structured]'"
# Between the parts of a document a space, or a line break and an indentation: with any white space
# a model can go on for ever without a further part.
_JSON_OPTIONS = {
    "whitespace_pattern": r"( |\n {0,64})?",
    # One spelling for each character: a key that is told apart from `properties` by its spelling
    # could be one of them in other escapes. Control characters have none (`schema_keys`).
    "json_allowed_escapes": '"\\bfnrt',
    "lenient": False,
    "coerce_one_of": False,
}


@dataclass(frozen=True)
class Format:
    """What a text has to be. Made by `json_schema`, `regex`, `lark` and `choice`."""

    kind: str
    source: str

    @property
    def is_json(self) -> bool:
        return self.kind == "JSON schema"


def json_schema(schema: Mapping[str, Any] | ResponseFormat) -> Format:
    """Return the format of JSON documents that a schema allows.

    Properties come in the schema's order. Keys that cannot be followed are refused where a
    constraint is made of it. Raises InvalidArgument for what is no schema.
    """
    if not isinstance(schema, ResponseFormat):
        schema = ResponseFormat("schema", schema)
    return Format("JSON schema", json.dumps(schema.schema))


def regex(pattern: str) -> Format:
    """Return the format of texts that match as a whole, in the syntax of Rust's regex crate."""
    return Format("regular expression", _text("a regular expression", pattern))


def lark(grammar: str) -> Format:
    """Return the format of a Lark grammar, in llguidance's dialect; its rule `start` is the text.

    Control tokens are no part of a text, and cannot be named.
    """
    return Format("Lark grammar", _text("a Lark grammar", grammar))


def choice(options: Iterable[str]) -> Format:
    """Return the format of one of some texts, as it is. Raises InvalidArgument for none."""
    texts = [] if isinstance(options, str) or not isinstance(options, Iterable) else list(options)
    if not texts:
        raise InvalidArgument(f"choices are {shown(options)}, wanted texts")
    quoted = (json.dumps(_text("a choice", text), ensure_ascii=False) for text in texts)
    return Format("choice", "start: " + " | ".join(quoted))


def format_of(value: object) -> Format:
    """Return a Format, ResponseFormat or JSON schema as a Format. Raises InvalidArgument."""
    if isinstance(value, Format):
        return value
    if isinstance(value, Mapping | ResponseFormat):
        return json_schema(value)
    wanted = "a structured.Format, a harmony.ResponseFormat or a JSON schema"
    raise InvalidArgument(f"the format is {shown(value)}, wanted {wanted}")


def _text(what: str, value: object) -> str:
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidArgument(f"{what} is {shown(value)}, wanted text without lone surrogates")


def _first_lines(message: str) -> str:
    """Return what an error says, without the traces and the texts that follow."""
    return message.partition("\n<")[0].strip()


def compiled(tokenizer: Tokenizer, what: str, form: Format) -> "LLMatcher":
    """Return a matcher at the beginning of such a text, to be copied for each.

    `what` names its place in errors. Raises InvalidArgument for a grammar that is none, or a schema
    with keys that cannot be followed, which it names; Error if llguidance is not installed.
    """
    vocabulary = _vocabulary(tokenizer)
    from llguidance import LLMatcher

    if form.kind == "JSON schema":
        if (why := broken_key(json.loads(form.source))) is not None:
            raise InvalidArgument(f"{what}: the {form.kind} cannot be followed: {why}")
        grammar = LLMatcher.grammar_from_json_schema(form.source, overrides=_JSON_OPTIONS)
    elif form.kind == "regular expression":
        grammar = LLMatcher.grammar_from_regex(form.source)
    else:
        grammar = LLMatcher.grammar_from_lark(form.source)
    matcher = LLMatcher(vocabulary, grammar, log_level=0)
    if matcher.is_error():
        why = _first_lines(matcher.get_error())
        raise InvalidArgument(f"{what}: the {form.kind} cannot be followed: {why}")
    return matcher


def check(matcher: "LLMatcher") -> None:
    """Raise Error if a matcher has come to an error of its own, as a limit of its parser."""
    if matcher.is_error():
        raise Error(f"the grammar cannot go on: {_first_lines(matcher.get_error())}")


class _Words:
    """A tokenizer as llguidance wants it. Control tokens get names that no grammar can know."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special.values())
        self.special_token_ids = sorted(special)
        self.eos_token_id = self.special_token_ids[0]
        self.tokens = []
        for token_id in range(tokenizer.vocab_size):
            data = b""
            if token_id in special:
                data = b"<|control-%d|>" % token_id
            else:
                with contextlib.suppress(InvalidArgument):  # an id of no token
                    data = tokenizer.token_bytes(token_id)
            self.tokens.append(data)
        # What is kept by the tokenizer must not keep it.
        self._tokenizer = weakref.ref(tokenizer)

    def __call__(self, text: bytes) -> list[int]:
        tokenizer = self._tokenizer()
        return [] if tokenizer is None else tokenizer.encode_ordinary(text.decode())


_known: "weakref.WeakKeyDictionary[Tokenizer, LLTokenizer]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _vocabulary(tokenizer: Tokenizer) -> "LLTokenizer":
    """Return the tokenizer's words for llguidance, made once (1 s for 201,088 tokens)."""
    try:
        from llguidance import LLTokenizer, TokenizerWrapper
    except ImportError as error:
        raise Error(_NEEDS) from error
    with _lock:
        if tokenizer not in _known:
            _known[tokenizer] = LLTokenizer(TokenizerWrapper(_Words(tokenizer)))
        return _known[tokenizer]
