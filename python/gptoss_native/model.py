"""A model in memory: loading, and the sessions on it."""

import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from . import _core
from .checkpoint import parse_config, read_checkpoint
from .closing import Closing
from .limits import Limits
from .session import Session, checked_path
from .shapes import named_shape
from .tokenizer import Tokenizer

Progress = Callable[[int, int], None]


class Model(Closing):
    """Weights placed for one device. Made by `load`, `random` or `demo`; closed by `close`.

    Safe to share by threads: the sessions' steps take turns. A context manager.
    """

    def __init__(
        self,
        core: _core.Model,
        stop_ids: tuple[int, ...],
        tokenizer: Path | None,
        limits: Limits | None,
    ) -> None:
        self._core = core
        self._tokenizer_file = tokenizer
        self._tokenizer: Tokenizer | None = None
        self.stop_ids = stop_ids
        self.limits = limits or Limits()  # what its sessions may take together

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        dense: str = "bf16",
        precision: str = "fast",
        kv: str = "f16",
        threads: int | None = None,
        deterministic: bool = False,
        limits: Limits | None = None,
        progress: Progress | None = None,
        wait: bool = True,
    ) -> "Model":
        """Load a published checkpoint, in Hugging Face's or OpenAI's own form.

        device: "auto" or "cpu". dense: "bf16" as published, or "int8", which requantises
        attention and unembedding in blocks of 32 (`info()` says what it lost: `"dense_errors"` by
        tensor, `"worst_dense_error"`).
        precision: "fast", or "exact" with float32 activations and cache.
        kv: how keys and values are kept with "fast": "f16" (float16), or "fp8", which takes half
        the memory and half the bytes of a long context's attention: E4M3 has 4 significant bits,
        a relative rounding error of at most 2^-4 from 2^-6 up to 448, beyond which a value is 448.
        threads: all that the process may use, or so many. deterministic: a text's numbers are the
        same bits whether it was generated or fed as a prompt, for slower prompts. limits: what its
        sessions may take together; those of `Limits()`. progress is called with (bytes done,
        bytes in all) from this thread; what it raises ends the loading and frees everything.
        wait: False returns once the files are checked and there is memory for all of it. The
        weights are read behind, a prompt is computed as far as they are there, and a call that
        needs more waits; `loaded` and `wait()` tell of it. What goes wrong with them is raised by
        each call. On CUDA all is there at the return.

        Raises CheckpointError naming the file and tensor, InvalidArgument, OutOfMemory,
        DeviceError.
        """
        checkpoint = read_checkpoint(path)
        core = _core.Model.load(
            checkpoint.config,
            [os.fsencode(file) for file in checkpoint.files],
            [(t.name, t.dtype, list(t.shape), t.file, t.offset) for t in checkpoint.tensors],
            device=device,
            dense=dense,
            precision=precision,
            kv=kv,
            threads=threads,
            deterministic=deterministic,
            limits=_native(limits),
            progress=progress,
            wait=wait,
        )
        return cls(core, checkpoint.stop_ids, checkpoint.tokenizer, limits)

    @classmethod
    def random(
        cls,
        shape: str | Mapping[str, Any] = "tiny",
        *,
        seed: int = 0,
        device: str = "auto",
        dense: str = "bf16",
        precision: str = "fast",
        kv: str = "f16",
        threads: int | None = None,
        deterministic: bool = False,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> "Model":
        """Make a model with random weights: to time a machine before a download.

        shape: "tiny", "20b", "120b", or what a config.json holds. The same seed gives the same
        weights everywhere. It has no tokenizer and no stop ids. Other arguments and errors are
        those of `load`.
        """
        config = parse_config(shape) if isinstance(shape, Mapping) else named_shape(shape)
        core = _core.Model.random(
            config,
            seed=seed,
            device=device,
            dense=dense,
            precision=precision,
            kv=kv,
            threads=threads,
            deterministic=deterministic,
            limits=_native(limits),
            progress=progress,
        )
        return cls(core, (), None, limits)

    @classmethod
    def demo(
        cls,
        *,
        device: str = "auto",
        dense: str = "bf16",
        precision: str = "fast",
        kv: str = "f16",
        threads: int | None = None,
        deterministic: bool = False,
        limits: Limits | None = None,
    ) -> "Model":
        """Load the small trained model inside the wheel: sums, two tools, a few capitals."""
        return cls.load(
            demo_path(),
            device=device,
            dense=dense,
            precision=precision,
            kv=kv,
            threads=threads,
            deterministic=deterministic,
            limits=limits,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read when first asked for.

        Raises CheckpointError if there is no tokenizer.json, or a damaged one.
        """
        if self._tokenizer is None:
            if self._tokenizer_file is None:
                raise _core.CheckpointError(
                    "this model has no tokenizer.json; work with token ids, or use "
                    "Tokenizer.from_file"
                )
            self._tokenizer = Tokenizer.from_file(self._tokenizer_file)
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer_file is not None

    def session(self, *, max_context: int | None = None) -> Session:
        """Start a conversation of up to max_context tokens (the model's own limit).

        Memory for it is taken as it grows. Raises InvalidArgument.
        """
        return self._opened(self._core.session(max_context))

    def _opened(self, core: _core.Session) -> Session:
        return Session(core, self.stop_ids, lambda: self.tokenizer)

    def load_session(self, path: str | os.PathLike[str]) -> Session:
        """Return a session that goes on from a file of `Session.save`, to the same bits.

        Raises CheckpointError naming the file if it cannot be read, is no saved session, is damaged
        or was saved from a model of other weights, options (kv, too) or another kind of device:
        nothing has changed then. Raises OutOfMemory, EngineBusy when others' caches take all there
        is.
        """
        path = checked_path(path)
        self.wait()  # what tells this model from others is in its weights
        return self._opened(self._core.load_session(path))

    def info(self) -> dict[str, Any]:
        """Sizes, bytes, the kernel of each stage, what the caches take, what requantising lost.

        `"caches"`: bytes of the device's memory that the sessions' keys and values may take, take,
        and were promised; of the host's; what kept prefixes take of them; how many streams go on
        and wait.

        `"dense_errors"` is by tensor: root of (squared error / squared weight);
        `"worst_dense_error"` is the largest of them, 0 where nothing was requantised.
        """
        info = self._core.info()
        info["worst_dense_error"] = max(info["dense_errors"].values(), default=0.0)
        return info

    def wait(self) -> None:
        """Wait until the weights are there, where `load` did not. Raises what `load` would."""
        self._core.wait()

    @property
    def loaded(self) -> float:
        """How much of the weights is there, from 0 to 1."""
        return self._core.loaded

    def read_rate(self) -> float:
        """Measure the bytes a second the device reads from the weights without arithmetic."""
        return self._core.read_rate()

    def decode_bytes(self, position: int = 0) -> int:
        """Return the bytes that decoding one token at the position reads."""
        return self._core.decode_bytes(position)

    def close(self) -> None:
        """Free the weights now. Sessions stay as handles whose calls raise InvalidArgument."""
        self._core.close()

    @property
    def closed(self) -> bool:
        return self._core.closed


def _native(limits: Limits | None) -> dict[str, int | None]:
    if limits is not None and not isinstance(limits, Limits):
        raise _core.InvalidArgument(f"limits is {limits!r}, wanted a Limits")
    return (limits or Limits()).native()


def demo_path() -> Path:
    """Return the folder of the small checkpoint inside the package."""
    return Path(str(resources.files("gptoss_native"))) / "demo"
