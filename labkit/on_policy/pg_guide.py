"""pg_guide: a live map of five policy gradients. A knob says which recipe a lane follows; world, networks, batches and Adam are the same.

The edges of the map are slots: reinforce -> a2c changes value and advantage, a2c -> trpo and -> vmpo how a step is held, a2c -> ppo what
is raised and how often. All play whole episodes, which reinforce needs.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.on_policy.checks import late_return
from labkit.on_policy.family import Batch, OnPolicy, Shape, a2c, importance, normalised_gae, ppo, reinforce, reward_to_go, whole_episodes
from labkit.on_policy.trpo import trpo
from labkit.on_policy.vmpo import prices, vmpo
from labkit.paper import Paper
from labkit.verdict import Verdict, above, together
from labkit.worlds.control import CartPole, Pendulum

RECIPES = (reinforce, a2c, trpo, ppo, vmpo)  # by the value of the knob "recipe"
HORIZON = 100  # of the check's episodes


def follows(k: SimpleNamespace, recipe: OnPolicy) -> Tensor:
    """Which lanes follow this recipe, (L, 1)."""
    return k.recipe.round() == RECIPES.index(recipe)


def by_recipe(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """The advantage and the critic's target of each lane's recipe: rewards to go for reinforce, else normalised GAE. (L, T, E)"""
    plain = follows(k, reinforce)[..., None]
    adv, target = (torch.where(plain, a, b) for a, b in zip(reward_to_go(batch, k), normalised_gae(batch, k), strict=True))
    return adv, target


def each_its_own(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """Each lane improves as its recipe does, while the others stand still. How far each went is measured for all alike."""
    on, tick, well = learner.on, learner.tick, torch.zeros_like(learner.on)
    prices(learner)  # or whether a lane has such a net would depend on its neighbours' recipes
    for recipe in RECIPES:
        learner.on, learner.tick = on & follows(k, recipe), tick
        if bool(learner.on.any()):
            recipe.improve(replace(recipe, shape=algo.shape), learner, batch, k)
        well = well | learner.on
    learner.on, learner.tick = well, tick + 1  # no recipe draws from more than one stream
    with torch.no_grad():
        flat = batch.flat()
        batch.info = {"kl": kl(flat.policy, learner.policy(flat.obs)).mean(1)}


pg_guide = replace(
    a2c,
    collect=whole_episodes,
    advantage=by_recipe,
    improve=each_its_own,
    knobs={name: knob for recipe in RECIPES for name, knob in recipe.knobs.items()}
    | {"recipe": Knob(3.0, 0.0, 4.0, "0 reinforce, 1 a2c, 2 trpo, 3 ppo, 4 vmpo")},
    paper=Paper(
        key="pg_guide",
        title="The Definitive Guide to Policy Gradients in Deep Reinforcement Learning: Theory, Algorithms and Implementations",
        year=2024,
        url="https://arxiv.org/abs/2401.13662",
        claim="With equal samples the recipes that hold a step back beat the two that do not, and more so the more data are reused.",
        lesson="All five lean on one gradient; they differ in how much drift a batch may buy.",
        lost="MuJoCo, proofs, and the folklore of implementations.",
        chapter=2,
    ),
)


def reached(recipe: OnPolicy, seeds: Sequence[int], steps: int) -> Tensor:
    """Return over the last quarter of the steps, (S,), the mean of two worlds: CartPole's of 100, Pendulum's cost of 8 a step."""
    algo, number = replace(pg_guide, shape=Shape(envs=8, width=32)), float(RECIPES.index(recipe))
    cart, pendulum = CartPole(), Pendulum()
    cart.horizon = pendulum.horizon = HORIZON
    up = late_return(algo, cart, Lanes(tuple(seeds), {"recipe": (number,)}), steps)[0] / HORIZON
    swing = late_return(algo, pendulum, Lanes(tuple(seeds), {"recipe": (number,), "gamma": (0.9,)}), steps)[0]
    return (up + 1 + swing / (8 * HORIZON)) / 2


def check(seeds: Sequence[int] = range(20), steps: int = 12_000, reuse: int = 6_000) -> Verdict:
    """CartPole and Pendulum: the held recipes minus the two others; CartPole: how ppo's lead over the bare ratio grows with its passes."""
    plain, actor, *held = (reached(recipe, seeds, steps) for recipe in RECIPES)
    passes = (1.0, 4.0, 16.0)
    lanes, shape, world = Lanes(tuple(seeds), {"epochs": passes}), Shape(envs=8, width=32), CartPole()
    leads = [late_return(replace(ppo, surrogate=gain, shape=shape), world, lanes, reuse) for gain in (ppo.surrogate, importance)]
    log = torch.tensor(passes).log()
    slope = ((log - log.mean())[:, None] * (leads[0] - leads[1])).sum(0) / (log - log.mean()).square().sum()
    return together(
        above(torch.stack(held).mean(0) - (plain + actor) / 2, 0, f"held recipes minus the two others, last quarter of {steps} steps"),
        above(slope, 0, f"return of ppo minus the bare ratio per e-fold of passes, last quarter of {reuse} steps"),
    )
