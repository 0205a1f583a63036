"""pull: a checkpoint from the hub into a folder."""

import argparse
import json

from .. import hub
from ..checkpoint import read_checkpoint
from .terminal import gibibytes, say


def pull(args: argparse.Namespace) -> None:
    """Download, check what came, and print the folder."""
    path, commit = hub.pull(args.repository, args.to, revision=args.revision)
    total = read_checkpoint(path).total_bytes
    if args.json:
        values = {"folder": str(path), "repository": args.repository, "commit": commit}
        print(json.dumps(values | {"weight_bytes": total}))
        return
    say(f"{args.repository} at {commit[:12]}: {gibibytes(total)} of weights")
    print(path)
