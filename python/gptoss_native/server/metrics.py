"""What the server has done, in Prometheus' text form."""

import asyncio
import bisect
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..model import Model
from .sources import Cost

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LONG = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_SHORT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
# Around what is too late for an event loop: 20 ms.
_DELAYS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.1, 0.2, 0.5, 1)
_TICK_S = 0.05


class _Engine(Collector):
    """What the engine's caches hold and how many streams go on, read when asked for."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        caches = self._model.info()["caches"]
        yield GaugeMetricFamily("gptoss_running", "Streams that go on", value=caches["streams"])
        yield GaugeMetricFamily("gptoss_queue", "Streams that wait", value=caches["waiting"])
        yield GaugeMetricFamily(
            "gptoss_prefixes", "Prompts kept that later ones may begin with", caches["prefixes"]
        )
        kinds = GaugeMetricFamily("gptoss_kv_bytes", "Keys and values, by kind", labels=["kind"])
        for name, value in caches.items():
            if name.endswith("bytes"):
                kind = name.removesuffix("_bytes").removeprefix("kv_")
                kinds.add_metric(["limit" if kind == "kv" else kind], value)
        yield kinds


class _Steps(Collector):
    """A histogram that is cheap to add to, for what happens with each token. For one thread."""

    def __init__(self, name: str, what: str, buckets: tuple[float, ...]) -> None:
        self._name, self._what = name, what
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        counts = list(zip(bounds, itertools.accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._what, counts, self._sum)


class Metrics:
    """The counters of one application."""

    def __init__(self, model: Model) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Engine(model))

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"gptoss_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"gptoss_{name}_seconds", what, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Requests by endpoint and status", "path", "status")
        self.cached = counter("cached_tokens", "Tokens of prompts found in the cache")
        self.prefilled = counter("prefilled_tokens", "Tokens of prompts that were computed")
        self.generated = counter("generated_tokens", "Tokens generated", "kind")
        for kind in ("reasoning", "other"):
            self.generated.labels(kind)
        self.cancelled = counter("cancelled", "Answers whose client had gone")
        self.first_token = histogram("time_to_first_token", "From request to first token", _LONG)
        between = "From one token of an answer to the next"
        self.between = _Steps("gptoss_inter_token_seconds", between, _SHORT)
        registry.register(self.between)
        self.duration = histogram("request", "From request to the answer's end", _LONG)
        self.loop_delay = histogram("event_loop_delay", "What the event loop comes late", _DELAYS)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def count(self, cost: Cost) -> None:
        """Count an answer's tokens."""
        self.cached.inc(cost.cached_tokens)
        self.prefilled.inc(cost.prefilled_tokens)
        reasoning = cost.reasoning_tokens
        self.generated.labels("reasoning").inc(reasoning)
        self.generated.labels("other").inc(cost.completion_tokens - reasoning)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure the event loop's delay for as long as the block lasts."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            self.loop_delay.observe(max(0.0, time.perf_counter() - before - _TICK_S))
