"""Held against Stable-Baselines3: the same advantages, and the same gradients of the same loss."""
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import configure

from labkit import worlds
from labkit.lanes import Lanes
from labkit.on_policy.family import Batch, Shape, fit_critic, gae, policy_loss, ppo
from labkit.worlds.world import Discrete

T, E = 24, 5
BOX = gymnasium.spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_gae_is_that_of_a_rollout_buffer(gamma, lam):
    """Random rewards, values and ends of both kinds. SB3 adds the value after a truncation to the reward, as its collector does."""
    rng = np.random.default_rng(0)
    reward, value, after_truncation = rng.normal(size=(3, T, E)).astype(np.float32)
    last_value = rng.normal(size=E).astype(np.float32)
    terminated, truncated = rng.random((2, T, E)) < 0.15
    cut, done = truncated & ~terminated, truncated | terminated
    theirs = RolloutBuffer(T, BOX, gymnasium.spaces.Discrete(2), "cpu", lam, gamma, E)
    for t in range(T):
        start = done[t - 1] if t else np.ones(E)
        paid = reward[t] + gamma * after_truncation[t] * cut[t]
        theirs.add(np.zeros((E, 3)), np.zeros((E, 1)), paid, start, torch.tensor(value[t]), torch.zeros(E))
    theirs.compute_returns_and_advantage(torch.tensor(last_value), done[-1])

    following = np.where(cut, after_truncation, np.concatenate([value[1:], last_value[None]]))
    ours = Batch(*[None] * 4, *(torch.tensor(x)[None] for x in (reward, terminated, truncated)), None)
    ours.value, ours.next_value = torch.tensor(value)[None], torch.tensor(following)[None]
    k = Lanes((0,), {"gamma": (gamma,), "lam": (lam,)}).knobs(ppo.knobs)
    adv, target = gae(ours, k)
    np.testing.assert_allclose(adv[0], theirs.advantages, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(target[0], theirs.returns, rtol=1e-5, atol=1e-5)


class Hollow(gymnasium.Env):
    """Spaces and nothing else: SB3 asks for an environment."""

    def __init__(self, world):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (world.obs_size,))
        bounds = (world.actions.low, world.actions.high) if not isinstance(world.actions, Discrete) else None
        self.action_space = gymnasium.spaces.Box(*bounds, (world.actions.dim,)) if bounds else gymnasium.spaces.Discrete(world.actions.n)


def stale_batch(key):
    """A learner with a batch and a policy that has moved on since, so that ratios are not 1."""
    world, lanes = worlds.make(key), Lanes((0,), {"ent": (0.03,), "eps": (0.1,)})
    algo = replace(ppo, shape=Shape(envs=E, steps=T, width=8))
    learner, k = algo.begin(world, lanes), lanes.knobs(ppo.knobs)
    batch = algo.collect(algo, world, learner, k)
    algo.judge(learner, batch, k)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for net in learner.nets.values():
            net.theta += 0.4 * torch.randn(net.theta.shape, generator=generator)
    return algo, world, learner, batch, k


def twin(world, learner, k):
    """SB3's PPO with our parameters; its optimiser does not move, so that gradients stay to be read."""
    nets = {"net_arch": {"pi": [8, 8], "vf": [8, 8]}, "activation_fn": torch.nn.ReLU, "optimizer_class": torch.optim.SGD}
    model = PPO("MlpPolicy", Hollow(world), learning_rate=0.0, n_steps=T * E, batch_size=T * E, n_epochs=1, normalize_advantage=False,
                clip_range=float(k.eps), ent_coef=float(k.ent), vf_coef=0.5, max_grad_norm=1e9, policy_kwargs=nets, device="cpu")
    model.set_logger(configure(None, []))
    policy, hidden = model.policy, model.policy.mlp_extractor
    layers = {"pi": [*hidden.policy_net[::2], policy.action_net], "v": [*hidden.value_net[::2], policy.value_net]}
    with torch.no_grad():
        for name, parts in layers.items():
            *wb, free = learner.nets[name].layers(learner.nets[name].theta)
            for layer, w, b in zip(parts, wb[::2], wb[1::2], strict=True):
                layer.weight.copy_(w[0].T)
                layer.bias.copy_(b[0, 0])
            if free.shape[1]:
                policy.log_std.copy_(free[0])
    return model, layers


def fill(model, batch):
    flat, buffer = batch.flat(), model.rollout_buffer
    columns = {"observations": flat.obs, "actions": flat.action, "advantages": flat.adv, "returns": flat.target, "values": flat.value,
               "log_probs": flat.log_prob}
    for name, column in columns.items():
        getattr(buffer, name)[:] = column[0].numpy().reshape(getattr(buffer, name).shape)
    buffer.full = True


def joined(layers, extra=()):
    """Gradients of SB3's layers in the order of our theta."""
    return torch.cat([g.flatten() for layer in layers for g in (layer.weight.grad.T, layer.bias.grad)] + [p.grad for p in extra])


@pytest.mark.parametrize("key", ["control.cartpole", "control.pendulum"])
def test_gradients_are_those_of_its_train(key):
    algo, world, learner, batch, k = stale_batch(key)
    model, layers = twin(world, learner, k)
    fill(model, batch)
    model.train()  # SB3's own loss, its clip, entropy and value terms

    flat = batch.flat()
    ratio = (learner.policy(flat.obs).log_prob(flat.action) - flat.log_prob).exp()
    assert ((ratio - 1).abs() > 0.1).float().mean() > 0.2  # the clip is at work
    ours = learner.gradient("pi", policy_loss(algo, learner, flat, k))[0]
    theirs = joined(layers["pi"], [model.policy.log_std] if hasattr(model.policy, "log_std") else [])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    seen = {}
    learner.descend = lambda net, loss, *rest, **options: seen.update(grad=learner.gradient(net, loss)[0])
    fit_critic(algo, learner, flat, k, learner.on[:, 0])
    torch.testing.assert_close(seen["grad"], joined(layers["v"]) / model.vf_coef, rtol=1e-4, atol=1e-5)
