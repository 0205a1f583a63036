"""Which envelope a round has: made once for each choice of tools and each format of the answer."""

import threading
from collections.abc import Iterable
from typing import Any

from .._core import InvalidArgument
from ..json_fields import shown
from ..structured import Envelope, Format
from ..structured.formats import format_of
from ..tokenizer import Tokenizer
from .options import TurnOptions
from .toolbox import Toolbox

# Formats may differ from turn to turn without end.
_MOST_KEPT = 8


class Envelopes:
    """The envelopes of a chat and its forks. Safe to share by threads."""

    def __init__(
        self, tokenizer: Tokenizer, toolbox: Toolbox, *, strict: bool | Iterable[str], on: bool
    ) -> None:
        if not isinstance(on, bool):
            raise InvalidArgument(f"envelope is {shown(on)}, wanted True or False")
        self._tokenizer = tokenizer
        self._tools: list[Any] = [*toolbox.functions, *toolbox.namespaces]
        named = isinstance(strict, Iterable) and not isinstance(strict, str)
        self._strict = list(strict) if named else strict  # type: ignore[arg-type]
        self._on = on
        self._made: dict[tuple[str, bool, Format | None], Envelope] = {}
        self._lock = threading.Lock()

    def of(self, options: TurnOptions, called: bool = False) -> Envelope | None:
        """Return the envelope of a turn's first round, or of those after a call; None: none.

        Raises what `Envelope` raises, and InvalidArgument for what an absent one cannot hold to.
        """
        if not self._on:
            self._check_free(options)
            return None
        given = options.response_format
        form = None if given is None else format_of(given)
        choice = (options.after_call() if called else options).tool_choice
        parallel = options.parallel_tool_calls
        with self._lock:
            made = self._made.pop((choice, parallel, form), None) or Envelope(
                self._tokenizer,
                tools=self._tools,
                tool_choice=choice,
                parallel_tool_calls=parallel,
                response_format=form,
                strict=self._strict,
            )
            self._made[choice, parallel, form] = made  # the last used is the last to go
            while len(self._made) > _MOST_KEPT:
                del self._made[next(iter(self._made))]
            return made

    def check(self, options: TurnOptions) -> None:
        """Raise what any round of such a turn would raise."""
        self.of(options)
        self.of(options, called=True)

    def _check_free(self, options: TurnOptions) -> None:
        """Without an envelope a schema can be told, and nothing else be asked for."""
        form, choice = options.response_format, options.tool_choice
        for name, value, held in (
            ("tool_choice", choice, choice != "auto"),
            ("parallel_tool_calls", True, options.parallel_tool_calls),
            ("strict", self._strict, bool(self._strict)),
            ("response_format", form, isinstance(form, Format)),
        ):
            if held:
                raise InvalidArgument(f"{name} is {shown(value)}, wanted envelope=True with it")
