"""Ten turns of one session whose thoughts are dropped after each answer, and what each computed.

python examples/agent_loop.py [CHECKPOINT]
"""

import sys

import gptoss_native as gn
from gptoss_native.harmony import Message, Renderer, SystemContent, parse


def main(path=None):
    with gn.Model.load(path) if path else gn.Model.demo() as model:
        renderer = Renderer(model.tokenizer)
        session = model.session()
        messages = [Message("system", SystemContent(effort="low"))]
        print("turn  context  cached  computed  answer")
        for turn in range(1, 11):
            messages.append(Message("user", f"What is {turn * 7} + {turn * 5}?"))
            ids = renderer.render_for_completion(messages, analysis="current")
            # Where the new context differs from what the session holds, it goes back to.
            same = 0
            for ours, theirs in zip(ids, session.tokens, strict=False):
                if ours != theirs:
                    break
                same += 1
            session.rewind(same)
            stream = session.generate(
                ids[same:], max_new_tokens=200, sampling=gn.Sampling(temperature=0)
            )
            said = parse(model.tokenizer, [token.id for token in stream]).messages
            cached, computed = stream.stats.cached_tokens, stream.stats.prefilled_tokens
            final = next((m.content for m in said if m.channel == "final"), "")
            print(f"{turn:4}  {len(ids):7}  {cached:6}  {computed:8}  {final}")
            messages += said


if __name__ == "__main__":
    main(*sys.argv[1:])
