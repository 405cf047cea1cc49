"""Networks of all lanes at once: one matrix of parameters, one optimiser step."""
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

LINE = 16  # numbers in a cache line
SMALL = 1e-30  # moves no parameter. Less is taken for 0, else what dead units leave decays to denormals, which take many times as long


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (L, n, k) @ b (L, k, m) -> (L, n, m), the same in every lane whether alone or beside others.

    Few columns run several times faster with rows and columns exchanged; that is exact where lanes of `a` fill whole cache lines.
    With a side of 1 a single lane would be a matrix times a vector, which rounds otherwise: two sides of it are computed, or two lanes.
    """
    n, k, m = *a.shape[1:], b.shape[2]
    if m < LINE and n % LINE == k % LINE == 0:
        return torch.bmm(pad(b, (0, int(m == 1))).mT.contiguous(), a.mT).mT[..., :m].contiguous()
    if len(a) == 1 and 1 in (n, k, m):
        return torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]
    return torch.bmm(a, b)


class _Layers(torch.autograd.Function):
    """The outputs of a network with the gradient written out: it lands in one matrix like theta's, and errors are masked in place."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, x: Tensor, net: "Net") -> Tensor:
        *inputs, out = net.activations(x, theta)
        ctx.net = net
        ctx.save_for_backward(theta, *inputs)
        return out

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:  # type: ignore[override]
        theta, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the gradient's gradient, so the activations must depend on theta
            return torch.autograd.grad(ctx.net.activations(inputs[0], theta)[-1], theta, error, create_graph=True)[0], None, None
        *wb, free = ctx.net.layers(theta)
        parts = [torch.zeros_like(free)]
        for x, w in zip(reversed(inputs), reversed(wb[::2]), strict=True):
            parts = [product(x.mT, error).flatten(1), error.sum(1), *parts]
            if x is not inputs[0]:
                error = product(error, w.mT)
                torch.ops.aten.threshold_backward.grad_input(error, x, 0, grad_input=error)  # relu's
        return torch.cat(parts, 1), None, None


class Net:
    """An MLP per lane. All its parameters are one matrix `theta` (L, P), one row a lane.

    So a gradient, its clipping and an Adam step are a handful of operations, and copying is one.
    sizes: widths from input to output. free: parameters beside the layers (a Gaussian's log-std).
    """

    def __init__(self, rand: Callable[..., Tensor], sizes: Sequence[int], free: int = 0, head: float = 1.0):
        """rand(n) -> (L, n) in [0, 1). Weights start uniform in +-sqrt(3/fan-in), the last layer's times `head`."""
        self.sizes, self.free = tuple(sizes), free
        parts: list[Tensor] = []
        for i, o in pairwise(sizes):
            unit = rand(i * o)
            scale = math.sqrt(3 / i) * (head if len(parts) == 2 * len(sizes) - 4 else 1.0)
            parts += [(2 * unit - 1) * scale, torch.zeros_like(unit[:, :o])]
        first = parts[0]
        self.theta = torch.cat([*parts, first.new_zeros(len(first), free)], 1).requires_grad_()
        self.moments = first.new_zeros(2, *self.theta.shape)
        self.clock = first.new_zeros(len(first), 1)

    def layers(self, theta: Tensor) -> list[Tensor]:
        """Split theta (L, P) into w (L, i, o), b (L, 1, o) of each layer, then the free part (L, free)."""
        shapes = [s for i, o in pairwise(self.sizes) for s in ((i, o), (1, o))]
        parts = theta.split([a * b for a, b in shapes] + [self.free], 1)
        return [p.view(-1, *s) for p, s in zip(parts, shapes, strict=False)] + [parts[-1]]

    def __call__(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (L, B, i) -> outputs (L, B, o) and the free parameters (L, 1, free)."""
        theta = self.theta if theta is None else theta
        return _Layers.apply(theta, x, self), theta[:, None, theta.shape[1] - self.free :]

    def activations(self, x: Tensor, theta: Tensor) -> list[Tensor]:
        """x (L, B, i) and what each layer makes of it, (L, B, width). Hidden layers are relu: a tanh costs ten times as much."""
        *wb, _ = self.layers(theta)
        steps = [x]
        for w, b in zip(wb[::2], wb[1::2], strict=True):
            y = product(steps[-1], w).add_(b)
            steps.append(y if len(steps) == len(self.sizes) - 1 else y.relu_())
        return steps

    @torch.no_grad()
    def adam(self, grad: Tensor, lr: Tensor, on: Tensor, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-5) -> None:
        """Adam (Kingma and Ba 2015), a clock per lane. grad (L, P); lr, on (L, 1); where `on` is False nothing moves."""
        grad = torch.where(on, grad, 0.0)
        m, v = self.moments
        self.clock += on
        m.lerp_(grad, (1 - betas[0]) * on)  # in place: a lane at rest moves by exactly nothing
        torch.ops.aten.hardshrink.out(m, SMALL, out=m)
        v.lerp_(grad.square_(), (1 - betas[1]) * on)
        fast, slow = (-torch.expm1(self.clock.clamp_min(1) * math.log(b)) for b in betas)
        slow = slow.sqrt()  # both corrections as factors (L, 1), which spares passes over all parameters
        self.theta.addcdiv_(m * (lr * on * slow / fast), v.sqrt().add_(eps * slow), value=-1)

    @torch.no_grad()
    def sgd(self, grad: Tensor, lr: Tensor, on: Tensor) -> None:
        """theta <- theta - lr grad. grad (L, P); lr, on (L, 1)."""
        self.theta -= lr * torch.where(on, grad, 0.0)

    @torch.no_grad()
    def move(self, theta: Tensor, on: Tensor) -> None:
        """Set the parameters to theta (L, P) where `on` (L, 1)."""
        self.theta.copy_(torch.where(on, theta, self.theta))

    @classmethod
    def restore(cls, sizes: tuple[int, ...], free: int, theta: Tensor, moments: Tensor, clock: Tensor) -> Self:
        """A network with the given state."""
        net = cls.__new__(cls)
        net.sizes, net.free, net.moments, net.clock = sizes, free, moments, clock
        net.theta = theta.requires_grad_()
        return net


class Table(Net):
    """A row of outputs per state, read by one-hot observations: sizes (S, A), all zeros at first."""

    def __init__(self, lanes: int, sizes: tuple[int, int], device: str = "cpu"):
        zeros = torch.zeros(lanes, sizes[0] * sizes[1], device=device)
        vars(self).update(vars(self.restore(sizes, 0, zeros, zeros.new_zeros(2, *zeros.shape), zeros.new_zeros(lanes, 1))))

    def __call__(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (L, N, S) one-hot -> (L, N, A) and no free parameters (L, 1, 0)."""
        table = (self.theta if theta is None else theta).view(-1, *self.sizes)
        return torch.bmm(x, table), table[:, :1, :0]


class Belief(Net):
    """What is believed of N linear scores, normal and independent: sizes (n, 2N) read N means and N deviations at x.

    theta holds the means of the weights, (n + 1, N), and then their covariances, (n + 1, n + 1, N); the last weight is a constant's.
    """

    def __init__(self, lanes: int, sizes: tuple[int, int], device: str = "cpu"):
        zeros = torch.zeros(lanes, (sizes[0] + 1) * (sizes[0] + 2) * sizes[1] // 2, device=device)
        vars(self).update(vars(self.restore(sizes, 0, zeros, zeros.new_zeros(2, *zeros.shape), zeros.new_zeros(lanes, 1))))

    def __call__(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (L, B, n) -> means and deviations (L, B, 2N), and no free parameters (L, 1, 0)."""
        theta, x = self.theta if theta is None else theta, pad(x, (0, 1), value=1.0)
        n, arms = x.shape[2], self.sizes[1] // 2
        mean = product(x, theta[:, : n * arms].reshape(-1, n, arms))
        spread = product((x[..., None] * x[..., None, :]).flatten(2), theta[:, n * arms :].reshape(-1, n * n, arms))
        return torch.cat([mean, spread.clamp_min(0).sqrt()], -1), theta[:, None, :0]


NETS: dict[str, type[Net]] = {"Net": Net, "Table": Table, "Belief": Belief}


def clip_norm(grad: Tensor, limit: float) -> Tensor:
    """Scale each lane's gradient (L, P) to a norm of at most `limit`."""
    return grad * (limit / grad.norm(dim=1, keepdim=True)).clamp_max(1)


def normalise(x: Tensor) -> Tensor:
    """Zero mean and unit deviation per lane: x (L, B)."""
    x = x - x.mean(1, keepdim=True)
    return x / (x.square().mean(1, keepdim=True).sqrt() + 1e-8)
