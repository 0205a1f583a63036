"""Running calls: each on a thread of its own, bounded in time and in what it gives back.

Whatever a tool does, its call has an outcome: one that raises, hangs, returns megabytes or what is
no text becomes a text that says so. A thread cannot be ended from outside, so that one that hangs
is left behind; it is a daemon, which no interpreter waits for.
"""

import contextlib
import contextvars
import inspect
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core import InvalidArgument
from ..json_fields import shown
from .tool import ToolError

if TYPE_CHECKING:  # importing it takes long; whoever runs coroutines has it
    import asyncio

Job = Callable[[], "str | Awaitable[str]"]
# Well under what a lock takes, and beyond any time that a call is given.
_LONGEST_S = 1e6


@dataclass(frozen=True, kw_only=True)
class ToolLimits:
    """What a call may take. Raises InvalidArgument for what is not above zero."""

    timeout: float = 120.0  # seconds; after them the call is given up, and the model told so
    output_bytes: int = 65_536  # of UTF-8; what is longer is cut, and the model told so
    parallel: int = 16  # calls of one turn that run at a time

    def __post_init__(self) -> None:
        for name, kinds in (("timeout", (int, float)), ("output_bytes", int), ("parallel", int)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
                kind = "a number" if name == "timeout" else "an integer"
                raise InvalidArgument(f"{name} is {shown(value)}, wanted {kind} above 0")


class Outcome(NamedTuple):
    """What a call gave: `text` is for the model, whatever happened.

    error: None, "raised", "timeout", "not_text" or "cancelled"; cut: whether the text was too long.
    """

    text: str
    error: str | None = None
    cut: bool = False


class StopSignal:
    """Ends what waits, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake: list[Callable[[], Any]] = []
        self.is_set = False

    def set(self) -> None:
        with self._lock:
            self.is_set = True
            wake = list(self._wake)
        for one in wake:
            one()

    def when_set(self, wake: Callable[[], Any]) -> None:
        """Call `wake` when it is set; now, if it is."""
        with self._lock:
            self._wake.append(wake)
            now = self.is_set
        if now:
            wake()


def _fitted(text: str, limit: int) -> tuple[str, bool]:
    """Return the text as it goes to the model, and whether it was cut; surrogates become "?"."""
    data = text[: limit + 1].encode(errors="replace")
    if len(data) <= limit:
        return data.decode(), False
    kept = data[:limit].decode(errors="ignore")
    return f"{kept}\n[cut after {limit} bytes; the whole has {len(text)} characters]", True


def _outcome(text: object, error: str | None, limit: int) -> Outcome:
    if not isinstance(text, str):
        kind = type(text).__name__
        return Outcome(f"Error: the tool gave back a value of type {kind}, not text.", "not_text")
    fitted, cut = _fitted(text, limit)
    return Outcome(fitted, error, cut)


def _raised(error: BaseException, limit: int) -> Outcome:
    try:
        said = str(error)
    except Exception:
        said = ""
    if not isinstance(error, ToolError):
        said = f"Error: {type(error).__name__}" + f": {said}" * bool(said)
    return _outcome(said, "raised", limit)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@dataclass
class _Call:
    """One call on its thread."""

    job: Job
    limits: ToolLimits
    loop: "asyncio.AbstractEventLoop | None"  # where coroutines run; None: a new one
    done: Callable[["_Call", Outcome], Any]
    number: int
    ends: float = math.inf
    given_up: threading.Event = field(default_factory=threading.Event)
    _give_up: Callable[[], Any] | None = None

    def start(self) -> None:
        # A tool may read what its caller has put into context variables.
        context = contextvars.copy_context()
        name = "gptoss-native-tool"
        threading.Thread(target=context.run, args=(self._run,), name=name, daemon=True).start()

    def give_up(self) -> None:
        """Stop waiting; a coroutine is cancelled, a function left alone."""
        self.given_up.set()
        if self._give_up is not None:
            self._give_up()

    def _run(self) -> None:
        try:
            result = self.job()
            if inspect.isawaitable(result):
                result = self._wait(result)
            outcome = _outcome(result, None, self.limits.output_bytes)
        except BaseException as error:  # a tool may call sys.exit()
            outcome = _raised(error, self.limits.output_bytes)
        self.done(self, outcome)

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        if self.loop is not None:
            future = asyncio.run_coroutine_threadsafe(_awaited(awaitable), self.loop)
            self._give_up = future.cancel
            if self.given_up.is_set():
                future.cancel()
            return future.result()
        return asyncio.run(self._on_own_loop(awaitable))

    async def _on_own_loop(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(awaitable)

        def give_up() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(task.cancel)

        self._give_up = give_up
        if self.given_up.is_set():
            task.cancel()
        return await task


def run_calls(
    jobs: Sequence[Job],
    limits: ToolLimits,
    *,
    stop: StopSignal | None = None,
    deadline: float = math.inf,
    loop: "asyncio.AbstractEventLoop | None" = None,
) -> list[Outcome]:
    """Run calls together and return what each gave, in order; raises nothing of theirs.

    stop: ends the waiting when it is set; what runs then is "cancelled". deadline: a time of
    time.monotonic() after which nothing is waited for. loop: one that runs on another thread, for
    coroutines; each gets its own if None.
    """
    stop = stop or StopSignal()
    events: queue.SimpleQueue[tuple[_Call, Outcome] | None] = queue.SimpleQueue()
    stop.when_set(lambda: events.put(None))

    def done(call: _Call, outcome: Outcome) -> None:
        events.put((call, outcome))

    waiting = deque(_Call(job, limits, loop, done, n) for n, job in enumerate(jobs))
    running: dict[int, _Call] = {}
    outcomes: dict[int, Outcome] = {}
    try:
        while (waiting or running) and not stop.is_set:
            while waiting and len(running) < limits.parallel:
                call = waiting.popleft()
                call.ends = min(time.monotonic() + min(limits.timeout, _LONGEST_S), deadline)
                running[call.number] = call
                call.start()
            _take_one(events, running, outcomes)
    finally:
        for call in running.values():
            call.give_up()
    interrupted = Outcome("Error: the call was interrupted; what it did is not known.", "cancelled")
    not_run = Outcome("Error: the call was not run.", "cancelled")
    return [outcomes.get(n, interrupted if n in running else not_run) for n in range(len(jobs))]


def _take_one(
    events: "queue.SimpleQueue[tuple[_Call, Outcome] | None]",
    running: dict[int, _Call],
    outcomes: dict[int, Outcome],
) -> None:
    """Wait until something happens: a call ends, one has used up its time, or all are stopped."""
    left = min(call.ends for call in running.values()) - time.monotonic()
    try:
        ended = events.get(timeout=max(left, 0.0))
    except queue.Empty:
        now = time.monotonic()
        for call in [call for call in running.values() if call.ends <= now]:
            call.give_up()
            del running[call.number]
            text = f"Error: no answer within {call.limits.timeout:g} s; the call was given up."
            outcomes[call.number] = Outcome(text, "timeout")
        return
    if ended is not None and running.pop(ended[0].number, None):
        outcomes[ended[0].number] = ended[1]


async def run_calls_async(
    jobs: Sequence[Job],
    limits: ToolLimits,
    *,
    stop: StopSignal | None = None,
    deadline: float = math.inf,
) -> list[Outcome]:
    """Do what `run_calls` does without blocking this event loop, on which coroutines then run."""
    import asyncio

    stop = stop or StopSignal()
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Outcome]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(outcomes: list[Outcome]) -> None:
        if not answer.done():
            answer.set_result(outcomes)

    def run() -> None:
        outcomes = run_calls(jobs, limits, stop=stop, deadline=deadline, loop=loop)
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(settle, outcomes)

    threading.Thread(target=context.run, args=(run,), name="gptoss-native", daemon=True).start()
    try:
        return await answer
    except asyncio.CancelledError:
        stop.set()
        raise
