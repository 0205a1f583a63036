"""Answer a file of questions with Ray Data: a line in, a line of JSON out.

python examples/ray_batches.py QUESTIONS OUT [CHECKPOINT] [--replicas 1] [--gpus 0]

Needs `pip install 'ray[data]'`. Each replica has a model, and computes the answers of a batch
together.
"""

import argparse
import asyncio

import gptoss_native as gn
import ray
from gptoss_native.harmony import CHANNELS, SystemContent


class Answers:
    """One replica: a model, and a chat for each question."""

    def __init__(self, checkpoint, threads):
        made = gn.Model.load(checkpoint, threads=threads) if checkpoint else None
        self.model = made or gn.Model.demo(threads=threads)
        # All named, as published examples do; the bundled model knows the other form too.
        self.system = SystemContent(channels=None if checkpoint else CHANNELS)

    async def answer(self, question):
        sampling = gn.Sampling(temperature=0.0)
        options = {"system": self.system, "sampling": sampling, "max_new_tokens": 2000}
        with gn.Chat(self.model, reasoning_effort="low", **options) as chat:
            return (await chat.asend(question)).text

    async def answers(self, questions):
        return await asyncio.gather(*map(self.answer, questions))

    def __call__(self, batch):
        batch["answer"] = asyncio.run(self.answers(map(str, batch["text"])))
        return batch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions")
    parser.add_argument("out", help="a folder")
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of a replica")
    parser.add_argument("--threads", type=int, help="of a replica")
    options = parser.parse_args()
    made = {"checkpoint": options.checkpoint, "threads": options.threads}
    answered = ray.data.read_text(options.questions).map_batches(
        Answers,
        fn_constructor_kwargs=made,
        batch_size=64,
        num_gpus=options.gpus,
        concurrency=options.replicas,
    )
    answered.write_json(options.out)


if __name__ == "__main__":
    main()
