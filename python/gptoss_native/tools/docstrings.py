"""Docstrings -> what a tool does, and what each of its parameters is."""

import inspect
import re
from typing import NamedTuple

_SECTION = re.compile(
    r"(args|arguments|parameters|params|returns?|raises|yields?|examples?|notes?|see also)\s*:?\s*",
    re.I,
)
_ARGUMENTS = re.compile(r"(args|arguments|parameters|params)\s*:?\s*", re.I)
_NAMED = re.compile(r"(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_FIELD = re.compile(r":(\w+)\s*([^:]*):\s*(.*)")


class Described(NamedTuple):
    summary: str
    parameters: dict[str, str]


def _is_section(line: str, after: str) -> bool:
    """Whether a line is the head of a section: with a colon, or underlined."""
    ruled = bool(after.strip()) and not after.strip(" -=")
    return bool(_SECTION.fullmatch(line)) and (line.rstrip().endswith(":") or ruled)


def read_docstring(text: str | None) -> Described:
    """Return what a docstring says; parameters as Google ("Args:") or Sphinx (":param x:") do."""
    lines = inspect.cleandoc(text or "").splitlines()
    summary: list[str] = []
    parameters: dict[str, list[str]] = {}
    section, current, indent = None, None, None
    for line, after in zip(lines, [*lines[1:], ""], strict=False):
        said = line.strip()
        if _is_section(line, after):
            section, current, indent = said, None, None
        elif field := _FIELD.match(said):
            kind, name, rest = field.groups()
            section, indent = kind, None
            current = name.split()[-1] if kind == "param" and name else None
            if current:
                parameters[current] = [rest]
        elif section is None:
            summary.append(line)
        elif not said:
            continue
        else:
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            named = _NAMED.fullmatch(said)
            if _ARGUMENTS.fullmatch(section) and named and depth <= indent:
                current = named[1]
                parameters[current] = [named[2]]
            elif current:
                parameters[current].append(said)
    told = {name: " ".join(filter(None, pieces)) for name, pieces in parameters.items()}
    return Described("\n".join(summary).strip(), {name: t for name, t in told.items() if t})
