"""Two language models behind one protocol: one that reads a node's features, so that all it does is known exactly; one that reads text."""
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from labkit.nn import Net
from labkit.policy import Categorical
from labkit.transformer import Transformer
from labkit.worlds.tokens.world import TokenWorld

Say = Callable[[Tensor, Tensor | None], Categorical]  # from nodes (L, B) and the tokens before (L, B), None at first: of the next token


class Model(Protocol):
    """How a net of the learner writes and reads. theta (L, P): its parameters, those of now or others."""

    def net(self, world: TokenWorld, rand: Callable[..., Tensor], shape: Any) -> Net:
        """A fresh network; shape.width, .layers and .heads are its sizes."""

    def speak(self, world: TokenWorld, net: Net, theta: Tensor, problem: Tensor, group: int) -> Say:
        """Begin `group` responses to each problem (L, P), side by side: B = P group."""

    def rows(self, world: TokenWorld, node: Tensor) -> Tensor:
        """Where `read` tells of each token of responses that pass node (L, P, G, T) before it: numbers below R, (L, P, G, T)."""

    def read(self, world: TokenWorld, net: Net, theta: Tensor, problem: Tensor, token: Tensor) -> Categorical:
        """The policy (L, R, V) at all places of responses token (L, P, G, T), EMPTY where nothing is written, to problem (L, P)."""


class StateModel:
    """An MLP with two hidden layers over the features of a node: R is the number of different things to see."""

    def net(self, world: TokenWorld, rand: Callable[..., Tensor], shape: Any) -> Net:
        return Net(rand, (world.obs_size, shape.width, shape.width, len(world.tokens)), head=0.1)

    def speak(self, world: TokenWorld, net: Net, theta: Tensor, problem: Tensor, group: int) -> Say:
        table, lanes = self.read(world, net, theta).logits, torch.arange(len(theta), device=theta.device)[:, None]
        return lambda node, token: Categorical(table[lanes, world.graph.row[node]])

    def rows(self, world: TokenWorld, node: Tensor) -> Tensor:
        return world.graph.row[node]

    def read(self, world: TokenWorld, net: Net, theta: Tensor, problem: Tensor | None = None, token: Tensor | None = None) -> Categorical:
        """Whatever the problems and responses: it tells of all that can be seen."""
        return Categorical(net(world.graph.obs.expand(len(theta), -1, -1), theta)[0])


class TextModel:
    """A causal transformer over prompt and response: R = P G T, each place of each response."""

    def net(self, world: TokenWorld, rand: Callable[..., Tensor], shape: Any) -> Transformer:
        return Transformer(rand, (world.obs_size, len(world.signs), shape.width, shape.heads, shape.layers, len(world.tokens)))

    def speak(self, world: TokenWorld, net: Transformer, theta: Tensor, problem: Tensor, group: int) -> Say:  # type: ignore[override]
        cache, first = net.begin(world.prompt[problem], theta, group)
        return lambda node, token: Categorical(first if token is None else net.advance(cache, token[..., None])[:, :, 0])

    def rows(self, world: TokenWorld, node: Tensor) -> Tensor:
        return torch.arange(node[0].numel(), device=node.device).view(1, *node.shape[1:]).expand_as(node)

    def read(self, world: TokenWorld, net: Transformer, theta: Tensor, problem: Tensor, token: Tensor) -> Categorical:  # type: ignore[override]
        cache, first = net.begin(world.prompt[problem], theta, token.shape[2])  # a prompt is read once for all its responses
        rest = net.advance(cache, token[..., :-1].flatten(1, 2))
        return Categorical(torch.cat([first[:, :, None], rest], 2).flatten(1, 2))


def model_of(world: TokenWorld) -> Model:
    """The model that reads as the world is read."""
    return TextModel() if world.text else StateModel()  # type: ignore[return-value]
