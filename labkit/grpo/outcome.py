"""What a language model does, as the metrics of a run: exact where it reads features, estimated from its batch where it reads text."""
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labkit.divergence import k3, kl
from labkit.learner import Learner
from labkit.policy import Categorical
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.world import TokenWorld

if TYPE_CHECKING:
    from labkit.grpo.family import Batch


def policy_at(world: TokenWorld, learner: Learner, theta: Tensor | None = None) -> Categorical:
    """The policy at all R things to see, (L, R, V), in float64; with parameters theta (L, P), another's."""
    out, _ = learner.nets["pi"](world.graph.obs.expand(len(learner.lanes), -1, -1), theta)
    return Categorical(out.detach().double())


def exact(world: TokenWorld, learner: Learner) -> dict[str, Tensor]:
    """Of one response of the policy, (L, N) for each problem: "success", its mean reward; "length" in tokens; "entropy", of its tokens
    in all, and "kl" from the reference, of the whole response, in nats."""
    policy, reference = policy_at(world, learner), policy_at(world, learner, learner.memory["reference"])
    gains = (torch.ones_like(policy.entropy()), policy.entropy(), kl(policy, reference))
    told = truth.expected(world.graph, policy.probs, gains, world.graph.reward)[:, :, world.start]
    return dict(zip(("length", "entropy", "kl", "success"), told, strict=True))


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Of x (L, N) over the problems `where`, (n,) or (N,) bool: (L,)."""
    return x[:, where].mean(1)


@torch.no_grad()
def outcome(world: TokenWorld, learner: Learner, batch: "Batch") -> dict[str, Tensor]:
    """The metrics (L,) of a moment. "return": the mean reward of a response; "held out": the same on problems never trained on, if any;
    "kl" of a response from the reference and "entropy" of a token, in nats; "length"; "dead": the share of the last batch's groups that
    agree; "rollouts" and "tokens" sampled so far."""
    counts = {name: learner.memory[name].clone() for name in ("rollouts", "tokens")}
    told = _estimated(world, batch) if world.text else _exact(world, learner)
    return told | {"dead": batch.dead.float().mean(1)} | counts


def _exact(world: TokenWorld, learner: Learner) -> dict[str, Tensor]:
    told = exact(world, learner)
    trained = {name: _mean(x, world.pool) for name, x in told.items()}
    others = {"held out": _mean(told["success"], world.held_out)} if bool(world.held_out.any()) else {}
    return others | {
        "return": trained["success"],
        "kl": trained["kl"],
        "entropy": trained["entropy"] / trained["length"],
        "length": trained["length"],
    }


def _estimated(world: TokenWorld, batch: "Batch") -> dict[str, Tensor]:
    """Of the policy that wrote the last batch, as far as its responses were kept; its KL by k3 of each token."""
    tokens = batch.length.sum((1, 2)).clamp_min(1)
    responses = batch.real.sum((1, 2)).clamp_min(1)
    return {
        "return": (world.graph.reward[batch.node] * batch.real).sum((1, 2)) / responses,
        "kl": (k3(batch.ref - batch.old) * batch.mask).sum((1, 2, 3)) / responses,
        "entropy": -(batch.old * batch.mask).sum((1, 2, 3)) / tokens,
        "length": tokens / responses,
    }
