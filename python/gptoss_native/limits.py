"""What a model's sessions may take together."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a model's sessions may take together. Checked where a model is made."""

    # Of the device's memory, for the keys and values of all sessions; half of what it has left once
    # the weights are there. Sessions that nobody uses leave it for the host's memory when others
    # need it.
    kv_bytes: int | None = None
    # Of those, for keys and values kept of prompts that later ones may begin with; half. 0: none.
    prefix_bytes: int | None = None
    # Calls and streams that go on at a time; the others wait, by priority and age.
    max_streams: int = 256
    # How many may wait; one more raises EngineBusy.
    max_waiting: int = 128

    def native(self) -> dict[str, int | None]:
        """Return the same for the native part."""
        return asdict(self)
