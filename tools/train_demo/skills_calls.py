"""Calls of functions: single ones, chains in which a result decides the next, several in a turn."""

import json
from collections.abc import Callable
from typing import Any

from gptoss_native.harmony import ToolDescription

from .columns import held, plus
from .problem import Call, Draw, Elsewhere, Move, Problem, Result, Think
from .words import CITIES, COUNTED, NAMES, OBJECTS, WEATHER, proper_name

# name: description, then what each parameter is: name, type, description
FUNCTIONS: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "calculator": (
        "Evaluate an arithmetic expression.",
        [("expression", "string", "The expression to evaluate.")],
    ),
    "get_weather": (
        "Get the current weather of a city.",
        [("city", "string", "The name of the city.")],
    ),
    "get_time": ("Get the local time of a city.", [("city", "string", "The name of the city.")]),
    "get_location": (
        "Find the city where a person is.",
        [("name", "string", "The name of the person.")],
    ),
    "get_phone": (
        "Look up a phone number.",
        [("name", "string", "The name of the person.")],
    ),
    "get_price": ("Get the price of an item.", [("item", "string", "The name of the item.")]),
    "send_message": (
        "Send a message to a person.",
        [("to", "string", "The name of the person."), ("text", "string", "The text to send.")],
    ),
    "set_timer": ("Set a timer.", [("minutes", "integer", "The number of minutes.")]),
    "convert_currency": (
        "Convert an amount of money.",
        [
            ("amount", "number", "The amount of money."),
            ("source", "string", "The currency to convert from."),
            ("target", "string", "The currency to convert to."),
        ],
    ),
}
_CURRENCIES = ["USD", "EUR", "GBP", "JPY"]


def described(name: str, plain: bool) -> ToolDescription:
    """Return a function as it is declared; plain: without the parameters' descriptions."""
    description, parameters = FUNCTIONS[name] if name in FUNCTIONS else _made_up(name)
    properties = {
        key: {"type": kind} if plain else {"type": kind, "description": said}
        for key, kind, said in parameters
    }
    required = [key for key, _, _ in parameters]
    schema = {"type": "object", "properties": properties, "required": required}
    return ToolDescription(name, description, schema)


_VERBS = "find look_up read list open close start stop check update count rate".split()
_NOUNS = "fruit song room order ticket file train plane user note page door light game".split()
_KEYS = "query id word label key code".split()


def made_up_name(draw: Draw) -> str:
    """Return the name of a function that no answer was learnt for; some are held out whole."""
    name = f"{draw.one(_VERBS)}_{draw.one(_NOUNS)}"
    draw.own(f"function {name}")
    return name


def _made_up(name: str) -> tuple[str, list[tuple[str, str, str]]]:
    key = _KEYS[sum(map(ord, name)) % len(_KEYS)]
    verb, _, noun = name.rpartition("_")
    words = verb.replace("_", " ").capitalize()
    return f"{words} a {noun}.", [(key, "string", f"The {key} of the {noun}.")]


def _city(draw: Draw) -> str:
    """Return a city, one in six made up: what is copied need not be known."""
    return proper_name(draw) if draw.chance(0.17) else draw.one(CITIES)


def _name(draw: Draw) -> str:
    return proper_name(draw) if draw.chance(0.17) else draw.one(NAMES)


Asked = tuple[str, dict[str, Any], Any, str, str]


def _error(draw: Draw, text: str) -> dict[str, str] | None:
    return {"error": text} if draw.chance(0.08) else None


def _calculator(draw: Draw) -> Asked:
    a, b = draw.between(11, 99), draw.between(11, 99)
    sign = draw.one(["*", "*", "*", "+", "-"])
    asked = {
        "*": ["What is {}*{}?", "{} * {}", "How much is {} times {}?"],
        "+": ["Use the calculator for {} + {}."],
        "-": ["Use the calculator for {} - {}."],
    }
    value = {"*": a * b, "+": a + b, "-": a - b}[sign]
    user = draw.one(asked[sign]).format(a, b)
    arguments = {"expression": f"{a}{sign}{b}"}
    return user, arguments, {"result": value}, f"{a} {sign} {b} = {value}", str(value)


def _weather(draw: Draw) -> Asked:
    city, degrees, sky = _city(draw), draw.between(-9, 35), draw.one(WEATHER)
    asked = [
        "What is the weather in {}?",
        "How is the weather in {}?",
        "Weather in {}?",
        "What's the weather like in {}?",
    ]
    full = f"It is {degrees} degrees and {sky} in {city}."
    result = {"temperature": degrees, "condition": sky}
    return draw.one(asked).format(city), {"city": city}, result, full, f"{degrees} degrees, {sky}"


def _time(draw: Draw) -> Asked:
    city, time = _city(draw), f"{draw.between(0, 23):02}:{draw.between(0, 59):02}"
    asked = ["What time is it in {}?", "What is the time in {}?", "Time in {}?"]
    return (
        draw.one(asked).format(city),
        {"city": city},
        {"time": time},
        f"It is {time} in {city}.",
        time,
    )


def _location(draw: Draw) -> Asked:
    name, city = _name(draw), _city(draw)
    asked = ["Where is {}?", "In which city is {}?"]
    user = draw.one(asked).format(name)
    return user, {"name": name}, {"city": city}, f"{name} is in {city}.", city


def _phone(draw: Draw) -> Asked:
    name, phone = _name(draw), f"555-{draw.between(0, 9999):04}"
    asked = ["What is the phone number of {}?", "Phone number of {}?", "How can I call {}?"]
    full = f"The phone number of {name} is {phone}."
    return draw.one(asked).format(name), {"name": name}, {"phone": phone}, full, phone


def _price(draw: Draw) -> Asked:
    item, price, currency = draw.one(OBJECTS), draw.between(2, 999), draw.one(_CURRENCIES)
    asked = ["What is the price of a {}?", "How much is a {}?", "What does a {} cost?"]
    result = {"price": price, "currency": currency}
    full = f"A {item} costs {price} {currency}."
    return draw.one(asked).format(item), {"item": item}, result, full, f"{price} {currency}"


def _message(draw: Draw) -> Asked:
    name = _name(draw)
    text = draw.one(
        [
            f"I have {draw.between(2, 99)} {draw.one(COUNTED)}",
            f"I am in {draw.one(CITIES)}",
            f"It is {draw.one(WEATHER)}",
        ]
    )
    asked = ["Send {n} the message '{t}'.", "Tell {n}: '{t}'.", "Write '{t}' to {n}."]
    user = draw.one(asked).format(n=name, t=text)
    full = f"I sent the message to {name}."
    return user, {"to": name, "text": text}, {"status": "sent"}, full, "sent"


def _timer(draw: Draw) -> Asked:
    n = draw.between(2, 120)
    asked = ["Set a timer for {} minutes.", "Timer, {} minutes.", "Wake me in {} minutes."]
    full = f"The timer is set for {n} minutes."
    return draw.one(asked).format(n), {"minutes": n}, {"status": "set"}, full, "set"


def _convert(draw: Draw) -> Asked:
    n, made = draw.between(2, 999), draw.between(2, 999)
    source, target = draw.several(_CURRENCIES, 2)
    asked = ["Convert {n} {s} to {t}.", "How much is {n} {s} in {t}?", "{n} {s} in {t}?"]
    user = draw.one(asked).format(n=n, s=source, t=target)
    arguments = {"amount": n, "source": source, "target": target}
    return user, arguments, {"amount": made}, f"{n} {source} = {made} {target}", f"{made} {target}"


WORDINGS: dict[str, Callable[[Draw], Asked]] = {
    "calculator": _calculator,
    "get_weather": _weather,
    "get_time": _time,
    "get_location": _location,
    "get_phone": _phone,
    "get_price": _price,
    "send_message": _message,
    "set_timer": _timer,
    "convert_currency": _convert,
}


def plan(draw: Draw, name: str, what: str = "") -> Think:
    """Return the thought before a call: the name first, then whether it is declared. Asked for
    the other way round, functions that were not declared were called."""
    return Think(
        draw.by_effort(
            f"{name}: yes.",
            f"{name} is declared. I call it.",
            f"This needs {name}. {name} is declared. I call it{what}.",
        )
    )


def none_declared(draw: Draw, name: str) -> str:
    """Return the thought where the function that would answer is not declared."""
    return draw.by_effort(
        f"{name}: no.",
        f"{name} is not declared.",
        f"This needs {name}. {name} is not declared. I can not know this.",
    )


def _after(draw: Draw, thought: str) -> list[Move]:
    return [Think(draw.by_effort("", thought, thought))] if draw.effort != "low" else []


def call(draw: Draw) -> Problem:
    """One call, its result or its error told."""
    known = [name for name in draw.tools if name in WORDINGS]
    made_up = [name for name in draw.tools if name not in WORDINGS]
    if made_up and (not known or draw.chance(0.4)):
        return _explicit(draw, draw.one(made_up))
    if not known:
        raise Elsewhere
    name = draw.one(known)
    user, arguments, result, full, bare = WORDINGS[name](draw)
    draw.own(f"call {name} {json.dumps(arguments)}")
    wrong = draw.one(["unknown", "not found", "timeout", "out of range", "no access"])
    failed = _error(draw, wrong)
    moves: list[Move] = [plan(draw, name), Call(name, arguments), Result(name, failed or result)]
    if failed:
        moves += _after(draw, "That failed.")
        moves.append(draw.answer(f"{name} failed: {wrong}.", f"failed: {wrong}"))
    else:
        moves += _after(draw, "Done.")
        moves.append(draw.answer(full, bare))
    return Problem("call", user, moves, bare, name)


def by_name(draw: Draw, name: str) -> tuple[str, str]:
    """Return how the user names a function that was made up, and the value for its parameter."""
    value = draw.one([*COUNTED, *OBJECTS, *CITIES, *NAMES])
    asked = [
        f"Call {name} with {value}.",
        f"Use {name} for {value}.",
        f"{_made_up(name)[0].removesuffix('.')} {value}.",
    ]
    return draw.one(asked), value


def _explicit(draw: Draw, name: str) -> Problem:
    """A function that the user names, with a value for its one parameter."""
    key = _made_up(name)[1][0][0]
    user, value = by_name(draw, name)
    draw.own(f"call {name} {value}")
    found = draw.one([str(draw.between(0, 999)), draw.one(COUNTED), draw.one(CITIES)])
    result = {draw.one(["result", "value", "answer"]): int(found) if found.isdigit() else found}
    moves: list[Move] = [plan(draw, name), Call(name, {key: value}), Result(name, result)]
    moves += _after(draw, "Done.")
    moves.append(draw.answer(f"{name} says: {found}.", found))
    return Problem("call", user, moves, found, name)


def _needs(draw: Draw, *names: str) -> None:
    if not set(names) <= set(draw.tools):
        raise Elsewhere


def _warmer(draw: Draw) -> tuple[str, list[Move], str, str]:
    """Two calls, then written arithmetic."""
    _needs(draw, "get_weather")
    one, two = draw.several(CITIES, 2)
    a, b = draw.between(2, 35), draw.between(2, 35)
    skies = [draw.one(WEATHER), draw.one(WEATHER)]
    results = [{"temperature": t, "condition": s} for t, s in zip((a, b), skies, strict=True)]
    more = draw.chance(0.4)
    moves: list[Move] = [plan(draw, "get_weather", " twice")]
    calls = [Call("get_weather", {"city": c}, m) for c, m in ((one, more or None), (two, False))]
    told = [Result("get_weather", result) for result in results]
    moves += [*calls, *told] if more else [calls[0], told[0], calls[1], told[1]]
    if draw.chance(0.5):
        user = f"How much is the temperature of {one} and {two} together?"
        held(draw, a, b)
        work, total = plus(draw, a, b)
        return user, [*moves, Think(work)], f"Together {total} degrees.", str(total)
    user = draw.one(
        [f"Compare the weather in {one} and {two}.", f"Is it warmer in {one} or {two}?"]
    )
    if a == b:
        raise Elsewhere
    city = one if a > b else two
    work = f"{a}{'>' if a > b else '<'}{b}."
    return user, [*moves, Think(work)], f"It is warmer in {city}.", city


def _both(draw: Draw) -> tuple[str, list[Move], str, str]:
    """The same question about two cities or two people: two calls."""
    known = [n for n in ("get_weather", "get_time", "get_location", "get_phone") if n in draw.tools]
    if not known:
        raise Elsewhere
    name = draw.one(known)
    made = [WORDINGS[name](draw) for _ in range(2)]
    (_, first, told, full, bare), (_, second, told2, full2, bare2) = made
    if first == second:
        raise Elsewhere
    x, y = next(iter(first.values())), next(iter(second.values()))
    asked = {
        "get_weather": "What is the weather in {} and in {}?",
        "get_time": "What time is it in {} and in {}?",
        "get_location": "Where are {} and {}?",
        "get_phone": "What are the phone numbers of {} and {}?",
    }
    calls: list[Move]
    if draw.chance(0.5):
        calls = [
            Call(name, first, True),
            Call(name, second),
            Result(name, told),
            Result(name, told2),
        ]
    else:
        calls = [
            Call(name, first, None),
            Result(name, told),
            Call(name, second),
            Result(name, told2),
        ]
    moves = [plan(draw, name, " twice"), *calls]
    return asked[name].format(x, y), moves, f"{full} {full2}", f"{bare}, {bare2}"


def _where(draw: Draw) -> tuple[str, list[Move], str, str]:
    """Where somebody is decides the city of the second call."""
    _needs(draw, "get_location")
    second = draw.one([n for n in ("get_weather", "get_time") if n in draw.tools] or [""])
    if not second:
        raise Elsewhere
    name = _name(draw)
    _, arguments, result, full, bare = WORDINGS[second](draw)
    asked = {
        "get_weather": ["How is the weather where {} is?", "What is the weather where {} is?"],
        "get_time": ["What time is it where {} is?"],
    }
    moves: list[Move] = [
        plan(draw, "get_location", f", then {second}"),
        Call("get_location", {"name": name}),
        Result("get_location", arguments),
        *_after(draw, f"I call {second}."),
        Call(second, arguments),
        Result(second, result),
    ]
    return draw.one(asked[second]).format(name), moves, full, bare


def _report(draw: Draw) -> tuple[str, list[Move], str, str]:
    """What one function says is sent by another."""
    _needs(draw, "send_message")
    first = draw.one(
        [n for n in ("get_weather", "get_time", "get_price") if n in draw.tools] or [""]
    )
    if not first:
        raise Elsewhere
    name = _name(draw)
    _, arguments, result, _, bare = WORDINGS[first](draw)
    x = next(iter(arguments.values()))
    asked = {
        "get_weather": f"Send {name} the weather in {x}.",
        "get_time": f"Send {name} the time in {x}.",
        "get_price": f"Send {name} the price of a {x}.",
    }
    moves: list[Move] = [
        plan(draw, first, ", then send_message"),
        Call(first, arguments),
        Result(first, result),
        *_after(draw, "I call send_message."),
        Call("send_message", {"to": name, "text": bare}),
        Result("send_message", {"status": "sent"}),
    ]
    return asked[first], moves, f"I sent {name}: {bare}.", "sent"


def _where_report(draw: Draw) -> tuple[str, list[Move], str, str]:
    """Three calls: where, what, send."""
    _needs(draw, "get_location", "send_message")
    second = draw.one([n for n in ("get_weather", "get_time") if n in draw.tools] or [""])
    if not second:
        raise Elsewhere
    name, who = draw.several(NAMES, 2)
    _, arguments, result, _, bare = WORDINGS[second](draw)
    what = "weather" if second == "get_weather" else "time"
    moves: list[Move] = [
        plan(draw, "get_location", f", then {second}, then send_message"),
        Call("get_location", {"name": who}),
        Result("get_location", arguments),
        *_after(draw, f"I call {second}."),
        Call(second, arguments),
        Result(second, result),
        *_after(draw, "I call send_message."),
        Call("send_message", {"to": name, "text": bare}),
        Result("send_message", {"status": "sent"}),
    ]
    return f"Send {name} the {what} where {who} is.", moves, f"I sent {name}: {bare}.", "sent"


def _price_report(draw: Draw) -> tuple[str, list[Move], str, str]:
    """Three calls: price, convert, send."""
    _needs(draw, "get_price", "convert_currency", "send_message")
    name, item = draw.one(NAMES), draw.one(OBJECTS)
    price, made = draw.between(2, 999), draw.between(2, 999)
    source, target = draw.several(_CURRENCIES, 2)
    bare = f"{made} {target}"
    moves: list[Move] = [
        plan(draw, "get_price", ", then convert_currency, then send_message"),
        Call("get_price", {"item": item}),
        Result("get_price", {"price": price, "currency": source}),
        *_after(draw, "I call convert_currency."),
        Call("convert_currency", {"amount": price, "source": source, "target": target}),
        Result("convert_currency", {"amount": made}),
        *_after(draw, "I call send_message."),
        Call("send_message", {"to": name, "text": bare}),
        Result("send_message", {"status": "sent"}),
    ]
    user = f"Send {name} the price of a {item} in {target}."
    return user, moves, f"I sent {name}: {bare}.", "sent"


def _chain(skill: str, makers: list[Callable[[Draw], tuple[str, list[Move], str, str]]]):
    def make(draw: Draw) -> Problem:
        user, moves, full, bare = draw.one(makers)(draw)
        draw.own(f"chain {user}")
        return Problem(skill, user, [*moves, *_after(draw, "Done."), draw.answer(full, bare)], bare)

    return make


chain2 = _chain("chain2", [_both, _where, _report, _warmer])
chain3 = _chain("chain3", [_where_report, _price_report])
