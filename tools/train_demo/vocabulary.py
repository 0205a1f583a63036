"""The demo model's tokenizer.json: byte-level BPE over its own conversations, harmony's tokens.

The split pattern is o200k's but for digits, which are always single: columns need them so.
"""

import itertools
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gptoss_native import Tokenizer
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trained

from .conversation import Writer, draw_prefix, draw_turns

SPECIAL = """startoftext endoftext return constrain channel start end message call""".split()
_LETTERS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS[0]}*{_LETTERS[1]}+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS[0]}+{_LETTERS[1]}*{_ENDING}",
        r"\p{N}{1}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def _tokenizer(vocab: dict[str, int] | None = None, merges: list | None = None) -> Trained:
    made = Trained(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _texts(count: int) -> Iterator[str]:
    """Yield what training will show, as text, special tokens cut out."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        plain = _tokenizer()
        plain.train_from_iterator(
            [], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        )
        tokenizer = _finish(plain, Path(folder))
        writer = Writer(tokenizer)
        names = set(tokenizer.special.values())
        for _ in range(count):
            prefix = draw_prefix(rng, "train")
            ids = writer.prefix(prefix)
            for _ in range(4):
                turns = draw_turns(prefix, rng, "train")
                ids += writer.question(prefix, turns) + writer.answer(turns[-1])[0]
            for special, part in itertools.groupby(ids, names.__contains__):
                if not special:
                    yield tokenizer.decode(list(part))


def _finish(trained: Trained, folder: Path) -> Tokenizer:
    trained.add_special_tokens(
        [AddedToken(f"<|{n}|>", special=True, normalized=False) for n in SPECIAL]
    )
    trained.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_checkpoint(folder)


def build(folder: Path, size: int = 1024, conversations: int = 3000) -> Tokenizer:
    """Write folder/tokenizer.json with `size` tokens in all, and return it."""
    trained = _tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(_texts(conversations), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    made = _finish(trained, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    return made
