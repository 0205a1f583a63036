"""Answer questions over TCP, all from one event loop: a line in, an answer out, as it comes.

python examples/service.py [CHECKPOINT], then: echo "What is 17 + 25?" | nc 127.0.0.1 8765
"""

import asyncio
import os
import sys

import gptoss_native as gn
from gptoss_native.harmony import Delta, Parser, render_user

PORT = int(os.environ.get("PORT", "8765"))


async def answer(model, reader, writer):
    question = (await reader.readline()).decode(errors="replace").strip()
    parser = Parser(model.tokenizer)
    with model.session() as session:
        prompt = render_user(model.tokenizer, question, effort="low")
        sampling = gn.Sampling(temperature=0.0)
        stream = session.generate(prompt, max_new_tokens=512, sampling=sampling, timeout=60)
        async for token in stream:
            for event in parser.push(token.id):
                if isinstance(event, Delta) and event.channel == "final":
                    writer.write(event.text.encode())
            await writer.drain()  # a client that has gone ends the stream here
    writer.close()


async def main(path=None):
    with gn.Model.load(path) if path else gn.Model.demo() as model:
        server = await asyncio.start_server(lambda *ends: answer(model, *ends), "127.0.0.1", PORT)
        print(f"listening on 127.0.0.1:{PORT}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
