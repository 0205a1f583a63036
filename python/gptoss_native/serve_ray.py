"""The server on many machines: the same application as a Ray Serve deployment (extra `ray`).

    serve run gptoss_native.serve_ray:app checkpoint=/models/gpt-oss-20b replicas=2 gpus=1

A replica is a process with a model of its own. Requests with the header `x-session-id` return to
the replica that has answered its earlier ones, and so has its prompts and stored responses, by Ray
Serve's consistent hashing; those without go anywhere. Ray Serve starts, watches, replaces and
scales the replicas.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from ._core import Error
from .limits import Limits
from .model import Model
from .server import Settings, create_app, favour_event_loop

try:
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "ray":
        raise
    raise Error("serve_ray needs Ray: pip install 'gptoss-native[ray]'") from error

_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"


class Options(BaseModel):
    """What `serve run` takes as KEY=VALUE, or a Serve configuration file as `args`."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None = None  # a folder that each machine has; None: the bundled model
    model_name: str = "gpt-oss"
    device: str = "auto"
    dense: str = "bf16"
    precision: str = "fast"
    kv: str = "f16"
    threads: int | None = Field(default=None, ge=1)  # of a replica
    replicas: int = Field(default=1, ge=1)  # at first, where there may be more
    max_replicas: int | None = Field(default=None, ge=1)  # with more requests; None: no scaling
    requests_per_replica: int = Field(default=32, ge=1)  # that scaling aims at
    gpus: float = Field(default=0, ge=0)  # a replica's share, as Ray counts
    cpus: float = Field(default=1, ge=0)
    limits: dict[str, Any] = {}  # of gptoss_native.Limits
    settings: dict[str, Any] = {}  # of gptoss_native.server.Settings


class _Replica:
    """What Ray Serve asks of a replica besides requests."""

    app: Any  # Ray Serve's wrapper has it

    def check_health(self) -> None:
        """Raise where no answer can come any more: Ray Serve replaces this replica."""
        # Nothing that waits for a step: a long prompt's takes longer than Ray is patient.
        if self.app.state.engine.model.closed:
            raise RuntimeError("the model is closed")


def app(options: Options) -> serve.Application:
    """Return the deployment, for `serve run` and `ray.serve.run`. Raises InvalidArgument."""
    settings = Settings(
        **{"model_name": options.model_name, "all_channels": options.checkpoint is None}
        | options.settings
    )
    most = options.max_replicas or options.replicas
    scaling = AutoscalingConfig(
        min_replicas=options.replicas,
        max_replicas=max(most, options.replicas),
        target_ongoing_requests=options.requests_per_replica,
    )
    limits = Limits(**options.limits)
    deployment = serve.deployment(
        name="gptoss",
        num_replicas=None if options.max_replicas else options.replicas,
        autoscaling_config=scaling if options.max_replicas else None,
        # The engine has its own line, whose end is a 429.
        max_ongoing_requests=limits.max_streams + limits.max_waiting + 1,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        graceful_shutdown_timeout_s=settings.shutdown_s,
        health_check_period_s=5,
    )
    ingress = serve.ingress(_builder(options, settings, limits))
    return deployment(ingress(_Replica)).bind()


def _builder(options: Options, settings: Settings, limits: Limits) -> Callable[[], ASGIApp]:
    """Return what a replica calls, once it is on its machine."""

    def build() -> ASGIApp:
        names = ("device", "dense", "precision", "kv")
        placing = {name: getattr(options, name) for name in names}
        placing |= {"threads": options.threads, "limits": limits}
        if options.checkpoint is None:
            model = Model.demo(**placing)
        else:
            model = Model.load(options.checkpoint, **placing)
        app = create_app(model, settings)
        favour_event_loop()
        return app

    return build
