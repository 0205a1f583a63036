"""tokenizer.json -> text to ids and back. tiktoken merges the bytes; nothing is ever downloaded.

Hugging Face lists merges in order, tiktoken merges the pair whose result has the lowest id: the
two agree where the merges' results rise in id, which is checked.
"""

import codecs
import operator
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import SupportsIndex

from ._core import InvalidArgument
from .checkpoint import MAX_VOCAB, check_folder, find_beside
from .json_fields import Fields, fail, read_object, shown

# Byte-level BPE writes each byte as one printable character; those without one of their own take
# the code points from 256 on. What stands for no byte becomes U+FFFF, which no byte is either.
_HIDDEN = [byte for byte in range(256) if not (32 < byte < 127 or 160 < byte < 173 or byte > 173)]
_TO_BYTE = dict.fromkeys(_HIDDEN, 0xFFFF) | {256 + n: byte for n, byte in enumerate(_HIDDEN)}
# tiktoken's regex engine runs out of stack, and panics, at 999,000 white characters in a row.
_WHITE_LIMIT = 500_000
_WHITE_RUN = re.compile(rf"(?<!\s)\s{{{_WHITE_LIMIT}}}")
# One character of every general category, and the white ones that patterns single out.
_KINDS = "aAǅʰא\u0301\u0903\u20dd1Ⅷ²_-([)«»!+$^¦ \n\r\t\u2028\u2029\x00\xad\ue000\u0378\U0001f600"


def _added_tokens(
    fields: Fields, vocab: dict[str, int], names: dict[int, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ids by name of the special added tokens, and of the others."""
    special: dict[str, int] = {}
    ordinary: dict[str, int] = {}
    for token in fields.objects("added_tokens"):
        name, token_id = token.string("content"), token.integer("id", 0, MAX_VOCAB - 1)
        if name.encode(errors="ignore").decode() != name:
            token.wrong("content", "text without lone surrogates")
        for flag in ("single_word", "lstrip", "rstrip"):
            token.one_of(flag, False, None)
        if names.get(token_id, name) != name:
            token.wrong("id", f"another: model.vocab gives it to {shown(names[token_id])}")
        if any(ids.get(name, token_id) != token_id for ids in (special, ordinary, vocab)):
            token.wrong("content", "another: it already has a different id")
        (special if token.one_of("special", True, False) else ordinary)[name] = token_id
    return special, ordinary


def _split_pattern(fields: Fields) -> str:
    outer = fields.object("pre_tokenizer")
    outer.one_of("type", "Sequence")
    steps = outer.objects("pretokenizers")
    if len(steps) != 2:
        outer.wrong("pretokenizers", "a Split, then a ByteLevel")
    split, level = steps
    split.one_of("type", "Split")
    split.one_of("behavior", "Isolated")
    split.one_of("invert", False, None)
    level.one_of("type", "ByteLevel")
    level.one_of("add_prefix_space", False)
    level.one_of("use_regex", False)
    return split.object("pattern").string("Regex")


def _check_merges(model: Fields, vocab: dict[str, int]) -> None:
    before = -1
    for n, merge in enumerate(model.sequence("merges")):
        try:
            left, right = merge.split(" ") if type(merge) is str else merge
            _, _, token_id = vocab[left], vocab[right], vocab[left + right]
        except (TypeError, ValueError, KeyError):
            wanted = "two tokens of model.vocab that join to a third"
            fail(model.file, f"model.merges[{n}] is {shown(merge)}; it must be {wanted}")
        if token_id < before:
            order = f"makes id {token_id} after one that makes id {before}"
            fail(model.file, f"model.merges[{n}] {order}; tiktoken needs them in the order of ids")
        before = token_id


def _byte_ranks(model: Fields, vocab: dict[str, int]) -> dict[bytes, int]:
    ranks = {}
    for text, token_id in vocab.items():
        try:
            ranks[text.translate(_TO_BYTE).encode("latin-1")] = token_id
        except UnicodeEncodeError:
            what = f"model.vocab has the token {shown(text)}, which stands for no bytes"
            fail(model.file, f"{what} in the byte-level alphabet")
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if lacking or b"" in ranks:
        what = f"lacks a token for the byte {lacking[0]:#04x}" if lacking else "has an empty token"
        fail(model.file, f"model.vocab {what}")
    return ranks


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the first of the names, the longest where several begin."""
    longest_first = map(re.escape, sorted(names, key=len, reverse=True))
    return re.compile("|".join(longest_first) or "(?!)")


class StreamDecoder:
    """Decodes ids one at a time; what it returns never ends inside a UTF-8 character."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: SupportsIndex) -> str:
        """Return the text that is whole now, "" if none; an unknown id changes nothing."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return U+FFFD for a character begun and not finished, or "", and start afresh."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """A checkpoint's byte-level BPE vocabulary and its special tokens. Safe to share by threads.

    `special` gives the ids of the special tokens by name, read-only; two names may share an id.
    `vocab_size` is the highest id and one: some ids under it may belong to no token.
    """

    def __init__(self, fields: Fields) -> None:
        model = fields.object("model")
        model.one_of("type", "BPE")
        model.one_of("byte_fallback", False, None)
        model.one_of("dropout", None, 0, 0.0)
        model.one_of("continuing_subword_prefix", None, "")
        model.one_of("end_of_word_suffix", None, "")
        fields.one_of("normalizer", None)
        pattern = _split_pattern(fields)
        listed = model.object("vocab")
        vocab = {text: listed.integer(text, 0, MAX_VOCAB - 1) for text in listed.values}
        names = dict(zip(vocab.values(), vocab, strict=True))
        for text, token_id in vocab.items():
            if names[token_id] != text:
                listed.wrong(text, f"another id: {shown(names[token_id])} has it too")
        special, ordinary = _added_tokens(fields, vocab, names)
        # A special token that the vocabulary also lists must never come out of plain text.
        for name in special:
            vocab.pop(name, None)
        _check_merges(model, vocab)
        ranks = _byte_ranks(model, vocab)
        # Here and not above: who works with ids alone starts without it.
        import tiktoken

        try:
            self._bpe = tiktoken.Encoding(
                "gpt-oss", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except ValueError as error:
            fail(fields.file, f"pre_tokenizer's Regex is no regular expression: {error}", error)
        self._ids = special | ordinary
        self._any_added, self._any_ordinary = _any_of(self._ids), _any_of(ordinary)
        self.special = MappingProxyType(special)
        added = {token_id: name.encode() for name, token_id in reversed(self._ids.items())}
        self._bytes = added | {token_id: text for text, token_id in ranks.items()}
        self.vocab_size = max(self._bytes) + 1
        # tiktoken drops what the pattern does not match; Hugging Face keeps it.
        every_pair = "".join(a + b for a in _KINDS for b in _KINDS)
        if self.decode(self._merge(every_pair)) != every_pair:
            fail(fields.file, "pre_tokenizer's Regex leaves out text that it should split")

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read the tokenizer.json of a checkpoint's folder (for `original/`, of the one above).

        Raises CheckpointError if there is none, or as `from_file` does.
        """
        file = find_beside(check_folder(path), "tokenizer.json")
        if file is None:
            fail(path, "no tokenizer.json in this folder")
        return cls.from_file(file)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a tokenizer.json.

        Raises CheckpointError naming the key that is damaged, or that this class cannot follow:
        anything but byte-level BPE over one Split by a regular expression.
        """
        return cls(read_object(Path(path)))

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of a text; nothing is put before or after it.

        With `allow_special` the names of special tokens become their ids; without, a text that
        holds one raises InvalidArgument. So does a lone surrogate, or 500,000 white characters in
        a row.
        """
        return self._encode(text, self._any_added, {} if allow_special else self.special)

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text in which special names are plain text; errors as `encode`."""
        return self._encode(text, self._any_ordinary, {})

    def token_bytes(self, token_id: SupportsIndex) -> bytes:
        """Return the bytes of one token; InvalidArgument if the vocabulary has no such id."""
        try:
            return self._bytes[operator.index(token_id)]
        except (KeyError, TypeError):
            has = f"the vocabulary has {len(self._bytes)} tokens with ids below {self.vocab_size}"
            raise InvalidArgument(f"no token has the id {shown(token_id)}; {has}") from None

    def decode_bytes(self, ids: Iterable[SupportsIndex]) -> bytes:
        """Return the bytes of the tokens; InvalidArgument as `token_bytes`."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[SupportsIndex], errors: str = "replace") -> str:
        """Return the text of the tokens; `errors` as in `bytes.decode`, for bytes that are no text.

        Raises InvalidArgument for an unknown id, and with errors="strict" for bad UTF-8.
        """
        try:
            return self.decode_bytes(ids).decode(errors=errors)
        except (UnicodeDecodeError, LookupError) as error:
            raise InvalidArgument(f"the tokens with errors={errors!r}: {error}") from error

    def stream(self) -> StreamDecoder:
        """Return a decoder for ids that come one at a time."""
        return StreamDecoder(self)

    def _encode(self, text: str, added: re.Pattern[str], refused: Mapping[str, int]) -> list[int]:
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise InvalidArgument(f"the text is no str of whole characters: {error}") from None
        if len(text) >= _WHITE_LIMIT and (run := _WHITE_RUN.search(text)):
            what = f"{_WHITE_LIMIT} white characters in a row at character {run.start()}"
            raise InvalidArgument(f"the text has {what}, too many to split")
        ids: list[int] = []
        at = 0
        for match in added.finditer(text):
            if (name := match.group()) in refused:
                where = f"the text has the special token {name} at character {match.start()}"
                how = "allow_special=True encodes it, encode_ordinary() takes it as plain text"
                raise InvalidArgument(f"{where}; {how}")
            ids += self._merge(text[at : match.start()])
            ids.append(self._ids[name])
            at = match.end()
        return ids + self._merge(text[at:])

    def _merge(self, text: str) -> list[int]:
        try:
            return self._bpe.encode_ordinary(text)
        except BaseException as error:  # a Rust panic is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise InvalidArgument(f"tiktoken cannot split the text: {error}") from None
