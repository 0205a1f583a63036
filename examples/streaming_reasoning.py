"""The reasoning apart from the answer as both come, and reasoning that is ended in time.

python examples/streaming_reasoning.py                       # the small bundled model
python examples/streaming_reasoning.py /models/gpt-oss-20b
"""

import asyncio
import sys

import gptoss_native as gn
from gptoss_native.chat import TextDelta
from gptoss_native.harmony import MessageStart

QUESTION = "What is 314 + 271?"


async def show(chat: gn.Chat, **options: object) -> None:
    turn = chat.asend(QUESTION, **options)
    async for event in turn:
        if isinstance(event, MessageStart):
            print(f"\n[{event.message.channel}] ", end="")
        elif isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
    reply = await turn
    tokens = reply.usage.reasoning_tokens
    print(f"\n({tokens} tokens of reasoning; {reply.finish_reason}, {reply.finish_detail})")


async def main() -> None:
    model = gn.Model.load(sys.argv[1]) if len(sys.argv) > 1 else gn.Model.demo()
    greedy = gn.Sampling(temperature=0.0)
    with model:
        for effort in ("low", "high"):
            with gn.Chat(model, reasoning_effort=effort, sampling=greedy) as chat:
                print(f"\n== effort {effort}", end="")
                await show(chat)
        with gn.Chat(model, sampling=greedy) as chat:
            print("\n== at most 20 tokens of reasoning", end="")
            await show(chat, max_reasoning_tokens=20)


if __name__ == "__main__":
    asyncio.run(main())
