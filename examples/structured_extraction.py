"""Facts out of sentences as JSON of one schema, with the reasoning before it kept free.

python examples/structured_extraction.py [CHECKPOINT]

Needs the extra `structured`. Each line: the thought, then the answer, which any model's would be
valid. The last line asks for a choice in place of a document.
"""

import sys

import gptoss_native as gn
from gptoss_native.harmony import CHANNELS, SystemContent
from gptoss_native.structured import choice, json_schema

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


def main(path=None):
    model = gn.Model.load(path) if path else gn.Model.demo()
    # The bundled model was trained with all channels named.
    system = SystemContent(channels=None if path else CHANNELS)
    greedy = gn.Sampling(temperature=0)
    # It was never shown a schema, and does better if it is not told of one.
    person = PERSON if path else json_schema(PERSON)
    options = {"reasoning_effort": "low", "system": system, "sampling": greedy}
    with model, gn.Chat(model, max_new_tokens=512, **options) as chat:
        for sentence in SENTENCES:
            chat.rewind(0)
            reply = chat.ask(sentence, response_format=person)
            print(f"{sentence}\n  {reply.reasoning}\n  {reply.parsed}")
        chat.rewind(0)
        question = "What is 17 + 25?"
        sums = choice(f"17 + 25 = {number}" for number in range(100))
        reply = chat.ask(question, response_format=sums)
        print(f"{question}\n  {reply.reasoning}\n  {reply.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
