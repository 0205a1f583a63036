"""gptoss_native.tokenizer: the same ids as the published tokenizer, and nothing lost on the way."""

import base64
import copy
import hashlib
import json
import pathlib
import random
import socket
import threading

import numpy as np
import pytest
import tiktoken
from gptoss_native import CheckpointError, InvalidArgument
from gptoss_native.tokenizer import Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from o200k import (
    DEMO,
    O200K_SHA256,
    O200K_SPECIAL,
    added,
    as_tokenizer_json,
    demo_json,
    o200k_ranks,
)

CASES = pathlib.Path(__file__).parent / "goldens" / "tiny_trained_cases.jsonl"
# Where texts go wrong: characters of 2 to 4 bytes, joined emoji, combining marks, special tokens.
PIECES = ["a", " the", "7", "\n\n", "\u00e9", "e\u0301", "\u6f22", "\U0001f468\u200d\U0001f469"]
PIECES += ["\U0001f9d1\U0001f3fd", "\u0000", "\u00a0", "\uffff", "<|", "|>", "<|end|>", "start"]
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_checkpoint(DEMO)


def load(tmp_path, values):
    """Read a tokenizer.json given as bytes or as a JSON value."""
    file = tmp_path / "tokenizer.json"
    file.write_bytes(values if isinstance(values, bytes) else json.dumps(values).encode())
    return Tokenizer.from_file(file)


def refusal(tmp_path, values, *parts):
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, values)
    message = str(caught.value)
    assert len(message) < 1000
    for part in ("tokenizer.json: ", *parts):
        assert part in message


# Text to ids and back


def test_the_trained_prompts_have_the_ids_of_the_reference():
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    assert len(cases) == 10
    for case in cases:
        assert tokenizer.encode(case["prompt"], allow_special=True) == case["prompt_ids"]
        assert tokenizer.decode(case["prompt_ids"]) == case["prompt"]
        assert tokenizer.decode(case["greedy_ids"]) == case["greedy"]


def test_special_tokens_are_known_by_name_and_read_only(tokenizer):
    assert tokenizer.vocab_size == 1024
    assert tokenizer.special["<|return|>"] == 1017
    assert tokenizer.special["<|call|>"] == 1023
    assert len(tokenizer.special) == 9
    with pytest.raises(TypeError):
        tokenizer.special["<|return|>"] = 0


@given(texts)
def test_text_survives_the_way_to_ids_and_back(tokenizer, text):
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids, errors="strict") == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


@given(texts)
def test_a_stream_gives_the_decoded_text_and_never_part_of_a_character(tokenizer, text):
    ids = tokenizer.encode(text, allow_special=True)
    stream = tokenizer.stream()
    parts = [stream.push(token_id) for token_id in ids]
    assert stream.flush() == ""
    assert "".join(parts) == text
    # What has come so far is all that is whole so far.
    done = b"".join(map(tokenizer.token_bytes, ids[: len(ids) // 2])).decode(errors="ignore")
    assert "".join(parts[: len(ids) // 2]) == done


@given(st.lists(st.integers(0, 1023)))
def test_a_stream_of_any_ids_gives_the_text_of_decode(tokenizer, ids):
    stream = tokenizer.stream()
    text = "".join(map(stream.push, ids)) + stream.flush()
    assert text == tokenizer.decode(ids)


def test_an_emoji_of_several_tokens_streams_as_one_character(tokenizer):
    ids = tokenizer.encode("\U0001f600")
    assert len(ids) > 1
    stream = tokenizer.stream()
    assert [stream.push(token_id) for token_id in ids] == [""] * (len(ids) - 1) + ["\U0001f600"]


def test_a_character_cut_short_is_flushed_as_a_replacement_and_the_stream_starts_afresh(tokenizer):
    ids = tokenizer.encode("\U0001f600")
    stream = tokenizer.stream()
    for _ in range(2):
        assert "".join(map(stream.push, ids[:-1])) == ""
        assert stream.flush() == "\ufffd"
        assert stream.push(tokenizer.encode("a")[0]) == "a"
    with pytest.raises(InvalidArgument, match="errors='strict'"):
        tokenizer.decode(ids[:-1], errors="strict")
    with pytest.raises(InvalidArgument, match="errors='nonsense'"):
        tokenizer.decode(ids[:-1], errors="nonsense")
    assert tokenizer.decode(ids[:-1], errors="ignore") == ""


def test_text_that_holds_a_special_token_is_refused_unless_allowed(tokenizer):
    text = "Say <|end|> now"
    with pytest.raises(InvalidArgument, match=r"<\|end\|> at character 4; allow_special=True"):
        tokenizer.encode(text)
    ids = tokenizer.encode(text, allow_special=True)
    assert ids.count(tokenizer.special["<|end|>"]) == 1
    assert tokenizer.decode(ids) == text
    plain = tokenizer.encode_ordinary(text)
    assert tokenizer.special["<|end|>"] not in plain
    assert tokenizer.decode(plain) == text
    assert tokenizer.encode("<|end") == tokenizer.encode_ordinary("<|end")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "<|end|>\udc80", b"bytes", None, 3, ["a"]])
def test_what_is_no_text_is_refused(tokenizer, text):
    for encode in (tokenizer.encode, tokenizer.encode_ordinary):
        with pytest.raises(InvalidArgument, match="no str of whole characters"):
            encode(text)


@pytest.mark.parametrize("token_id", [1024, -1, 2**40, 1.0, "a", None])
def test_an_unknown_id_is_refused_by_name(tokenizer, token_id):
    stream = tokenizer.stream()
    stream.push(tokenizer.encode("\U0001f600")[0])
    for decode in (
        tokenizer.token_bytes,
        stream.push,
        lambda token: tokenizer.decode([0, token]),
        lambda token: tokenizer.decode_bytes([token]),
    ):
        with pytest.raises(
            InvalidArgument, match=f"no token has the id {token_id!r}; .*below 1024"
        ):
            decode(token_id)
    assert stream.flush() == "\ufffd"  # what was begun is still there


def test_an_id_too_long_to_show_is_refused(tokenizer):
    with pytest.raises(InvalidArgument, match="no token has the id some int"):
        tokenizer.token_bytes(10**5000)


def test_ids_may_be_numpy_integers(tokenizer):
    ids = tokenizer.encode("seventeen")
    assert tokenizer.decode(np.array(ids, np.int32)) == "seventeen"


def test_long_runs_of_one_character_are_encoded_or_refused(tokenizer):
    for character in "a", "A", "0", "^", " ", "\n", "\u00e9":
        text = character * 100_000 + "x"
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # From 999,000 on tiktoken panics, which is no Exception in Python.
    for character in " ", "\n", "\t":
        with pytest.raises(InvalidArgument, match="500000 white characters in a row at character"):
            tokenizer.encode("x" + character * 1_000_000 + "x")


def test_threads_share_a_tokenizer(tokenizer):
    text = "<|start|>user<|message|>What is 17 + 25?<|end|>" * 50
    expected = tokenizer.encode(text, allow_special=True)
    found = []

    def work():
        found.extend(tokenizer.encode(text, allow_special=True) == expected for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200


def test_no_socket_is_opened(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the tokenizer opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert Tokenizer.from_checkpoint(DEMO).encode("a")


# What a tokenizer.json may hold


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


def test_both_spellings_of_merges_are_read(tmp_path, tokenizer):
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


# The published vocabulary


def test_the_published_vocabulary_gives_the_ids_of_tiktoken(tmp_path):
    ranks = o200k_ranks()
    values = as_tokenizer_json(ranks, O200K_SPECIAL)
    tokenizer = load(tmp_path, values)
    assert tokenizer.vocab_size == 201088
    pattern = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    reference = tiktoken.Encoding(
        "o200k", pat_str=pattern, mergeable_ranks=ranks, special_tokens=O200K_SPECIAL
    )
    assert tokenizer.encode("hello world") == [24912, 2375]
    both = "<|endofprompt|><|reserved_200018|>"
    assert tokenizer.encode(both, allow_special=True) == [200018, 200018]
    lines = b"".join(
        base64.b64encode(tokenizer.token_bytes(n)) + b" %d\n" % n for n in range(199998)
    )
    assert hashlib.sha256(lines).hexdigest() == O200K_SHA256
    with pytest.raises(InvalidArgument, match="no token has the id 200019"):
        tokenizer.decode([200019])

    @settings(max_examples=200, database=None)
    @given(texts)
    def same(text):
        expected = reference.encode(text, allowed_special="all")
        assert tokenizer.encode(text, allow_special=True) == expected
        assert tokenizer.encode_ordinary(text) == reference.encode_ordinary(text)

    same()
