"""gptoss_native.tokenizer: the same ids as the published tokenizer, and nothing lost on the way."""

import base64
import hashlib
import json
import pathlib
import socket
import threading

import numpy as np
import pytest
import tiktoken
from gptoss_native import InvalidArgument
from gptoss_native.tokenizer import Tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from o200k import (
    DEMO,
    O200K_SHA256,
    O200K_SPECIAL,
    as_tokenizer_json,
    load,
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
