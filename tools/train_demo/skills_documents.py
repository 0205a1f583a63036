"""JSON answers that follow a schema of the developer's message."""

import json
from typing import Any

from .problem import Answer, Draw, Elsewhere, Problem, Think
from .words import CITIES, COLOURS, FOODS, JOBS, NAMES, OBJECTS, PETS, proper_name

STRING, INTEGER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_SIZES = ["small", "medium", "large"]
# field: how its schema looks, and other names that it may have
_FIELDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "name": (STRING, ["name", "person", "who"]),
    "age": (INTEGER, ["age", "years"]),
    "city": (STRING, ["city", "place", "town"]),
    "likes": ({"type": "array", "items": STRING}, ["likes", "foods"]),
    "job": (STRING, ["job", "work"]),
    "married": (BOOLEAN, ["married"]),
    "pet": (
        {
            "type": "object",
            "properties": {"kind": {"type": "string", "enum": PETS}, "name": STRING},
            "required": ["kind", "name"],
        },
        ["pet", "animal"],
    ),
    "thing": (
        {
            "type": "object",
            "properties": {
                "what": STRING,
                "colour": STRING,
                "size": {"type": "string", "enum": _SIZES},
            },
            "required": ["what", "colour", "size"],
        },
        ["thing", "owns"],
    ),
    "mood": ({"type": "string", "enum": ["happy", "sad", "angry"]}, ["mood", "feeling"]),
}


def schema(draw: Draw) -> tuple[dict[str, str], dict[str, Any]]:
    """Return which key holds which field, in order, and the schema of an object of them."""
    fields = draw.several(list(_FIELDS), draw.between(2, 5))
    keys = {draw.one(_FIELDS[field][1]): field for field in fields}
    properties = {key: _FIELDS[field][0] for key, field in keys.items()}
    return keys, {
        "type": "object",
        "properties": properties,
        "required": list(keys),
        "additionalProperties": False,
    }


def _fact(draw: Draw, field: str, name: str) -> tuple[Any, str]:
    """Return a field's value and the sentence that tells it."""
    if field == "name":
        return name, ""
    if field == "age":
        n = draw.between(2, 99)
        return n, f"{name} is {n} years old."
    if field == "city":
        city = proper_name(draw) if draw.chance(0.17) else draw.one(CITIES)
        return city, f"{name} lives in {city}."
    if field == "likes":
        foods = draw.several(FOODS, draw.between(1, 3))
        return foods, f"{name} likes {' and '.join(foods)}."
    if field == "job":
        job = draw.one(JOBS)
        return job, f"{name} works as a {job}."
    if field == "married":
        married = draw.chance(0.5)
        return married, f"{name} is {'married' if married else 'not married'}."
    if field == "pet":
        kind, pet = draw.one(PETS), draw.one([n for n in NAMES if n != name])
        return {"kind": kind, "name": pet}, f"{name} has a {kind} called {pet}."
    if field == "thing":
        size, colour, what = draw.one(_SIZES), draw.one(COLOURS), draw.one(OBJECTS)
        value = {"what": what, "colour": colour, "size": size}
        return value, f"{name} has a {size} {colour} {what}."
    mood = draw.one(["happy", "sad", "angry"])
    return mood, f"{name} is {mood}."


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def document(draw: Draw, keys: dict[str, str]) -> Problem:
    """A text whose facts go into the object; some of them are not asked for."""
    name = proper_name(draw) if draw.chance(0.17) else draw.one(NAMES)
    facts = {field: _fact(draw, field, name) for field in keys.values()}
    others = [field for field in _FIELDS if field not in facts and field != "name"]
    extra = [_fact(draw, field, name)[1] for field in draw.several(others, draw.between(0, 2))]
    sentences = [said for _, said in facts.values() if said] + extra
    if not sentences:
        raise Elsewhere
    if list(keys.values()) == ["name"]:
        raise Elsewhere
    draw.rng.shuffle(sentences)
    text = " ".join(sentences)
    draw.own(f"document {text}")
    value = {key: facts[field][0] for key, field in keys.items()}
    asked = [f"Extract: {text}", f"{text} Give me the JSON.", text]

    def told(part: Any) -> str:
        if isinstance(part, dict):
            return " ".join(map(told, part.values()))
        return " ".join(part) if isinstance(part, list) else json.dumps(part).strip('"')

    parts = ", ".join(f"{key} {told(part)}" for key, part in value.items())
    thought = draw.by_effort("", f"{parts}.", f"The keys: {', '.join(keys)}. {parts}.")
    said = compact(value)
    moves = [Think(thought)] if thought else []
    return Problem("document", draw.one(asked), [*moves, Answer(said)], said)
