"""What the model may write: the envelope of harmony messages, and formats of what is in them."""

from .envelope import Envelope, Turn
from .formats import Format, choice, json_schema, lark, regex

__all__ = ["Envelope", "Format", "Turn", "choice", "json_schema", "lark", "regex"]
