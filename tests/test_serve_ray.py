"""Replicas on this machine: streams, affinity, a killed one replaced, more for more load."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("ray.serve", reason="needs the package ray[serve] (extra ray)")


@pytest.fixture(scope="module")
def url():
    import ray
    from gptoss_native import serve_ray
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 8123})
    options = serve_ray.Options(model_name="demo", replicas=2, cpus=0.5, threads=1)
    serve.run(serve_ray.app(options))
    yield "http://127.0.0.1:8123"
    serve.shutdown()
    ray.shutdown()


def client(url, session=None):
    import openai

    headers = {"x-session-id": session} if session else {}
    options = {"api_key": "none", "max_retries": 0, "timeout": 60}
    return openai.OpenAI(base_url=f"{url}/v1", default_headers=headers, **options)


def replicas(application="default"):
    """Return the processes of the replicas, by the titles that Ray gives them."""
    title = f"ray::ServeReplica:{application}:gptoss".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(title):
                found.append(int(folder.name))
    return sorted(found)


def ask(one, text="What is 17 + 25?", **options):
    return one.responses.create(model="demo", input=text, temperature=0, **options)


def test_answers_stream(url):
    with client(url) as one:
        messages = [{"role": "user", "content": "What is 17 + 25?"}]
        options = {"model": "demo", "temperature": 0, "stream": True}
        times, text = [], ""
        for chunk in one.chat.completions.create(messages=messages, **options):
            times.append(time.perf_counter())
            text += chunk.choices[0].delta.content or ""
        assert text == "17 + 25 = 42"
        assert len(set(times)) > 3


def test_a_conversation_returns_to_its_replica(url):
    for number in range(6):
        with client(url, f"conversation-{number}") as one:
            response = ask(one)
            for _ in range(4):
                # Known to the replica that wrote it alone.
                response = ask(one, "What is 2 + 3?", previous_response_id=response.id)
    missed = 0
    with client(url) as anywhere:
        for _ in range(12):
            import openai

            try:
                anywhere.responses.retrieve(response.id)
            except openai.NotFoundError:
                missed += 1
    assert missed  # both replicas are asked


def test_a_killed_replica_is_replaced_while_the_other_serves(url):
    before = replicas()
    assert len(before) == 2
    stop, answered, failed = threading.Event(), [], []

    def go_on():
        while not stop.is_set():
            try:
                with client(url) as one:
                    answered.append(ask(one).output_text)
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    os.kill(before[0], signal.SIGKILL)
    deadline = time.monotonic() + 120
    while len(replicas()) < 2 or before[0] in replicas():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    count = len(answered)
    while len(answered) < count + 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stop.set()
    thread.join()
    assert set(answered) == {"17 + 25 = 42"}
    # Those that were on their way to it when it went.
    assert len(failed) <= 3
    assert before[1] in replicas()


def test_more_requests_than_one_replica_is_for_start_another(url):
    from gptoss_native import serve_ray
    from ray import serve

    options = serve_ray.Options(
        model_name="demo", max_replicas=2, requests_per_replica=1, cpus=0.25, threads=1
    )
    serve.run(serve_ray.app(options), name="scaled", route_prefix="/scaled")
    try:
        assert len(replicas("scaled")) == 1
        stop, answered, failed = threading.Event(), [], []

        def go_on():
            with client(f"{url}/scaled") as one:
                while not stop.is_set():
                    try:
                        answered.append(ask(one).output_text)
                    except Exception as error:
                        failed.append(error)
                        return

        threads = [threading.Thread(target=go_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 180  # Ray waits half a minute before it believes in a load
        while len(replicas("scaled")) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(5)  # the new one takes its share
        stop.set()
        for thread in threads:
            thread.join()
        assert len(replicas("scaled")) == 2
        assert not failed
        assert set(answered) == {"17 + 25 = 42"}
    finally:
        serve.delete("scaled")


def test_a_replica_whose_model_is_closed_says_that_it_is_ill():
    import gptoss_native as gn
    from gptoss_native import serve_ray
    from gptoss_native.server import Settings, create_app

    with gn.Model.demo() as model:
        replica = serve_ray._Replica()
        replica.app = create_app(model, Settings(model_name="demo"))
        replica.check_health()
    with pytest.raises(RuntimeError, match="closed"):
        replica.check_health()
