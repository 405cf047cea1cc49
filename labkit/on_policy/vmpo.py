"""vmpo: imitate the better half of what was done, under two prices that are learnt: one for greed, one for drift."""
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.lanes import Knob
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.family import Batch, OnPolicy, a2c, fit_critic, minibatches, policy_loss, ppo
from labkit.paper import Paper
from labkit.policy import Gaussian, Policy

SPREAD = 0.1  # a normal's spread may move by this share of eps_a: the authors', too, is much smaller than the mean's


def likelihood(ratio: Tensor, adv: Tensor, k: SimpleNamespace) -> Tensor:
    """Weight times log-likelihood, up to a constant: `adv` holds the weights. Elementwise."""
    return adv * ratio.clamp_min(1e-30).log()


def best(adv: Tensor, top: Tensor) -> Tensor:
    """Which of adv (L, B) are among the largest, a share top (L, 1) of each lane's, rounded up: (L, B) bool."""
    rank = adv.argsort(dim=1, descending=True, stable=True).argsort(1)
    return rank < (top * adv.shape[1]).ceil()


def log_weights(adv: Tensor, kept: Tensor, eta: Tensor) -> Tensor:
    """log psi (L, B): softmax of adv / eta over the kept samples (Song et al. 2020, eq. 3). adv, kept (L, B), eta (L, 1)."""
    return torch.where(kept, adv / eta, -torch.inf).log_softmax(1)


def temperature_loss(adv: Tensor, kept: Tensor, eta: Tensor, radius: Tensor) -> Tensor:
    """eta radius + eta log mean exp(adv / eta) over the kept samples, (L,): eq. 4. Its slope in eta is radius - KL(psi || uniform)."""
    mean = torch.where(kept, adv / eta, -torch.inf).logsumexp(1, keepdim=True) - kept.sum(1, keepdim=True).to(adv).log()
    return (eta * (radius + mean))[:, 0]


def tilt(log_psi: Tensor, kept: Tensor) -> Tensor:
    """KL(psi || uniform over the kept), (L,) in nats."""
    each = log_psi + kept.sum(1, keepdim=True).to(log_psi).log()
    return (log_psi.exp() * torch.where(kept, each, 0.0)).sum(1)


def gaps(old: Policy, new: Policy) -> Tensor:
    """KL(old || new) in the parts that have a price each, (parts, L, B): of a normal, by its mean and by its spread alone."""
    if isinstance(old, Gaussian) and isinstance(new, Gaussian):
        return torch.stack([kl(old, replace(new, log_std=old.log_std)), kl(old, replace(new, mean=old.mean))])
    return kl(old, new)[None]


def prices(learner: Learner) -> Tensor:
    """eta and the parts' alphas, (L, 3), all 1 at first; as logarithms in a net of their own they stay above 0."""
    if "prices" not in learner.nets:
        learner.nets["prices"] = Table(len(learner.lanes), (1, 3), learner.lanes.device)
    return learner.nets["prices"].theta.exp()


def price_loss(gap: Tensor, alpha: Tensor, k: SimpleNamespace) -> Tensor:
    """sum over parts of alpha (radius - gap), (L,): a price rises while its part goes too far (eq. 5). gap, alpha (parts, L)."""
    radius = k.eps_a[:, 0] * gap.new_tensor([1.0, SPREAD])[: len(gap), None]
    return (alpha * (radius - gap.detach())).sum(0)


def imitate_the_best(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """Passes over the batch: fit the policy to the weighted samples, held near the old one, the prices and the critic."""
    tilted = torch.zeros_like(k.lr[:, 0])
    for part, where in minibatches(algo, learner, batch, k):
        eta, alpha = prices(learner).tensor_split([1], 1)
        kept, gap = best(part.adv, k.top), gaps(part.policy, learner.policy(part.obs)).mean(2)
        alpha = alpha.mT[: len(gap)]
        log_psi = log_weights(part.adv, kept, eta.detach())
        tilted = torch.where(where, tilt(log_psi, kept), tilted)
        temperature = temperature_loss(part.adv, kept, eta, k.eps_eta)
        part.adv = log_psi.exp() * kept.shape[1]  # the loss is a mean, the weighted likelihood a sum
        loss = policy_loss(algo, learner, part, k) + (alpha.detach() * gap).sum(0)
        learner.descend("pi", loss, k.lr, where, clip=0.5)
        learner.descend("prices", temperature + price_loss(gap, alpha, k), k.dual, where)
        fit_critic(algo, learner, part, k, where)
    with torch.no_grad():
        flat = batch.flat()
        batch.info |= {"kl": kl(flat.policy, learner.policy(flat.obs)).mean(1), "tilt": tilted}


vmpo = replace(
    a2c,
    surrogate=likelihood,
    improve=imitate_the_best,
    knobs=a2c.knobs | {
        "eps_a": Knob(0.01, 0.001, 0.3, "how far the policy may walk: mean KL from the old one"),
        "eps_eta": Knob(0.02, 0.001, 0.5, "how greedy the weights are: their KL from uniform"),
        "top": Knob(0.5, 0.1, 1.0, "share of the samples that is imitated"),
        "dual": Knob(0.01, 0.001, 0.1, "step size of the two prices"),
        "epochs": ppo.knobs["epochs"],
    },
    paper=Paper(
        key="vmpo",
        title="V-MPO: On-Policy Maximum a Posteriori Policy Optimization for Discrete and Continuous Control",
        year=2019,
        url="https://arxiv.org/abs/1909.12238",
        claim="The learnt prices bring the weights to the wished KL from uniform, and the steps to within twice the wished length.",
        lesson="One price says how greedy the goal is, the other how far the policy may walk towards it.",
        lost="Many tasks at once, PopArt, pixels; the old policy is the batch's own, not a target network.",
        base="a2c",
        chapter=3,
    ),
)
