"""/v1/completions with the official client: texts and ids that are gone on with as they are."""

import openai
import pytest
from openai.types import Completion
from served import known

# As a chat of this server would begin it.
ASKED = (
    "<|start|>user<|message|>What is 17 + 25?<|end|><|start|>assistant<|channel|>final<|message|>"
)
GREEDY = {"model": "demo", "temperature": 0}


def ask(client, prompt=ASKED, **options):
    return client.completions.create(prompt=prompt, **GREEDY | options)


@pytest.fixture(scope="module")
def tokenizer(served):
    return served.app.state.engine.model.tokenizer


def test_a_text_with_special_tokens_and_its_ids_are_gone_on_with_alike(client, tokenizer):
    ids = tokenizer.encode(ASKED, allow_special=True)
    text = ask(client, max_tokens=60)
    assert text.choices[0].text
    assert ask(client, ids, max_tokens=60).choices[0].text == text.choices[0].text
    assert text.usage.prompt_tokens == len(ids)
    assert 0 < text.usage.completion_tokens <= 60
    known(Completion.model_validate(text.to_dict()))


def test_a_stream_says_the_same_as_the_whole(client):
    whole = ask(client, max_tokens=40, logprobs=2)
    chunks = list(
        ask(
            client,
            max_tokens=40,
            logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *told, last = chunks
    assert "".join(c.choices[0].text for c in told) == whole.choices[0].text
    assert told[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    tokens = [token for c in told for token in (c.choices[0].logprobs.tokens)]
    assert tokens == whole.choices[0].logprobs.tokens


def test_a_length_a_stop_string_and_an_echo(client):
    text = ask(client, max_tokens=8)
    assert (text.choices[0].finish_reason, text.usage.completion_tokens) == ("length", 8)
    stop = text.choices[0].text[3:5]
    stopped = ask(client, max_tokens=8, stop=[stop]).choices[0]
    assert (stopped.finish_reason, stopped.text) == (
        "stop",
        text.choices[0].text.partition(stop)[0],
    )
    echoed = ask(client, "17 + 25", max_tokens=4, echo=True).choices[0].text
    assert echoed == "17 + 25" + ask(client, "17 + 25", max_tokens=4).choices[0].text


def test_each_prompt_has_its_answers(client):
    options = {"max_tokens": 8, "temperature": 1, "seed": 5, "n": 2}
    both = ask(client, ["17 + 25", "What"], **options)
    assert [one.index for one in both.choices] == [0, 1, 2, 3]
    texts = [one.text for one in both.choices]
    assert texts[:2] == [one.text for one in ask(client, "17 + 25", **options).choices]
    assert texts[2:] == [one.text for one in ask(client, "What", **options).choices]
    assert both.usage.completion_tokens <= 32


def test_logprobs_have_places_in_the_text_and_biases_hold(client, tokenizer):
    choice = ask(client, max_tokens=10, logprobs=3).choices[0]
    told = choice.logprobs
    assert "".join(told.tokens).startswith(choice.text)
    assert [choice.text.find(told.tokens[0]), told.text_offset[1]] == [0, len(told.tokens[0])]
    assert all(one <= 0 for one in told.token_logprobs)
    assert all(len(top) == 3 for top in told.top_logprobs)
    first = tokenizer.encode(told.tokens[0])[0]
    biased = ask(client, max_tokens=1, logprobs=1, logit_bias={str(first): -100}).choices[0]
    assert biased.logprobs.tokens != told.tokens[:1]


def test_an_empty_prompt_is_refused(client):
    for prompt in ("", [], [[]]):
        with pytest.raises(openai.BadRequestError, match="prompt"):
            ask(client, prompt)
