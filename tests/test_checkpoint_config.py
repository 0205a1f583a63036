"""config.json and the stop ids: every value that is refused, by name."""

import json
import os

import pytest
from checkpoint_files import (
    CONFIGS,
    HUGGINGFACE,
    MISSING,
    NOT_INTEGERS,
    NOT_NUMBERS,
    OPENAI,
    changed,
    refusal,
    write,
)
from gptoss_native.checkpoint import read_checkpoint

# config.json


@pytest.mark.parametrize(
    ("form", "key"),
    [
        (form, key)
        for form, config in CONFIGS.items()
        for key, value in config.items()
        if type(value) is int
        and not key.startswith("rope_")
        and (form, key) != ("huggingface", "experts_per_token")
    ]
    + [("huggingface", "rope_scaling.original_max_position_embeddings")],
)
def test_config_refuses_what_is_no_sane_integer(tmp_path, form, key):
    for value in NOT_INTEGERS:
        if value is MISSING and key in ("num_experts", "initial_context_length"):
            continue  # what tells the form from Hugging Face's: see below
        path = write(tmp_path, changed(CONFIGS[form], key, value))
        given = " is missing;" if value is MISSING else " is "
        refusal(path, "config.json: ", key + given, "; it must be ")


@pytest.mark.parametrize(
    ("form", "key"),
    [
        ("huggingface", "rms_norm_eps"),
        ("huggingface", "rope_theta"),
        ("huggingface", "swiglu_limit"),
        ("huggingface", "rope_scaling.beta_fast"),
        ("huggingface", "rope_scaling.beta_slow"),
        ("huggingface", "rope_scaling.factor"),
        ("openai", "rope_ntk_alpha"),
        ("openai", "rope_ntk_beta"),
        ("openai", "rope_scaling_factor"),
        ("openai", "rope_theta"),
        ("openai", "swiglu_limit"),
    ],
)
def test_config_refuses_what_is_no_sane_number(tmp_path, form, key):
    for value in NOT_NUMBERS:
        refusal(write(tmp_path, changed(CONFIGS[form], key, value)), "config.json: ", key)
    text = json.dumps(changed(CONFIGS[form], key, "VALUE")).encode()
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000):
        refusal(write(tmp_path, text.replace(b'"VALUE"', number)), "config.json: ")


@pytest.mark.parametrize(
    ("form", "key", "value", "wanted"),
    [
        ("huggingface", "model_type", "llama", '"gpt_oss"'),
        ("huggingface", "model_type", MISSING, '"gpt_oss"'),
        ("huggingface", "hidden_act", "gelu", '"silu"'),
        ("huggingface", "attention_bias", False, "true"),
        ("huggingface", "attention_bias", 1, "true"),
        ("huggingface", "tie_word_embeddings", True, "false"),
        ("huggingface", "quantization_config.quant_method", "gptq", '"mxfp4"'),
        ("huggingface", "quantization_config", [], "an object"),
        ("huggingface", "experts_per_token", 2, "4"),
        ("huggingface", "hidden_size", 100, "a multiple of 32"),
        ("huggingface", "intermediate_size", 48, "a multiple of 32"),
        ("huggingface", "head_dim", 96, "from 32 to 64"),
        ("huggingface", "head_dim", 48, "a multiple of 32"),
        ("huggingface", "num_key_value_heads", 4, "a divisor of num_attention_heads, 6"),
        ("huggingface", "num_local_experts", 129, "to 128"),
        ("huggingface", "num_experts_per_tok", 9, "at most the number of experts, 8"),
        ("huggingface", "max_position_embeddings", 1024, "from 2048"),
        ("huggingface", "rope_scaling", MISSING, "an object"),
        ("huggingface", "rope_scaling", None, "an object"),
        ("huggingface", "rope_scaling.rope_type", "llama3", '"yarn"'),
        ("huggingface", "rope_scaling.rope_type", MISSING, '"yarn"'),
        ("huggingface", "rope_scaling.rope_type", ["yarn"], '"yarn"'),
        ("huggingface", "rope_scaling.truncate", 0, "false or true"),
        ("huggingface", "rope_scaling.truncate", MISSING, "false or true"),
        ("huggingface", "rope_scaling.attention_factor", 1.0, "absent"),
        ("huggingface", "rope_scaling.mscale", 1.0, "absent"),
        ("huggingface", "rope_scaling.partial_rotary_factor", 0.5, "absent"),
        ("huggingface", "rope_scaling.beta_fast", 2.0, "more than the slow beta, 2"),
        ("huggingface", "layer_types", ["full_attention"] * 2, "as long as num_hidden_layers, 3"),
        ("huggingface", "layer_types", "full_attention", "a list"),
        ("huggingface", "layer_types", ["full_attention", "chunked", "x"], "layer_types[1]"),
        ("huggingface", "layer_types", ["full_attention", [], None], "layer_types[1]"),
        ("openai", "experts_per_token", 9, "at most the number of experts, 8"),
        ("openai", "num_experts", MISSING, 'model_type is missing; it must be "gpt_oss"'),
        ("openai", "rope_ntk_beta", 1, "more than the slow beta, 1"),
        ("openai", "rope_scaling_factor", 1e5, "at most 16777216 / 4096"),
    ],
)
def test_config_refuses_another_model_by_the_key(tmp_path, form, key, value, wanted):
    message = refusal(write(tmp_path, changed(CONFIGS[form], key, value)), "config.json: ", wanted)
    assert key in message or value is MISSING


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "no object: []"),
        (b'"gpt_oss"', "no object"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": "\xff"}', "codec can't decode byte 0xff"),
        ('{"a": 1}'.encode("utf-16"), "codec can't decode"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        (b'{"a": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
    ],
)
@pytest.mark.parametrize("name", ["config", "index", "generation"])
def test_broken_json_is_refused_with_the_reason(tmp_path, name, text, reason):
    path = write(tmp_path, **{name: text})
    message = refusal(path, reason)
    assert {"index": "index.json", "generation": "generation_config"}.get(name, name) in message


def test_a_json_file_above_the_limit_is_not_read(tmp_path):
    path = write(tmp_path)
    os.truncate(path / "config.json", 10**8 + 1)  # a sparse file
    refusal(path, "config.json: has 100000001 bytes; at most 100000000 are allowed")


def test_deeply_nested_values_are_refused_and_shown_short(tmp_path):
    for depth in range(900, 1000, 7):
        text = json.dumps(changed(HUGGINGFACE, "hidden_size", "VALUE"))
        path = write(tmp_path, text.replace('"VALUE"', "[" * depth + "]" * depth).encode())
        refusal(path, "config.json: ")


# Stop ids


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "expected"),
    [
        ({"eos_token_id": [7, 499, 7]}, 5, None, (7, 499)),
        ({"eos_token_id": 0}, 5, None, (0,)),
        ({"eos_token_id": None}, 5, None, (5,)),
        ({}, [5, 6], None, (5, 6)),
        (None, 5, [("<|call|>", 8)], (5,)),
        (None, None, [("<|start|>", 9), ("<|return|>", 3), ("<|call|>", 8)], (3, 8)),
        (None, None, [], ()),
        (None, None, None, ()),
    ],
)
def test_stop_ids_come_from_the_first_file_that_has_them(
    tmp_path, generation, config, tokenizer, expected
):
    files = {} if generation is None else {"generation": generation}
    if tokenizer is not None:
        added = [{"content": name, "id": token_id} for name, token_id in tokenizer]
        files["tokenizer"] = {"added_tokens": added}
    path = write(tmp_path, changed(HUGGINGFACE, "eos_token_id", config), **files)
    checkpoint = read_checkpoint(path)
    assert checkpoint.stop_ids == expected
    assert checkpoint.tokenizer == (None if tokenizer is None else path / "tokenizer.json")


def test_without_any_file_the_published_stop_ids_are_taken(tmp_path):
    path = write(tmp_path, changed(OPENAI, "vocab_size", 201088))
    assert read_checkpoint(path).stop_ids == (200002, 200012)
    path = write(tmp_path, changed(OPENAI, "vocab_size", 200012))
    assert read_checkpoint(path).stop_ids == (200002,)


@pytest.mark.parametrize("value", [500, -1, True, 3.0, "3", [], [1, 500], [[1]], {}, 10**400])
def test_a_stop_id_outside_the_vocabulary_is_refused(tmp_path, value):
    path = write(tmp_path / "a", generation={"eos_token_id": value})
    refusal(path, "generation_config.json: eos_token_id is ", "a token id below 500")
    path = write(tmp_path / "b", changed(HUGGINGFACE, "eos_token_id", value))
    refusal(path, "config.json: eos_token_id is ", "a token id below 500")


@pytest.mark.parametrize(
    "tokenizer",
    [{}, {"added_tokens": {}}, {"added_tokens": [1]}, {"added_tokens": [{"content": "<|call|>"}]}]
    + [{"added_tokens": [{"content": "<|return|>", "id": token}]} for token in (500, True, "1")],
)
def test_a_tokenizer_that_gives_no_sane_stop_ids_is_refused(tmp_path, tokenizer):
    refusal(write(tmp_path, tokenizer=tokenizer), "tokenizer.json: added_tokens")
