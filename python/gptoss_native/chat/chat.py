"""A conversation with a model: what the caller holds."""

import dataclasses
import datetime
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

from .._core import InvalidArgument
from ..closing import Closing
from ..constraint import Constraint
from ..harmony import Message, Renderer, SystemContent
from ..harmony.render import special_id
from ..json_fields import shown
from ..model import Model
from ..session import Session, checked_path
from ..stream import Stream
from ..tokenizer import Tokenizer
from ..tools.run import ToolLimits
from .envelopes import Envelopes
from .events import answer_to
from .history import Entry, History, checked_messages, rewind_to, unanswered
from .opening import Opening
from .options import TurnOptions
from .play import Play
from .reply import Reply
from .saved import SavedChat, read_chat, remove_session, session_path, write_chat
from .toolbox import Toolbox
from .turn import Turn

_NOT_RUN = "Error: the call was not run."


class Chat(Closing):
    """A conversation with a model in the harmony format, with tools. A context manager.

    model: a Model. reasoning_effort: "low", "medium" or "high", told in the system message.
    instructions: of the developer. tools: Python functions, `Tool`s, or, for the caller to run,
    `harmony.ToolDescription`s and `ToolNamespace`s. max_context: in tokens, the model's own limit.
    system: what the system message says besides effort; the published text with today's date if
    None. tool_limits: what one call may take. tokenizer: instead of the model's own. Other options
    are those of `TurnOptions`, for every turn that does not say otherwise; of them `tool_choice`
    and `response_format` say what the model may write.

    envelope: turns are whole messages to declared tools (`structured.Envelope`); False: the model
    writes what it likes, and is only told of a format. strict: the tools whose arguments follow
    their schemas: all, none, or these names. These and formats need the extra `structured`.

    The history is kept as the ids that the model has seen and written. Reasoning stays through a
    turn's calls and is left out of the context once there is an answer, as the models were trained.
    Only what the cache lacks is computed: `reply.usage` shows it. One turn goes on at a time; one
    that is begun ends the one before it. Not for several threads at a time; `Turn.cancel` is.

    Raises InvalidArgument naming what was given and wanted, as a schema's key that cannot be
    followed; CheckpointError for a model without a tokenizer; Error where an extra is missing.
    """

    def __init__(
        self,
        model: Model,
        *,
        reasoning_effort: str = "medium",
        instructions: str | None = None,
        tools: Iterable[Any] = (),
        strict: bool | Iterable[str] = False,
        envelope: bool = True,
        max_context: int | None = None,
        system: SystemContent | None = None,
        tool_limits: ToolLimits | None = None,
        tokenizer: Tokenizer | None = None,
        **options: Any,
    ) -> None:
        if reasoning_effort is None or not isinstance(system, SystemContent | None):
            given = f"reasoning_effort {shown(reasoning_effort)} and system {shown(system)}"
            raise InvalidArgument(f"{given}, wanted an effort, and a SystemContent or None")
        if not isinstance(tool_limits, ToolLimits | None):
            raise InvalidArgument(f"tool_limits is {shown(tool_limits)}, wanted ToolLimits or None")
        self._options = TurnOptions().with_changes(options)
        self.tokenizer = model.tokenizer if tokenizer is None else tokenizer
        self.renderer = Renderer(self.tokenizer)
        self.tool_limits = tool_limits or ToolLimits()
        self.reasoning_effort = reasoning_effort
        system = system or SystemContent(date=datetime.date.today())
        self._told = {"instructions": instructions, "system": system}
        self.toolbox = Toolbox(tools, system.tools)
        spaces = tuple(self.toolbox.namespaces)
        system = dataclasses.replace(system, effort=reasoning_effort, tools=spaces)
        self._opening = Opening(system, instructions, self.toolbox.functions)
        opening = self._opening.messages(self._options.response_format)
        self._history = History(self.renderer, opening)
        self.envelopes = Envelopes(self.tokenizer, self.toolbox, strict=strict, on=envelope)
        self.envelopes.check(self._options)
        names = ("return", "call")
        own = [special_id(self.tokenizer, name) for name in names]
        every = [*own, *(token for token in model.stop_ids if token not in own)]
        # Where calls may follow each other, a call ends no stream.
        self._stop_ids = every, [token for token in every if token != own[1]]
        # What ends the reasoning and begins the answer: the ids of "<|end|>", then a `final`.
        end, channel, message = (
            special_id(self.tokenizer, name) for name in ("end", "channel", "message")
        )
        begun, final = self.renderer.render_for_completion([]), self.tokenizer.encode("final")
        self.to_answer = (end, *begun, channel, *final, message)
        self._call_numbers = itertools.count(1)
        self._turn: Turn | None = None
        self._session = model.session(max_context=max_context)

    # Talking

    def send(self, messages: str | Message | Iterable[Message | Entry], **options: Any) -> Turn:
        """Begin a turn: what the user says, or any messages, such as answers to calls.

        An Entry, as another chat's `entries` has it, is taken with the ids that it has.

        Returns the turn, which does its work while its events, or its reply, are asked for:
        `for event in chat.send(...)`, `chat.send(...).reply`, and in an event loop `async for` and
        `await`. options: of TurnOptions, for this turn. A turn that still goes on is ended. Calls
        left without an answer are answered as not run, unless the messages have a tool's. Where
        they end in one, the chat's tool_choice has had its call, and counts no more. A turn's own
        response_format is told in the opening: the context is computed anew from there.

        Raises InvalidArgument, also where the conversation leaves no room in the context; Error.
        """
        given = checked_messages(messages)
        changed = self._options.with_changes(options)
        incoming = self._history.rendered(given)
        if incoming[-1].message.role == "tool" and "tool_choice" not in options:
            changed = changed.after_call()
        return self._begin(incoming, changed)

    def asend(self, messages: str | Message | Iterable[Message], **options: Any) -> Turn:
        """Do what `send` does; the turn is for `async for` and `await` as well as for threads."""
        return self.send(messages, **options)

    def ask(self, messages: str | Message | Iterable[Message], **options: Any) -> Reply:
        """Send, and return the reply: `chat.ask("What is 17 + 25?").text`. Arguments as `send`."""
        return self.send(messages, **options).reply

    def edit(self, index: int, text: str, **options: Any) -> Turn:
        """Say something else at an earlier turn and go on from there.

        index: in `messages`, of a user's message; it and what followed are dropped once the new
        turn begins to be read. What stands before it is found in the cache. `fork` first keeps
        both. Raises InvalidArgument; options and errors otherwise as `send`.
        """
        self._check_index(index)
        if self.messages[index].role != "user":
            role = self.messages[index].role
            raise InvalidArgument(f"message {index} is the {role}'s, wanted the user's")
        incoming = self._history.rendered([Message("user", text)])
        changed = self._options.with_changes(options)
        return self._begin(incoming, changed, index)

    def rewind(self, index: int) -> None:
        """Drop the messages from `index` on. Raises InvalidArgument."""
        self._end_turn()
        if index != len(self.messages):
            self._check_index(index)
        del self._history.entries[index:]

    def fork(self) -> "Chat":
        """Return another chat that has said the same and goes on by itself.

        Options and tools are shared; of a turn that still goes on it has what is whole. Raises what
        `Session.fork` raises.
        """
        session = self._session.fork()
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._session, twin._history, twin._turn = session, self._history.copy(), None
        twin._call_numbers = itertools.count(next(self._call_numbers))
        return twin

    def save(self, path: str | os.PathLike[str], *, cache: bool = True) -> None:
        """Write the conversation to a file, to go on with by `load`.

        It is JSON: the messages, effort, instructions and system message; not the tools and other
        options. cache: the session too, in `path` + ".session" (`Session.save`), so that little is
        computed again. Of a turn that still goes on it has what is whole. Each file appears when it
        is whole. Raises Error if one cannot be written, and what `Session.save` raises.
        """
        name = checked_path(path)
        if cache:
            self._session.save(session_path(name))
        else:
            remove_session(name)
        number = next(self._call_numbers)
        self._call_numbers = itertools.count(number)
        opening = {"reasoning_effort": self.reasoning_effort, **self._told}
        saved = SavedChat(opening, self._history.entries, number)
        write_chat(name, saved, self.tokenizer)

    @classmethod
    def load(
        cls, model: Model, path: str | os.PathLike[str], *, cache: bool = True, **options: Any
    ) -> "Chat":
        """Return the conversation of a file that `save` wrote.

        options: those of Chat; the tools are to be given again, effort, instructions and system
        message are the file's if they are not. cache: use the session's file where there is one;
        False, as for another model: what the model is to see is computed when a turn begins.

        Raises CheckpointError naming the file if it is no conversation, or one of them is damaged
        or, of the session, another model's; what Chat and `Model.load_session` raise.
        """
        name = checked_path(path)
        tokenizer = options.get("tokenizer")
        saved = read_chat(name, model.tokenizer if tokenizer is None else tokenizer)
        chat = cls(model, **saved.opening | options)
        chat._history.entries = saved.entries
        chat._call_numbers = itertools.count(saved.next_call)
        if cache and os.path.lexists(session_path(name)):
            chat._session.close()
            chat._session = model.load_session(session_path(name))
            most = options.get("max_context")
            if most not in (None, chat.max_context):
                what = f"max_context is {shown(most)}, the saved session's {chat.max_context}"
                raise InvalidArgument(f"{what}; wanted that, or cache=False")
        return chat

    # Looking

    @property
    def messages(self) -> list[Message]:
        """The conversation without its opening; reasoning that is no longer shown is there too."""
        return [entry.message for entry in self._history.entries]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The same with the ids that the model has seen or written."""
        return tuple(self._history.entries)

    @property
    def opening(self) -> tuple[Message, ...]:
        """The system message, and the developer's if there is one."""
        return self._history.opening

    @property
    def context(self) -> list[int]:
        """The ids after which the model would write now."""
        return self._history.context(self._history.entries)

    @property
    def max_context(self) -> int:
        return self._session.max_context

    @property
    def session(self) -> Session:
        """The session with the cache. What it holds is only ever what need not be computed."""
        return self._session

    def close(self) -> None:
        """Free the cache now; turns raise InvalidArgument afterwards."""
        if self._turn is not None:
            self._turn.close()
        self._session.close()

    @property
    def closed(self) -> bool:
        return self._session.closed

    # For a turn

    def start_stream(
        self,
        wanted: Sequence[int],
        options: TurnOptions,
        constraint: Constraint | None,
        *,
        max_new_tokens: int,
        timeout: float | None,
    ) -> Stream:
        """Return a stream of what the model writes after the ids: all generation begins here."""
        return self._session.generate(
            rewind_to(self._session, wanted),
            max_new_tokens=max_new_tokens,
            sampling=options.sampling,
            stop_ids=self._stop_ids[options.parallel_tool_calls],
            constraint=constraint,
            priority=options.priority,
            timeout=timeout,
            lookup=options.lookup,
        )

    def context_for(self, options: TurnOptions, entries: Sequence[Entry]) -> list[int]:
        """Return the ids after which the model writes in such a turn."""
        return self._history.context(entries, self._opening.messages(options.response_format))

    def turn_over(self, play: Play) -> None:
        """Let go of a turn that has ended: a chat that is dropped gives its cache back at once."""
        if self._turn is not None and self._turn.plays(play):
            self._turn = None

    def next_call_id(self) -> str:
        return f"call_{next(self._call_numbers)}"

    def _check_index(self, index: int) -> None:
        count = len(self._history.entries)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            wanted = f"one of the {count} messages, from 0"
            raise InvalidArgument(f"index is {shown(index)}, wanted {wanted}")

    def _end_turn(self) -> None:
        turn = self._turn
        if turn is not None and turn.is_read:
            what = "another turn of this chat is being read"
            raise InvalidArgument(f"{what}; wanted it to have ended: cancel() it, or fork() first")
        if turn is not None:
            turn.close()
        self._turn = None

    def _begin(self, incoming: list[Entry], options: TurnOptions, index: int | None = None) -> Turn:
        """Return a turn that goes on, after the first `index` messages, with what was sent."""
        self._end_turn()
        before = self._history.entries[:index]
        if not any(entry.message.role == "tool" for entry in incoming):
            lacking = [answer_to(call, _NOT_RUN) for call in unanswered(before)]
            incoming = [*self._history.rendered(lacking), *incoming]
        self.envelopes.check(options)
        taken = len(self.context_for(options, [*before, *incoming]))
        if taken >= self.max_context:
            what = f"the conversation has {taken} tokens with what was sent"
            raise InvalidArgument(f"{what}, wanted fewer than max_context, {self.max_context}")
        self._turn = Turn(Play(self, options, self._history, before, incoming))
        return self._turn
