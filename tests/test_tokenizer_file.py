"""What a tokenizer.json may hold, and what is refused."""

import copy
import random

import pytest
from gptoss_native import CheckpointError, InvalidArgument
from gptoss_native.tokenizer import Tokenizer
from o200k import (
    DEMO,
    added,
    demo_json,
    load,
)


def refusal(tmp_path, values, *parts):
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, values)
    message = str(caught.value)
    assert len(message) < 1000
    for part in ("tokenizer.json: ", *parts):
        assert part in message


def test_two_names_of_one_id_both_encode_and_the_first_decodes(tmp_path):
    values = demo_json()
    values["added_tokens"].append(added("<|finis|>", 1021))
    tokenizer = load(tmp_path, values)
    assert tokenizer.vocab_size == 1024
    assert tokenizer.encode("<|end|><|finis|>", allow_special=True) == [1021, 1021]
    assert tokenizer.decode([1021]) == "<|end|>"


def test_gaps_of_the_vocabulary_are_no_tokens(tmp_path):
    values = demo_json()
    values["added_tokens"].append(added("<|far|>", 1100))
    tokenizer = load(tmp_path, values)
    assert tokenizer.vocab_size == 1101
    assert tokenizer.token_bytes(1100) == b"<|far|>"
    with pytest.raises(InvalidArgument, match=r"the id 1050; .* 1025 tokens with ids below 1101"):
        tokenizer.decode([1050])


def test_added_tokens_that_are_not_special_are_found_in_any_text(tmp_path):
    values = demo_json()
    values["added_tokens"] += [added("\u00abq\u00bb", 1024, special=False)]
    values["added_tokens"] += [added("\u00abq\u00bb!", 1025, special=False)]
    tokenizer = load(tmp_path, values)
    assert len(tokenizer.special) == 9
    text = "a\u00abq\u00bbb\u00abq\u00bb!"
    for encode in (tokenizer.encode, tokenizer.encode_ordinary):
        assert [i for i in encode(text) if i > 1023] == [1024, 1025]  # the longest name wins
        assert tokenizer.decode(encode(text)) == text


def test_a_special_token_in_the_vocabulary_never_comes_out_of_plain_text(tmp_path):
    values = demo_json()
    values["added_tokens"].append(added("an", values["model"]["vocab"]["an"]))
    merges = values["model"]["merges"]
    values["model"]["merges"] = [pair for pair in merges if "an" not in (*pair, "".join(pair))]
    tokenizer = load(tmp_path, values)
    special = tokenizer.special["an"]
    assert special not in tokenizer.encode_ordinary("an answer and a piano")
    assert tokenizer.decode(tokenizer.encode_ordinary("an answer")) == "an answer"
    assert tokenizer.encode("an", allow_special=True) == [special]


def test_both_spellings_of_merges_are_read(tmp_path):
    tokenizer = Tokenizer.from_checkpoint(DEMO)
    values = demo_json()
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]
    text = "What is the weather in Zurich?"
    assert load(tmp_path, values).encode(text) == tokenizer.encode(text)


def test_a_folder_without_tokenizer_json_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json in this folder"):
        Tokenizer.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        Tokenizer.from_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is missing, or no regular file"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    (tmp_path / "original").mkdir()
    assert Tokenizer.from_checkpoint(tmp_path / "original").vocab_size == 1024


SPLIT, LEVEL = "pre_tokenizer.pretokenizers.0", "pre_tokenizer.pretokenizers.1"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("model", None, "model is None; it must be an object"),
        ("model.type", "Unigram", "model.type is 'Unigram'; it must be \"BPE\""),
        ("model.byte_fallback", True, "model.byte_fallback is True"),
        ("model.dropout", 0.1, "model.dropout is 0.1"),
        ("model.continuing_subword_prefix", "##", "model.continuing_subword_prefix is '##'"),
        ("model.end_of_word_suffix", "</w>", "model.end_of_word_suffix is '</w>'"),
        ("normalizer", {"type": "NFC"}, "normalizer is {'type': 'NFC'}; it must be absent"),
        ("pre_tokenizer", None, "pre_tokenizer is None"),
        ("pre_tokenizer.type", "ByteLevel", "pre_tokenizer.type is 'ByteLevel'"),
        ("pre_tokenizer.pretokenizers", [], "a Split, then a ByteLevel"),
        ("pre_tokenizer.pretokenizers", [1, 2], "pre_tokenizer.pretokenizers[0] is 1"),
        (SPLIT + ".type", "Digits", "pretokenizers[0].type is 'Digits'"),
        (SPLIT + ".behavior", "Removed", "pretokenizers[0].behavior is 'Removed'"),
        (SPLIT + ".invert", True, "pretokenizers[0].invert is True"),
        (SPLIT + ".pattern", {"String": " "}, "pretokenizers[0].pattern.Regex is missing"),
        (SPLIT + ".pattern.Regex", "", "a string that is not empty"),
        (SPLIT + ".pattern.Regex", "(", "Regex is no regular expression"),
        (SPLIT + ".pattern.Regex", "\ud800", "Regex is no regular expression"),
        (SPLIT + ".pattern.Regex", r"\p{L}+", "Regex leaves out text"),
        (SPLIT + ".pattern.Regex", r"\S+| (?!\S)", "Regex leaves out text"),
        (LEVEL + ".type", "Metaspace", "pretokenizers[1].type is 'Metaspace'"),
        (LEVEL + ".add_prefix_space", True, "pretokenizers[1].add_prefix_space is True"),
        (LEVEL + ".use_regex", True, "pretokenizers[1].use_regex is True"),
        ("model.vocab", [], "model.vocab is []; it must be an object"),
        ("model.vocab", {}, "model."),
        ("model.vocab.an", True, "model.vocab.an is True; it must be an integer"),
        ("model.vocab.an", -1, "model.vocab.an is -1"),
        ("model.vocab.an", 2**32, "model.vocab.an is 4294967296"),
        ("model.vocab.an", 3.0, "model.vocab.an is 3.0"),
        ("model.vocab.an", "3", "model.vocab.an is '3'"),
        ("model.vocab.a", 0, "has it too"),
        ("model.vocab.", 1100, "an empty token"),
        ("model.vocab.a b", 1100, "the token 'a b', which stands for no bytes"),
        ("model.vocab.\u6f22", 1100, "stands for no bytes"),
        ("model.vocab.\ud800", 1100, "stands for no bytes"),
        ("model.merges", None, "model.merges is None; it must be a list"),
        ("model.merges.0", ["a"], "model.merges[0] is ['a']; it must be two tokens"),
        ("model.merges.1", ["a", "n", "d"], "model.merges[1]"),
        ("model.merges.2", "an d x", "model.merges[2]"),
        ("model.merges.3", [1, 2], "model.merges[3]"),
        ("model.merges.4", [[], []], "model.merges[4]"),
        ("model.merges.5", None, "model.merges[5]"),
        ("model.merges.6", ["q", "\u00a1"], "model.merges[6]"),
        ("model.merges.7", ["", "a"], "model.merges[7]"),
        ("added_tokens", None, "added_tokens is None; it must be a list"),
        ("added_tokens.0", [], "added_tokens[0] is []; it must be an object"),
        ("added_tokens.1.content", "", "added_tokens[1].content is ''"),
        ("added_tokens.1.content", 5, "added_tokens[1].content is 5"),
        ("added_tokens.1.content", "\ud800", "text without lone surrogates"),
        ("added_tokens.1.id", "1016", "added_tokens[1].id is '1016'"),
        ("added_tokens.1.id", 0, "model.vocab gives it to '!'"),
        ("added_tokens.1.content", "an", "it already has a different id"),
        ("added_tokens.1.content", "<|end|>", "it already has a different id"),
        ("added_tokens.1.special", None, "added_tokens[1].special is None"),
        ("added_tokens.1.lstrip", True, "added_tokens[1].lstrip is True"),
        ("added_tokens.1.rstrip", True, "added_tokens[1].rstrip is True"),
        ("added_tokens.1.single_word", True, "added_tokens[1].single_word is True"),
    ],
)
def test_a_tokenizer_json_this_class_cannot_follow_is_refused_by_key(tmp_path, key, value, reason):
    values = demo_json()
    table = values
    *outer, last = key.split(".")
    for name in outer:
        table = table[int(name) if isinstance(table, list) else name]
    table[int(last) if isinstance(table, list) else last] = value
    refusal(tmp_path, values, reason)


def test_merges_out_of_the_order_of_ids_are_refused(tmp_path):
    values = demo_json()
    merges = values["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]
    refusal(tmp_path, values, "model.merges[4] makes id ", "in the order of ids")


def test_a_vocabulary_that_lacks_a_byte_is_refused(tmp_path):
    values = demo_json()
    del values["model"]["vocab"]["\u0100"]  # stands for the byte 0
    refusal(tmp_path, values, "model.vocab lacks a token for the byte 0x00")


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"{" * 100_000, b"\xff", b'{"model": {}, "model": {}}', b"[NaN]"],
    ids=range(7),
)
def test_a_tokenizer_json_that_is_no_sound_json_is_refused(tmp_path, text):
    refusal(tmp_path, text)


def test_a_mutated_tokenizer_json_never_escapes_as_another_error(tmp_path):
    random_ = random.Random(2)
    demo = demo_json()
    junk = [None, True, 0, -1, 1.5, "", "a", "\ud800", [], [[]], {}, {"": 0}, 2**40, 10**400]
    outcomes = set()
    for _ in range(250):
        values = copy.deepcopy(demo)
        table = values
        while True:
            key = random_.choice(list(table) if isinstance(table, dict) else range(len(table)))
            deeper = isinstance(table[key], dict | list) and table[key]
            if not deeper or random_.random() < 0.1:
                break
            table = table[key]
        if random_.random() < 0.3:
            del table[key]
        else:
            table[key] = random_.choice(junk)
        try:
            load(tmp_path, values)
            outcomes.add(True)
        except CheckpointError:
            outcomes.add(False)
    assert outcomes == {True, False}
