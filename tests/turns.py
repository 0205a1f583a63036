"""Turns of a random model, which by itself would never write a header, a document or an end."""

import gptoss_native as gn
from constraint_kinds import SMALL
from gptoss_native.harmony import ToolDescription, ToolNamespace, parse
from gptoss_native.model import demo_path

PROMPT = [3, 1, 4]
TEXT = {"type": "string", "maxLength": 12}
WEATHER = ToolDescription(
    "get_weather",
    "Gets the weather.",
    {
        "type": "object",
        "properties": {"city": TEXT, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = ToolDescription("clock", "Tells the time.")
SEARCH = ToolNamespace("search", "Searches.", (ToolDescription("web", "Searches.", None),))


def small_tokenizer():
    return gn.Tokenizer.from_checkpoint(demo_path())


def random_model(config, tokenizer, **options):
    return gn.Model.random(config(**SMALL | {"vocab_size": tokenizer.vocab_size}), **options)


def ends(tokenizer):
    return [tokenizer.special[f"<|{name}|>"] for name in ("return", "call", "end")]


def sampling(tokenizer, seed=None, likely=(), bias=5.0):
    """Return a sampling under which contents end, and the texts `likely` come; None: greedy."""
    wanted = [*ends(tokenizer), *(i for text in likely for i in tokenizer.encode_ordinary(text))]
    how = {"temperature": 0.0} if seed is None else {"seed": seed}
    return gn.Sampling(logit_bias=dict.fromkeys(wanted, bias), **how)


def stream_of(session, tokenizer, turn, seed=None, count=400, prompt=PROMPT, **options):
    *stop_ids, _ = ends(tokenizer)
    how = sampling(tokenizer, seed, **options)
    return session.generate(
        prompt, max_new_tokens=count, sampling=how, stop_ids=stop_ids, constraint=turn
    )


def ids_of(stream):
    return [token.id for token in stream]


def read(tokenizer, turn, stream):
    """Return the ids and messages of a stream; it ended where the turn did, and parses as one."""
    ids = ids_of(stream)
    messages, anomalies = parse(tokenizer, ids)
    if stream.stats.finish_reason == "length":
        # Cut off in a character or in a header, nowhere else.
        assert not turn.finished
        assert len(anomalies) <= 1
    else:
        assert stream.stats.finish_reason == "stop"
        assert turn.finished
        assert anomalies == []
    return ids, messages
