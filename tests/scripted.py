"""A model whose words are written beforehand, over the real sessions of another: for chats' tests.

What it reads is computed by the model beneath, so that its counters are the engine's.
"""

import gptoss_native as gn
from constraint_kinds import GREEDY
from gptoss_native.harmony import Message
from gptoss_native.stream import Stats, Token


class ScriptedStream:
    def __init__(self, session, ids, script, max_new_tokens, stop_ids, constraint):
        self._session, self._ids, self._script = session, ids, list(script)
        self._left, self._stop_ids = max_new_tokens, stop_ids
        self._given, self._constraint = 0, constraint
        self.usage = None
        self.reason = None

    def __next__(self):
        if self.usage is None:
            if self._ids:
                self._session.prefill(self._ids)
            self.usage = self._session.usage
        if self.reason is None and not self._script:
            self.reason = "stop"
        if self.reason is None and self._given == self._left:
            self.reason = "length"
        if self.reason is not None:
            raise StopIteration
        token = self._script.pop(0)
        if self._constraint is not None:
            self._constraint.accept(token)
        self._session.prefill([token])
        self._given += 1
        if token in self._stop_ids:
            self.reason = "stop"
        return Token(token, -0.5, ())

    async def upcoming(self):
        return next(self, None)

    def cancel(self):
        self.reason = self.reason or "cancelled"

    @property
    def stats(self):
        cached = self.usage.cached_tokens if self.usage else 0
        prefilled = self.usage.prefilled_tokens if self.usage else 0
        return Stats(cached, prefilled, self._given, 0, 0, 0, 0.0, 0.0, 0.0, self.reason, 0, None)


class ScriptedSession:
    def __init__(self, session, scripts):
        self._session, self._scripts = session, scripts

    def __getattr__(self, name):
        return getattr(self._session, name)

    def fork(self):
        return ScriptedSession(self._session.fork(), self._scripts)

    def generate(self, ids, *, max_new_tokens, stop_ids, constraint=None, **_):
        # A session that refuses would refuse here.
        self._session.generate(ids, max_new_tokens=max_new_tokens, stop_ids=stop_ids)
        script = self._scripts.pop(0)
        return ScriptedStream(self._session, ids, script, max_new_tokens, stop_ids, constraint)


class ScriptedModel:
    """Writes the scripts, one for each time it is asked to; they name special tokens as text."""

    def __init__(self, model, *scripts):
        self._model = model
        self.tokenizer, self.stop_ids = model.tokenizer, model.stop_ids
        self.scripts = [
            self.tokenizer.encode(one, allow_special=True) if isinstance(one, str) else one
            for one in scripts
        ]

    def session(self, *, max_context=None):
        return ScriptedSession(self._model.session(max_context=max_context), self.scripts)


def scripted(model, *scripts, **options):
    """Return a chat with it, without the envelope that would keep it from what it writes."""
    return gn.Chat(ScriptedModel(model, *scripts), **{"envelope": False} | options)


BEGIN = "<|start|>assistant"
FINAL = "<|channel|>final<|message|>"
THINK = "<|channel|>analysis<|message|>"


def answer(text):
    return f"{FINAL}{text}<|return|>"


def thought(text):
    return f"{THINK}{text}<|end|>{BEGIN}"


def call(name, arguments="{}", end="<|call|>"):
    return f"<|channel|>commentary to={name} <|constrain|>json<|message|>{arguments}{end}"


def talk(model, **options):
    return gn.Chat(model, **{"sampling": GREEDY} | options)


def user(text):
    return Message("user", text)


def final(text):
    return Message("assistant", text, channel="final")


def analysis(text):
    return Message("assistant", text, channel="analysis")
