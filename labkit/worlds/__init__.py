"""Worlds in one namespace: `make("grid.fourrooms")`, `make("control.cartpole")`, `make("finite.chain", n=8)`."""
from labkit.worlds import bandit, control, finite, form, grid, moving, payments, performative, repurchase, rewriting, rooms, steered
from labkit.worlds.gym import from_gymnasium
from labkit.worlds.registry import make, names, register, register_all
from labkit.worlds.tokens import chain, countdown, fork, modes, plan
from labkit.worlds.world import Continuous, Discrete, State, World

__all__ = [
    "Continuous", "Discrete", "State", "World", "bandit", "chain", "control", "countdown", "finite", "fork", "form", "from_gymnasium",
    "grid", "make", "modes", "moving", "names", "payments", "performative", "plan", "register", "repurchase", "rewriting", "rooms",
    "steered",
]  # fmt: skip

register_all()  # with Gymnasium, once every world is in the namespace
