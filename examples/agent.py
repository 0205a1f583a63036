"""An agent that calls tools, and what its turns cost.

python examples/agent.py                       # the small bundled model
python examples/agent.py /models/gpt-oss-20b
"""

import sys

import gptoss_native as gn
from gptoss_native.chat import TextDelta, ToolResult


def calculator(expression: str) -> dict:
    """Evaluate an arithmetic expression.

    Args:
        expression: The expression to evaluate.
    """
    for sign, apply in (("*", int.__mul__), ("+", int.__add__), ("-", int.__sub__)):
        left, found, right = expression.partition(sign)
        if found:
            return {"result": apply(int(left), int(right))}
    raise gn.ToolError(f"Error: {expression} is not two numbers with +, - or * between them.")


def get_weather(city: str) -> dict:
    """Get the current weather of a city.

    Args:
        city: The name of the city.
    """
    return {"temperature": 21, "condition": "sunny"}


QUESTIONS = ["What is 34*27?", "What is the weather in Zurich?", "What is the weather in Oslo?"]


def main() -> None:
    model = gn.Model.load(sys.argv[1]) if len(sys.argv) > 1 else gn.Model.demo()
    greedy = gn.Sampling(temperature=0.0)
    with model, gn.Chat(model, tools=[calculator, get_weather], sampling=greedy) as chat:
        for question in QUESTIONS:
            print(f"\n> {question}")
            turn = chat.send(question, max_tool_rounds=10, timeout=600)
            for event in turn:
                if isinstance(event, ToolResult):
                    print(f"  {event.call.recipient}({event.call.arguments}) -> {event.text}")
                elif isinstance(event, TextDelta) and event.channel == "final":
                    print(event.text, end="", flush=True)
            usage = turn.reply.usage
            for number, one in enumerate(usage.rounds):
                counts = (
                    f"{one.cached_tokens} tokens from the cache, {one.prefilled_tokens} computed"
                )
                print(f"\n  round {number}: {counts}", end="")
            print(f"; {usage.generated_tokens} generated: {dict(usage.by_channel)}")


if __name__ == "__main__":
    main()
