"""The measurements of bench/gpu.py for one shape of model with random weights.

A process of bench/gpu.py; prints JSON lines. Short measurements come first, so that those which
run out of time are the long ones. Rates are the best of several, times the median.

Stages: each of the calls of a replay is another layer's. Weights of the products exceed the last
cache; the router's, and keys and values of short contexts, may stay in it, so that their shares of
the copy rate can exceed what a step sees.
"""

import json
import statistics
import sys
import time

import gptoss_native as gn
import numpy as np
from gptoss_native import _core
from gptoss_native.shapes import named_shape
from measure import commit, processor

GROWTH = 4096  # tokens of a prompt on the way to a long context
REPEATS = 5
LONG = 10000  # keys


class OutOfTimeError(Exception):
    pass


def emit(part, **line):
    print(json.dumps({"part": part, **line}), flush=True)


def note(text, kind="notes"):
    print(json.dumps({kind: text}), flush=True)


class Measurement:
    def __init__(self, model, options):
        self.model, self.options = model, options
        self.emulated = options["device"] == "cuda-emulated"
        self.vocab = model.info()["vocab_size"]
        self.config = named_shape(options["shape"])
        self.rng = np.random.default_rng()
        self.growing = None

    def need(self, seconds, what):
        left = self.options["until"] - time.time()
        if left < seconds:
            raise OutOfTimeError(f"{what} and what follows it skipped: {left:.0f} s left")

    def ids(self, count):
        return self.rng.integers(0, self.vocab, count)

    def rates(self):
        size = 1 << (24 if self.emulated else 31)
        emit(
            "rates",
            copy_bytes=size,
            copy_bytes_per_s=max(self.model._core.copy_rate(size) for _ in range(REPEATS)),
            read_bytes_per_s=max(self.model.read_rate() for _ in range(REPEATS)),
        )

    def first_token(self, session, count):
        """Append random ids and one token; return the seconds until it is there."""
        stream = session.generate(
            self.ids(count), max_new_tokens=1, sampling=gn.Sampling(temperature=0), stop_ids=[]
        )
        for _ in stream:
            pass
        return stream.stats.ttft_s

    def prefill(self):
        for count in self.options["prompts"]:
            self.need(5, f"prefill of {count}")
            seconds = []
            for _ in range(1 if self.emulated else 1 + REPEATS):
                with self.model.session() as session:
                    seconds.append(self.first_token(session, count))
            # The first also loads kernels.
            middle = statistics.median(seconds[1:] or seconds)
            emit("prefill", tokens=count, ttft_s=middle, tokens_per_s=count / middle, all_s=seconds)

    def grow(self, context):
        """Prefill the session up to the context; return its tokens a second, None if there."""
        if self.growing is None:
            self.growing = self.model.session()
        session, last, start = self.growing, 0.0, self.growing.position
        begin = time.time()
        while session.position < context - 1:
            self.need(last + 5, f"decode at {context} (at {session.position} of it)")
            last = self.first_token(session, min(GROWTH, context - 1 - session.position))
        grown = session.position - start
        return grown / (time.time() - begin) if grown else None

    def decode(self, contexts):
        for context in contexts:
            grown = self.grow(context)
            self.first_token(self.growing, 1)
            runs = []
            for count in (4, self.options["new_tokens"]):  # the first to warm up
                stream = self.growing.generate(
                    self.ids(1),
                    max_new_tokens=1 + count,
                    sampling=gn.Sampling(temperature=0),
                    stop_ids=[],
                )
                for _ in stream:
                    pass
                runs.append(stream.stats)
            middle = self.growing.position - self.options["new_tokens"] // 2
            emit(
                "decode",
                context=context,
                new_tokens=self.options["new_tokens"],
                seconds=1 / runs[-1].tokens_per_s,
                tokens_per_s=runs[-1].tokens_per_s,
                bytes=self.model.decode_bytes(middle),
                prefill_tokens_per_s_on_the_way=grown,
            )

    def calls(self, stage, context, decode):
        if self.emulated:
            return 1
        if stage == "logits" or context > LONG:
            return 8 if decode else 4
        return 2 * self.config["layers"] if decode else 12

    def contexts(self, stage, decode):
        """Past its window a layer costs the same everywhere; other stages look at no context."""
        first = self.options["contexts"][:1] if decode else [0, self.options["contexts"][0]]
        if stage == "attention_full":
            return sorted({*first, *self.options["contexts"]})
        return first if stage == "attention_window" else [0]

    def stages(self):
        forms = [(rows, True) for rows in self.options["rows"]]
        forms += [(rows, False) for rows in self.options["prefill_rows"]]
        lines = [
            (stage, rows, context, decode)
            for rows, decode in forms
            for stage in _core.timed_stages()
            if decode or stage not in ("logits", "sample")  # a prompt needs one row of them
            for context in self.contexts(stage, decode)
        ]
        # A long context's cache takes seconds to fill.
        refused = set()
        for stage, rows, context, decode in sorted(lines, key=lambda line: line[2] > LONG):
            if (rows, decode) in refused:
                continue
            try:
                self.time_stage(stage, rows, context, decode)
            except gn.InvalidArgument as error:
                refused.add((rows, decode))
                note(f"stages of {rows} {'decode' if decode else 'prefill'} rows skipped: {error}")

    def time_stage(self, stage, rows, context, decode):
        what = f"{stage}, {rows} {'decode' if decode else 'prefill'} rows, context {context}"
        self.need(8 if context > 2 * LONG else 4, what)
        calls = self.calls(stage, context, decode)
        timing = _core.time_stage(
            self.model._core, stage, tokens=rows, context=context, calls=calls, decode=decode
        )
        line = {"stage": stage, "decode": decode, "rows": rows, "context": context}
        emit("stages", **line, calls=calls, **timing)


def main():
    options = json.loads(sys.argv[1])
    start = time.time()
    shape = {name: options[name] for name in ("device", "dense", "kv")}
    with gn.Model.random(options["shape"], **shape) as model:
        info = model.info()
        windowed = named_shape(options["shape"])["windowed"]
        emit(
            "made",
            seconds=time.time() - start,
            version=gn.__version__,
            package=gn.__path__[0],
            commit=commit(),
            processor=processor(),
            dense=options["dense"],
            kv=options["kv"],
            weight_bytes=info["weight_bytes"],
            scratch_bytes=info["scratch_bytes"],
            backend=info["backend"],
            layers=len(windowed),
            windowed_layers=sum(windowed),
        )
        measure = Measurement(model, options)
        contexts = options["contexts"]
        steps = [
            ("rates", measure.rates),
            ("decode", lambda: measure.decode(contexts[:1])),
            ("prefill", measure.prefill),
            ("stages", measure.stages),
            ("decode", lambda: measure.decode(contexts[1:])),
        ]
        for part, work in steps:
            if part not in options["parts"]:
                continue
            try:
                work()
            except OutOfTimeError as error:
                note(str(error))
            except gn.Error as error:
                note(f"{part}: {type(error).__name__}: {error}", "failed")


if __name__ == "__main__":
    main()
