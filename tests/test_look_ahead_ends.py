"""What constraints that say what comes next may raise, and what they leave behind."""

import asyncio
import signal
import threading
import time

import gptoss_native as gn
import numpy as np
import pytest
from constraint_kinds import GREEDY, PROMPT, VOCAB, Some, Stretches, generate


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (None, "wanted a FixedMask"),
        ([1, 2], "wanted a FixedMask"),
        (([1], 2), "forced tokens"),
        (([1], None), "forced tokens"),
        (([1.5], 0), "token id of ahead"),
        (([-1], 0), "token id of ahead"),
        (([2**40], 0), "token id of ahead"),
        (([VOCAB], 0), f"token {VOCAB}, wanted 0 to {VOCAB - 1}"),
        (gn.FixedMask(np.zeros(3, np.int32), np.zeros(3, np.int32)), "allows a token"),
        (gn.FixedMask(np.ones(4, np.int32), np.zeros(3, np.int32)), "has 4 words"),
        (gn.FixedMask(np.int32([0, 0, -(1 << 14)]), np.zeros(3, np.int32)), "allows a token"),
    ],
)
def test_what_ahead_may_not_say_is_refused(model, answer, what):
    constraint = Stretches()
    constraint.ahead = lambda guess: answer
    session = model.session()
    stream = generate(session, constraint)
    with pytest.raises(gn.InvalidArgument, match=what):
        list(stream)
    assert session.tokens == PROMPT + constraint.accepted
    assert len(constraint.accepted) == 1
    assert next(stream, None) is None


def test_arrays_of_a_fixed_mask_are_words():
    for wrong in (np.zeros(3), np.zeros((3, 1), np.int32), [0, 1], None, np.zeros(3, np.int64)):
        with pytest.raises(gn.InvalidArgument, match="int32"):
            gn.FixedMask(wrong, np.zeros(3, np.int32))
    strided = np.arange(6, dtype=np.int32)[::2]
    gn.FixedMask(strided, strided)


@pytest.mark.parametrize("method", ["ahead", "mask_after"])
def test_an_exception_comes_out_as_it_is_and_the_session_goes_on(model, method):
    error = OSError(5)

    def fail(*_):
        raise error

    constraint = Stretches(leaves=1)
    setattr(constraint, method, fail)
    session = model.session()
    stream = generate(session, constraint)
    with pytest.raises(OSError, match="5") as caught:
        list(stream)
    assert caught.value is error
    assert session.tokens == PROMPT + constraint.accepted
    assert stream.stats.finish_reason == "cancelled"
    assert len(list(generate(session, None, 4, []))) == 4


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_what_accept_raises_in_free_text_ends_the_stream_before_its_token(model, in_a_loop):
    error = OSError(5)

    class Refusing(Stretches):
        def accept(self, token_id):
            if len(self.accepted) == 6:
                raise error
            super().accept(token_id)

    constraint = Refusing(leaves=VOCAB)  # one mask holds for all
    session = model.session()
    stream = generate(session, constraint, 40, sampling=GREEDY)

    async def read():
        async for _ in stream:
            pass

    with pytest.raises(OSError, match="5") as caught:
        asyncio.run(read()) if in_a_loop else list(stream)
    assert caught.value is error
    assert session.tokens == PROMPT + constraint.accepted
    assert stream.stats.finish_reason == "cancelled"
    assert stream.stats.generated_tokens == 6
    other = model.session()
    list(generate(other, Stretches(leaves=VOCAB), 6, sampling=GREEDY))
    assert other.tokens == session.tokens
    want = list(generate(other, None, 4, [], sampling=GREEDY))
    assert list(generate(session, None, 4, [], sampling=GREEDY)) == want


def test_a_mask_that_holds_on_is_not_asked_for_again(model):
    class Asked(Stretches):
        times = 0

        def ahead(self, guess):
            self.times += 1
            return super().ahead(guess)

    constraint = Asked(leaves=VOCAB)
    assert len(list(generate(model.session(), constraint, 40))) == len(constraint.accepted) == 40
    assert constraint.times <= 2  # and where token 0 has come


def test_a_session_closed_while_its_constraint_looks_ahead_is_only_closed(model):
    session = model.session()

    class Slow(Stretches):
        def ahead(self, guess):
            if len(self.accepted) == 5 and not closing.is_alive():
                closing.start()
                while not session.closed:
                    time.sleep(0.001)
            return super().ahead(guess)

    closing = threading.Thread(target=session.close)
    with pytest.raises(gn.InvalidArgument, match="closed"):
        list(generate(session, Slow(leaves=1), 40))
    closing.join()


def test_masks_after_tokens_that_do_not_come_are_nobodys_failure(model):
    class Wrong(Some):
        """Allows the token that it names, but not what it says after it."""

        def ahead(self, guess):
            # What must come is tried whatever it costs.
            return [int(np.flatnonzero(~self.allowed(len(self.accepted)))[0])], 1

        def mask_after(self, ids, out):
            raise OSError

    want = list(generate(model.session(), Some(), 30, sampling=GREEDY))
    assert list(generate(model.session(), Wrong(), 30, sampling=GREEDY)) == want


def test_a_ctrl_c_in_a_mask_that_nobody_needs_is_not_lost(model):
    class Interrupted(Some):
        times = 0

        def ahead(self, guess):
            # What must come is tried whatever it costs.
            return [int(np.flatnonzero(~self.allowed(len(self.accepted)))[0])], 1

        def mask_after(self, ids, out):
            self.times += 1
            if self.times == 3:
                signal.raise_signal(signal.SIGINT)
            super().mask(out)

    constraint = Interrupted()
    session = model.session()

    def read():
        for _ in generate(session, constraint, 200):
            pass

    with pytest.raises(KeyboardInterrupt):
        read()
    assert 3 <= len(constraint.accepted) < 200
    assert session.tokens == PROMPT + constraint.accepted


def test_looking_ahead_takes_both_methods(model):
    constraint = Some()
    constraint.ahead = lambda guess: ([], 0)
    with pytest.raises(gn.InvalidArgument, match="mask, accept, ahead and mask_after"):
        generate(model.session(), constraint)
