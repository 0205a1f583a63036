"""The network that is trained is the one that the runtime runs."""

import random
import sys
from pathlib import Path

import gptoss_native as gn
import numpy as np
import pytest
from gptoss_native.model import demo_path

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from train_demo.batches import make_batch
from train_demo.conversation import Writer, draw_row
from train_demo.export import export
from train_demo.mxfp4 import quantise
from train_demo.network import Network, Shape
from train_demo.optimiser import optimisers


def rounded_network(tokenizer):
    """A random network whose values the files hold exactly: bfloat16, and blocks of MXFP4."""
    torch.manual_seed(0)
    net = Network(Shape(vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim == 1 or "bias" in name:
                p.add_(0.1 * torch.randn_like(p))  # gains, biases and sinks that matter
            blocks = name.endswith((".gate", ".up", ".down"))
            p.copy_(quantise(p)[2] if blocks else p.bfloat16().float())
    return net


def test_an_exported_network_is_the_one_that_was_trained(tmp_path):
    writer = Writer(gn.Tokenizer.from_checkpoint(demo_path()))
    net = rounded_network(writer.tokenizer)
    export(net, demo_path() / "tokenizer.json", tmp_path)
    row = draw_row(writer, random.Random(4), "train", 640, declares=True)
    row.segments = [0] * len(row.ids)  # one conversation, as the runtime sees it
    row.positions = list(range(len(row.ids)))
    batch = make_batch([row], 640)
    with torch.no_grad():
        every = torch.arange(len(row.ids))
        want = net(batch.ids, batch.positions, batch.seen, every).numpy()
    with gn.Model.load(tmp_path, precision="exact") as model:
        got = model.session().logits(row.ids)
    assert len(row.ids) > 300  # past the window, and over more than two blocks of queries
    # 4e-6 is what an implementation of the same formulas differed by; logits are of size 1.
    assert np.abs(got - want).max() < 1e-4


def test_conversations_of_a_row_do_not_see_each_other():
    writer = Writer(gn.Tokenizer.from_checkpoint(demo_path()))
    net = rounded_network(writer.tokenizer)
    row = next(
        row
        for seed in range(99)
        if len((row := draw_row(writer, random.Random(seed), "train", 384)).skills) > 2
    )
    batch = make_batch([row], 384)
    last = [n for n, s in enumerate(row.segments) if s in (0, row.segments[-1])]
    alone = make_batch([row], 384)
    alone.ids[0, : len(last)] = batch.ids[0, last]
    alone.positions[0, : len(last)] = batch.positions[0, last]
    alone.seen = torch.ones(1, 384, 384, dtype=torch.bool).tril()
    with torch.no_grad():
        want = net(batch.ids, batch.positions, batch.seen, torch.tensor(last))
        got = net(alone.ids, alone.positions, alone.seen, torch.arange(len(last)))
    assert (got - want).abs().max() < 1e-4


def test_steps_lower_the_loss():
    """Both optimisers move what is theirs."""
    writer = Writer(gn.Tokenizer.from_checkpoint(demo_path()))
    torch.manual_seed(0)
    net = Network(Shape(vocab_size=writer.tokenizer.vocab_size, num_hidden_layers=2))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optims = optimisers(net, 0.02, 3e-3)
    batch = make_batch([draw_row(writer, random.Random(n), "train", 384) for n in range(2)], 384)
    losses = []
    for _ in range(8):
        logits = net(batch.ids, batch.positions, batch.seen, batch.chosen)
        loss = torch.nn.functional.cross_entropy(logits, batch.targets)
        loss.backward()
        for optim in optims:
            optim.step()
            optim.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())
