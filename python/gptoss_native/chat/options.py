"""How a turn is to go."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core import InvalidArgument
from ..harmony import CHANNELS, ResponseFormat
from ..json_fields import shown
from ..sampling import Sampling
from ..structured import Format
from .opening import response_format_of

SCOPES = (*CHANNELS, "all")


@dataclass(frozen=True, kw_only=True)
class TurnOptions:
    """How turns go: a chat's for all of its turns, where `Chat.send` does not say otherwise.

    Raises InvalidArgument naming the value and what was wanted.
    """

    sampling: Sampling | None = None  # None: Sampling(), the model's own distribution
    max_new_tokens: int | None = None  # of the whole turn; None: as many as the context holds
    # Reasoning longer than this is ended and the answer begun; over all rounds of the turn.
    max_reasoning_tokens: int | None = None
    # Reasoning whose last so many tokens are one stretch, four times or more, is ended likewise.
    cycle_tokens: int | None = None
    stop: Sequence[str] = ()  # strings that end the turn; they are not part of the text
    # Where: "final", "analysis", "commentary", or "all", which has calls' arguments too.
    stop_scope: str | Iterable[str] = "final"
    # "auto"; "none"; "required", or a tool's name: the model calls, and goes on as with "auto".
    tool_choice: str = "auto"
    # True: the model may call several tools at a time. It says that it has no more calls by
    # beginning a tool's answer, which is no part of the turn, or by repeating one. The models were
    # trained to stop after a call: see what yours makes of it.
    parallel_tool_calls: bool = False
    # What `final` follows: a schema, which the model is also told, or a structured.Format, which
    # it is not.
    response_format: ResponseFormat | Format | Mapping[str, Any] | None = None
    run_tools: bool = True  # False: calls are left to the caller
    max_tool_rounds: int = 32  # how often results go back to the model in one turn
    timeout: float | None = None  # seconds for the turn, from its first token being asked for
    priority: int = 0  # -1000 to 1000; more goes first where not all can go on
    lookup: bool = True  # tokens are guessed where that pays; what is written is the same

    def __post_init__(self) -> None:
        if not isinstance(self.sampling, Sampling | None):
            _wrong("sampling", self.sampling, "a Sampling or None")
        for name, least in (
            ("max_new_tokens", 1),
            ("max_reasoning_tokens", 0),
            ("cycle_tokens", 4),
        ):
            value = getattr(self, name)
            if value is not None and not (_is_integer(value) and value >= least):
                _wrong(name, value, f"an integer from {least}, or None")
        if not (_is_integer(self.max_tool_rounds) and self.max_tool_rounds >= 0):
            _wrong("max_tool_rounds", self.max_tool_rounds, "an integer from 0")
        if not (_is_integer(self.priority) and -1000 <= self.priority <= 1000):
            _wrong("priority", self.priority, "an integer from -1000 to 1000")
        for name in ("parallel_tool_calls", "run_tools", "lookup"):
            if not isinstance(getattr(self, name), bool):
                _wrong(name, getattr(self, name), "True or False")
        if not isinstance(self.tool_choice, str):
            _wrong("tool_choice", self.tool_choice, "auto, none, required or a tool's name")
        object.__setattr__(self, "response_format", response_format_of(self.response_format))
        self._check_timeout()
        self._check_stops()

    def _check_timeout(self) -> None:
        value = self.timeout
        if value is None:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (math.isfinite(value) and value > 0):
            _wrong("timeout", value, "seconds above 0, or None")

    def _check_stops(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else _listed("stop", self.stop)
        for string in stop:
            if not isinstance(string, str) or not string:
                _wrong("one of stop", string, "a string, not empty")
        object.__setattr__(self, "stop", stop)
        scope = self.stop_scope
        scope = (scope,) if isinstance(scope, str) else _listed("stop_scope", scope)
        for name in scope:
            if name not in SCOPES:
                _wrong("one of stop_scope", name, f"one of {', '.join(SCOPES)}")
        object.__setattr__(self, "stop_scope", scope)

    @property
    def wants_json(self) -> bool:
        """Whether the answer is to be a JSON document."""
        form = self.response_format
        return form.is_json if isinstance(form, Format) else form is not None

    def after_call(self) -> "TurnOptions":
        """Return these options for what follows a call that was asked for: nothing more is."""
        choice = self.tool_choice if self.tool_choice == "none" else "auto"
        return dataclasses.replace(self, tool_choice=choice)

    def with_changes(self, changes: dict[str, Any]) -> "TurnOptions":
        """Return these options with others in their place.

        Raises InvalidArgument, also for a name that is no option.
        """
        known = {field.name for field in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                names = ", ".join(sorted(known))
                raise InvalidArgument(f"there is no option {name}; wanted one of {names}")
        return dataclasses.replace(self, **changes)


def _wrong(name: str, value: object, wanted: str) -> None:
    raise InvalidArgument(f"{name} is {shown(value)}, wanted {wanted}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(name: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, Iterable):
        _wrong(name, values, "strings")
    return tuple(values)  # type: ignore[arg-type]
