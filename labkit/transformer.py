"""A transformer small enough to see: a causal language model in every lane, each lane's parameters in one row of one matrix."""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from labkit.errors import LabError
from labkit.nn import Net, product


def norm(x: Tensor) -> Tensor:
    """Zero mean and unit deviation over the last axis. It has no gain: the product that follows could undo any."""
    return layer_norm(x, x.shape[-1:])


def attend(q: Tensor, k: Tensor, v: Tensor, shut: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v (Vaswani et al. 2017, equation 1) of every head.

    q (L, N, H, T, d) asks, k and v (L, N, H, U, d) are asked; shut (L, N, 1, T, U) is 0 where one may look, else -inf.
    Gives (L, N T, H d), the heads side by side.
    """
    lanes, n, heads, t, d = q.shape
    q, k, v = (x.flatten(0, 2) for x in (q / math.sqrt(d), k, v))
    weights = (product(q, k.mT).view(lanes, n, heads, *shut.shape[3:]) + shut).softmax(-1).flatten(0, 2)
    mixed = (weights.mT * v).sum(1) if t == 1 else product(weights, v)  # one row, several times faster
    return mixed.view(lanes, n, heads, t, d).transpose(2, 3).reshape(lanes, n * t, heads * d)


def mask(present: Tensor, t: int) -> Tensor:
    """Where the last t of U columns may look, (L, N, 1, t, U): 0 at tokens up to their own, and at themselves, lest padding see nothing.

    Elsewhere -inf. present (L, N, U) is where there is a token.
    """
    u = present.shape[-1]
    past = torch.ones(t, u, dtype=torch.bool, device=present.device).tril(u - t)
    return torch.where(past & present[:, :, None, None] | past.triu(u - t), 0.0, -math.inf)


def _after_last(tokens: Tensor, logits: Tensor) -> Tensor:
    """The logits (L, N, answers) after the last token of each row, out of (L, N, T, answers). LabError where a row has no token."""
    present = tokens >= 0
    if not bool(present.any(-1).all()):
        raise LabError("A model answers after at least one token; some of these contexts hold none.")
    last = (present * torch.arange(tokens.shape[-1], device=tokens.device)).argmax(-1)
    return logits.take_along_dim(last[..., None, None], 2)[:, :, 0]


@dataclass
class Cache:
    """What was read so far, U columns, so that only what follows has to be read.

    pairs: the keys and values of every layer, (2, L, N, H, U, d); present (L, N, U) is where there is a token; weights are the reader's.
    """

    weights: list[Tensor]
    pairs: list[Tensor]
    present: Tensor

    def keep(self, layer: int, pairs: Tensor) -> Tensor:
        """Keys and values (2, L, N, H, t, d) of t more columns -> those of all columns so far."""
        self.pairs[layer] = torch.cat([self.pairs[layer], pairs], 4)
        return self.pairs[layer]

    def fan_out(self, responses: int) -> None:
        """Each text `responses` times, side by side."""
        self.pairs = [x.repeat_interleave(responses, 2) for x in self.pairs]
        self.present = self.present.repeat_interleave(responses, 1)


class Transformer(Net):
    """A causal transformer per lane, before whose sublayers x is normalised: no biases, learned places, an MLP of relus 4 times as wide.

    sizes: (context, symbols, width, heads, layers, answers). It reads at most `context` tokens out of `symbols` and answers with one of
    the first `answers`. Where tokens are -1 there is none: nobody looks there, and places are counted without it, so that padding
    may stand anywhere.
    """

    def __init__(self, rand: Callable[..., Tensor], sizes: tuple[int, ...]):
        """rand(n) -> (L, n) in [0, 1). Weights start uniform in +-sqrt(3/fan-in); what a sublayer adds to x, smaller with depth (GPT-2).

        LabError for sizes that are no such model.
        """
        self.sizes = _checked(sizes)
        layers, parts = sizes[4], []
        for j, (i, o) in enumerate(self.shapes):
            fan_in = 2 if j == 0 else i * 2 * layers if j % 2 == 0 else i  # a token and its place are two inputs that are 1
            parts.append((2 * rand(i * o) - 1) * math.sqrt(3 / fan_in))
        theta = torch.cat(parts, 1)
        vars(self).update(vars(self.restore(self.sizes, 0, theta, theta.new_zeros(2, *theta.shape), theta.new_zeros(len(theta), 1))))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each product: the table of tokens and places; per layer query, key and value, the heads joined, and the
        MLP's two; the head."""
        context, symbols, width, _, layers, answers = self.sizes
        layer = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        return [(symbols + context, width), *layer * layers, (width, answers)]

    def layers(self, theta: Tensor) -> list[Tensor]:
        """Split theta (L, P) into a matrix (L, i, o) per product."""
        parts = theta.split([i * o for i, o in self.shapes], 1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (L, N, context): tokens, -1 where there is none -> the logits (L, N, answers) of the next, and no free parameters (L, 1, 0)."""
        theta = self.theta if theta is None else theta
        return _after_last(x, self.logits(x.long(), theta)), theta[:, None, :0]

    def logits(self, tokens: Tensor, theta: Tensor | None = None) -> Tensor:
        """tokens (L, N, T) int64, -1 where there is none -> the logits (L, N, T, answers) of the token after each.

        LabError for more tokens than the context holds, or one that is no symbol.
        """
        return self.advance(self._blank(tokens, theta), tokens)

    def begin(self, prompt: Tensor, theta: Tensor | None = None, responses: int = 1) -> tuple[Cache, Tensor]:
        """Read prompts (L, N, T) once and keep what it takes to go on `responses` times from each, side by side.

        Gives a cache, and the logits (L, N responses, answers) of the first token of each response.
        """
        cache = self._blank(prompt, theta)
        logits = _after_last(prompt, self.advance(cache, prompt))
        cache.fan_out(responses)
        return cache, logits.repeat_interleave(responses, 1)

    def advance(self, cache: Cache, tokens: Tensor) -> Tensor:
        """Read t more tokens (L, N, t) into the cache, -1 where there is none -> the logits (L, N, t, answers) of the token after each."""
        self._check(tokens, cache.present.shape[2])
        (lanes, n, t), (_, _, width, heads, layers, answers) = tokens.shape, self.sizes
        cache.present = torch.cat([cache.present, tokens >= 0], 2)
        shut = mask(cache.present, t)
        table, *blocks, head = cache.weights
        x = product(self._one_hot(tokens, cache.present), table)
        for i in range(layers):
            query_key_value, join, up, down = blocks[4 * i : 4 * i + 4]
            qkv = product(norm(x), query_key_value).view(lanes, n, t, 3, heads, width // heads).permute(3, 0, 1, 4, 2, 5)
            k, v = cache.keep(i, qkv[1:])
            x = x + product(attend(qkv[0], k, v, shut), join)
            x = x + product(product(norm(x), up).relu_(), down)
        return product(norm(x), head).view(lanes, n, t, answers)

    def _blank(self, tokens: Tensor, theta: Tensor | None) -> Cache:
        """A cache in which nothing was read."""
        _, _, width, heads, layers, _ = self.sizes
        weights = self.layers(self.theta if theta is None else theta)
        return Cache(weights, [weights[0].new_zeros(2, *tokens.shape[:2], heads, 0, width // heads)] * layers, tokens[..., :0] >= 0)

    def _one_hot(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Token and place as ones among zeros, (L, N T, symbols + context): a product looks both up and adds them."""
        context, symbols, *_ = self.sizes
        place = present.cumsum(-1)[..., present.shape[2] - tokens.shape[2] :] - 1
        ones = [x[..., None] == torch.arange(n, device=x.device) for x, n in ((tokens, symbols), (place, context))]
        return torch.cat(ones, -1).flatten(1, 2).to(self.theta.dtype)

    def _check(self, tokens: Tensor, start: int) -> None:
        context, symbols, *_ = self.sizes
        if start + tokens.shape[-1] > context:
            raise LabError(f"This model reads {context} tokens at most, and is given {start + tokens.shape[-1]}; shorten them.")
        if tokens.numel() and not -1 <= int(tokens.min()) <= int(tokens.max()) < symbols:
            raise LabError(f"Tokens go from 0 to {symbols - 1}, or are -1 where there is none; got {tokens.min()} to {tokens.max()}.")


def _checked(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes; LabError where they make no model."""
    if len(sizes) != 6 or min(sizes) < 1 or sizes[2] % sizes[3] or sizes[5] > sizes[1]:
        rule = "all at least 1, width a multiple of heads, answers among the symbols"
        raise LabError(f"A transformer's sizes are (context, symbols, width, heads, layers, answers), {rule}; got {tuple(sizes)}.")
    return tuple(sizes)
