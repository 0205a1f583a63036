"""What a server allows, and what it says of itself."""

import dataclasses
import math
import re
from dataclasses import dataclass

from .._core import InvalidArgument
from ..json_fields import shown

_NAME = re.compile(r"[\w.:/@+-]{1,200}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server allows. Raises InvalidArgument naming the value and what was wanted."""

    model_name: str = "gpt-oss"  # what requests call the model
    api_keys: tuple[str, ...] = ()  # one of them is wanted of each request; none: no key is
    max_body_bytes: int = 4 << 20  # of a request
    max_context: int | None = None  # tokens of a conversation; None: the model's own limit
    max_output_tokens: int | None = None  # of an answer, where a request asks for more or none
    max_choices: int = 8  # `n` of a request, and prompts of a raw one
    request_timeout_s: float = 600.0  # for an answer, from its request's arrival
    body_timeout_s: float = 30.0  # for a request's body to arrive
    write_timeout_s: float = 30.0  # for a client to take what was sent, before it counts as gone
    retry_after_s: int = 1  # told to clients that are turned away
    shutdown_s: float = 30.0  # for answers to end, once the server is told to stop
    stored_responses: int = 1000  # kept for `previous_response_id`, those used last
    stored_bytes: int = 64 << 20  # that these may take together
    # By these names alone requests may call the server: a page elsewhere whose name points
    # here is kept out. None: by any.
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()  # from which browsers may ask; none but the page's own
    log_prompts: bool = False  # write what was asked into the log, too
    page: bool = True  # serve the chat page at /
    all_channels: bool = False  # name all three, as published examples do

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str) or not _NAME.fullmatch(self.model_name):
            _wrong("model_name", self.model_name, "a word of letters, digits and ._:/@+-")
        for name in ("api_keys", "allowed_hosts", "cors_origins"):
            values = getattr(self, name)
            listed = isinstance(values, list | tuple)
            if not listed or not all(isinstance(one, str) and one for one in values):
                # A key is no text for a message.
                _wrong(name, type(values).__name__, "texts that are not empty")
            object.__setattr__(self, name, tuple(values))
        # A header has no encoding: how a client would send other letters is anybody's guess.
        if not all(re.fullmatch(r"[!-~]+", key) for key in self.api_keys):
            wanted = "letters, digits and signs of ASCII without spaces"
            raise InvalidArgument(f"one of api_keys has other characters, wanted {wanted}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None or isinstance(value, bool | str | tuple):
                continue
            whole = not field.name.endswith("_s") or field.name == "retry_after_s"
            least = 0 if field.name.startswith(("stored", "shutdown")) else 1 if whole else 0.001
            kind = int if whole else int | float
            if not isinstance(value, kind) or not (math.isfinite(value) and value >= least):
                wanted = "an integer" if whole else "a number of seconds"
                _wrong(field.name, value, f"{wanted} from {least}")


def _wrong(name: str, value: object, wanted: str) -> None:
    raise InvalidArgument(f"{name} is {shown(value)}, wanted {wanted}")
