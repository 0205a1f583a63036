"""Facts out of sentences as JSON of one schema, with the reasoning before it kept free.

python examples/structured_extraction.py [CHECKPOINT]

Needs the extra `structured`. Each line: the thought, then the answer, which any model's would be
valid. The last line asks for a choice in place of a document.
"""

import json
import sys

import gptoss_native as gn
from gptoss_native.harmony import (
    CHANNELS,
    DeveloperContent,
    Message,
    Renderer,
    ResponseFormat,
    SystemContent,
    parse,
)
from gptoss_native.structured import Envelope, choice

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"type": ["string", "null"]},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
SENTENCES = [
    "Give JSON: name Alice, age 30, city Vienna.",
    "JSON with name Sam, age 41, city Rome.",
    "Give this as JSON: Alice, 52.",
]


def ask(model, envelope, messages):
    """Return the reasoning and the answer; None for one that the context cut off."""
    turn = envelope.turn()
    stream = model.session().generate(
        Renderer(model.tokenizer).render_for_completion(messages),
        max_new_tokens=512,
        sampling=gn.Sampling(temperature=0),
        constraint=turn,
    )
    said = parse(model.tokenizer, [token.id for token in stream]).messages
    thought = " ".join(m.content for m in said if m.channel == "analysis")
    return thought, said[-1].content if turn.finished else None


def main(path=None):
    with gn.Model.load(path) if path else gn.Model.demo() as model:
        system = Message("system", SystemContent(effort="low", channels=CHANNELS))
        told = DeveloperContent(response_formats=[ResponseFormat("person", PERSON)])
        envelope = Envelope(model.tokenizer, response_format=PERSON)
        for sentence in SENTENCES:
            messages = [system, Message("developer", told), Message("user", sentence)]
            # A small model that was never shown a schema does better without it.
            thought, answer = ask(model, envelope, messages if path else [system, messages[-1]])
            person = None if answer is None else json.loads(answer)
            print(f"{sentence}\n  {thought}\n  {person}")
        question = "What is 17 + 25?"
        sums = choice(f"17 + 25 = {number}" for number in range(100))
        messages = [system, Message("user", question)]
        thought, answer = ask(model, Envelope(model.tokenizer, response_format=sums), messages)
        print(f"{question}\n  {thought}\n  {answer}")


if __name__ == "__main__":
    main(*sys.argv[1:])
