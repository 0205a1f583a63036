"""Runs a model's code inside the sandbox; `python.py` passes this file's text to `python -c`.

argv[1] is JSON: "limits", rlimit names with values, and "user", an id to become, or null. The code
comes as standard input. Knows nothing of the package: inside the sandbox there may be none.
"""

import ast
import json
import linecache
import os
import resource
import sys
import traceback
import types

NAME = "<code>"


def enclose(limits, user):
    """Set the limits as hard ones, and leave what rights there are."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def close_input():
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def run(source):
    """Run as a notebook's cell: a last expression that is not None is shown."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main  # so that what is defined can be pickled, as in a script
    linecache.cache[NAME] = (len(source), None, source.splitlines(True), NAME)
    tree = ast.parse(source, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NAME, "exec"), main.__dict__)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), NAME, "eval"), main.__dict__)
        if value is not None:
            print(repr(value))


def main():
    settings = json.loads(sys.argv[1])
    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    close_input()
    enclose(settings["limits"], settings["user"])
    sys.argv = [NAME]
    try:
        run(source)
    except SystemExit:
        raise
    except BaseException as error:
        # Without the frames of this file, which say nothing to the model.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != NAME:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.exit(1)


if __name__ == "__main__":
    main()
