"""The layers of IF-FILM in PyTorch, by the names of its public code; they are named and not run."""

from __future__ import annotations

from torch import nn

from tests.weights.public.cddfuse import Block, conv


def named(**parts):
    """Returns a module of these parts."""
    made = nn.Module()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def looking(inputs, width, heads, factor, text, hidden):
    """Names the layers of one round: a branch for each of two images."""
    made = nn.Module()
    for branch in "AB":
        made.add_module(f"conv{branch}1", conv(inputs, width, 3))
        made.add_module(f"conv{branch}2", nn.Conv2d(text, width, 1))
        made.add_module(f"conv{branch}3", nn.Conv2d(2 * width, width, 1))
        for number in (1, 2, 3):
            made.add_module(f"prelu{branch}{number}", nn.PReLU())
        made.add_module(f"restormer{branch}1", Block(width, heads, factor))
        made.add_module(f"imagef2textf{branch}1", named(conv=nn.Conv2d(width, text, 1)))
    for number in (1, 2):
        made.add_module(f"cross_attentionA{number}", named(multihead_attn=nn.MultiheadAttention(hidden, heads)))
    return made


def film(width, heads, factor, rounds, text, hidden, blocks):
    """Names the layers of the whole network."""
    made = named(text_process=named(conv=nn.Conv1d(768, hidden, 1)))
    for number in range(1, rounds + 1):
        sizes = (1 if number == 1 else width, width, heads, factor, text, hidden)
        made.add_module(f"restormerca{number}", looking(*sizes))
    for number in range(1, blocks + 2):
        made.add_module(f"restormer{number}", Block(2 * width if number == 1 else width, heads, factor))
    made.add_module("conv1", nn.Conv2d(2 * width, width, 1))
    made.add_module("conv2", nn.Conv2d(width, 1, 1))
    return made
