"""JSON schemas drawn by chance, of what structured output follows."""

import random

PATTERNS = ["^[a-z]{2,6}$", "^[A-Z][0-9]+$", "^(red|green|blue)$", "^\\d{3}-\\d{4}$", "^[^x]{1,5}$"]
FORMATS = ["date", "time", "date-time", "ipv4", "uuid", "email"]
WORDS = ["red", "grün", 'a "b"', "\\", "", "🙂", "x y", "null"]


def number(rng, kind):
    out = {"type": kind}
    low = rng.randint(-1000, 1000)
    match rng.randrange(5):
        case 0:
            out |= {"minimum": low, "maximum": low + rng.randint(0, 500)}
        case 1:
            out |= {"exclusiveMinimum": low, "exclusiveMaximum": low + rng.randint(2, 50)}
        case 2:
            out |= {"minimum": 0, "maximum": 1000, "multipleOf": rng.choice([2, 5, 10])}
        case 3 if kind == "number":
            out |= {"minimum": low / 8, "maximum": low / 8 + 0.5}
        case _:
            out |= {"minimum": low, "maximum": 10**6}
    return out


def string(rng):
    match rng.randrange(4):
        case 0:
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        case 1:
            return {"type": "string", "format": rng.choice(FORMATS)}
        case _:
            low = rng.randrange(3)
            return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(8)}


def plain(rng):
    match rng.randrange(7):
        case 0:
            return string(rng)
        case 1:
            return number(rng, "integer")
        case 2:
            return number(rng, "number")
        case 3:
            return {"enum": rng.sample([*WORDS, 0, -1.5, True, None, [1], {"a": 2}], 4)}
        case 4:
            return {"const": rng.choice(WORDS)}
        case 5:
            return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}
        case _:
            return {"anyOf": [string(rng), number(rng, "integer"), {"type": "null"}]}


def value(rng, depth, names):
    if depth == 0 or rng.random() < 0.3:
        return plain(rng)
    match rng.randrange(5):
        case 0:
            low = rng.randrange(3)
            items = value(rng, depth - 1, names)
            return {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}
        case 1:
            return {"anyOf": [value(rng, depth - 1, names), {"type": "boolean"}]}
        case 2 if names:
            return {"$ref": f"#/$defs/{rng.choice(names)}"}
        case 3:
            items = [value(rng, depth - 1, names), plain(rng)]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
        case _:
            return obj(rng, depth - 1, names)


def obj(rng, depth, names=()):
    keys = rng.sample(["a", "b c", "größe", "d", "$e", 'f"g', "items"], rng.randint(0, 4))
    return {
        "type": "object",
        "properties": {key: value(rng, depth, names) for key in keys},
        "required": [key for key in keys if rng.random() < 0.6],
        "additionalProperties": False,
    }


def schema(seed):
    """Return a schema; some are of objects that hold one another."""
    rng = random.Random(seed)
    names = ["one", "two"]
    out = obj(rng, 3, names) if rng.random() < 0.8 else value(rng, 3, names)
    out["$defs"] = {"one": obj(rng, 1), "two": plain(rng)}
    return out
