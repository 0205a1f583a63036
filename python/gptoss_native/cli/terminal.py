"""What goes to stderr: single lines, and a bar while a model loads."""

import sys
import time

from ..closing import Closing

_LONGEST = 1000
_BAR_CELLS = 20
_REDRAW_S = 0.05


def one_line(text: str) -> str:
    """Return the text with control characters escaped and its end cut, fit for one line."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def say(line: str) -> None:
    """Print a line on stderr, if there is one."""
    if sys.stderr is not None:  # print() would take stdout instead
        print(line, file=sys.stderr, flush=True)


def gibibytes(count: int) -> str:
    return f"{count / 2**30:.{2 if count >= 2**30 else 4}f} GiB"


class LoadingBar(Closing):
    """Shows how far a model is loaded, on a terminal only; gone after the `with` block."""

    def __init__(self) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._width = 0
        self._next_draw = 0.0

    def draw(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._shown or now < self._next_draw:
            return
        self._next_draw = now + _REDRAW_S
        cells = _BAR_CELLS * done // total
        bar = "#" * cells + "-" * (_BAR_CELLS - cells)
        line = f"loading [{bar}] {100 * done // total:3} % of {gibibytes(total)}"
        self._width = len(line)
        print(f"\r{line}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
