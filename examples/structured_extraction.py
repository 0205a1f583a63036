"""Facts out of sentences as JSON of one schema, with the reasoning before it kept free.

python examples/structured_extraction.py [CHECKPOINT]

Needs the extra `structured`. Each line: the thought, then the answer, which any model's would be
valid. The last line asks for a choice in place of a document.
"""

import sys

import gptoss_native as gn
from gptoss_native.structured import choice

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
SENTENCES = [
    "Extract: Alice is 30 years old. Alice lives in Vienna.",
    "Sam lives in Rome. Sam has a small red car. Sam is 41 years old. Give me the JSON.",
    "Extract: Alice is happy. Alice lives in Oslo. Alice is 52 years old.",
]


def main(path=None):
    model = gn.Model.load(path) if path else gn.Model.demo()
    greedy = gn.Sampling(temperature=0)
    options = {"reasoning_effort": "medium", "sampling": greedy}
    with model, gn.Chat(model, max_new_tokens=512, **options) as chat:
        for sentence in SENTENCES:
            chat.rewind(0)
            reply = chat.ask(sentence, response_format=PERSON)
            print(f"{sentence}\n  {reply.reasoning}\n  {reply.parsed}")
        chat.rewind(0)
        question = "What is 17 + 25?"
        sums = choice(f"17 + 25 = {number}" for number in range(100))
        reply = chat.ask(question, response_format=sums)
        print(f"{question}\n  {reply.reasoning}\n  {reply.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
