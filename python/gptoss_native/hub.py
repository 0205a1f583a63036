"""Checkpoints from Hugging Face's hub: pinned revisions, and only the files that are read.

Needs the extra `hub`. huggingface_hub downloads, shows progress, checks and resumes.
"""

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from ._core import CheckpointError, InvalidArgument
from .json_fields import shown

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

# The commits that were current when this was written: what a name gives does not change.
REVISIONS = {
    "openai/gpt-oss-20b": "6cee5e81ee83917806bbde320786a8fb61efebee",
    "openai/gpt-oss-120b": "b5c939de8f754692c1647ca79fbf85e8c1e70f8a",
}
# Not original/ and metal/: the same weights in other forms, as large again each.
FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "LICENSE*",
    "USAGE_POLICY*",
]
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _wanted(info: "ModelInfo") -> list[tuple[str, int]]:
    """Return the names and sizes of the files that are read."""
    return [
        (file.rfilename, file.size or 0)
        for file in info.siblings or ()
        if any(fnmatch(file.rfilename, pattern) for pattern in FILES)
    ]


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _check_room(info: "ModelInfo", folder: Path) -> None:
    """Refuse what the disk can not hold; files that are there already count as downloaded."""
    lacking = sum(size for name, size in _wanted(info) if not _whole(folder / name, size))
    above = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(above).free
    if lacking > free:
        raise CheckpointError(
            f"{info.id} takes {lacking / 1e9:.1f} GB more, {above} has {free / 1e9:.1f} GB free"
        )


def pull(
    repository: str, folder: str | Path | None = None, *, revision: str | None = None
) -> tuple[Path, str]:
    """Download a checkpoint, or what is lacking of it; return its folder and its commit.

    repository: as "openai/gpt-oss-20b". folder: default, the repository's own name in the current
    directory. revision: a commit, a tag or a branch; default, the pinned commit of OpenAI's two
    models, "main" of others. A download that was interrupted goes on where it was.

    Raises InvalidArgument for what is no repository's name or where the extra `hub` lacks,
    CheckpointError where the hub or the disk refuses; whole files stay.
    """
    if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
        wanted = "OWNER/NAME, as openai/gpt-oss-20b"
        raise InvalidArgument(f"the repository is {shown(repository)}, wanted {wanted}")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        lacking = "downloading needs huggingface_hub: pip install 'gptoss-native[hub]'"
        raise InvalidArgument(lacking) from None
    path = Path(repository.partition("/")[2] if folder is None else folder)
    wanted = revision or REVISIONS.get(repository, "main")
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=wanted, files_metadata=True)
        _check_room(info, path)
        huggingface_hub.snapshot_download(
            repository, revision=info.sha, local_dir=path, allow_patterns=FILES
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        where = f"{repository} at {wanted}"
        raise CheckpointError(f"the hub refuses {where} with status {status}: {error}") from None
    except CheckpointError:
        raise
    except Exception as error:  # the library's HTTP client has errors of its own
        raise CheckpointError(f"{repository} could not be downloaded: {error}") from None
    lacking = [name for name, size in _wanted(info) if not _whole(path / name, size)]
    if lacking:
        raise CheckpointError(f"{repository}: {lacking[0]} is not whole in {path}; pull again")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{repository} at {wanted} has no config.json: it is no checkpoint")
    return path, str(info.sha)
