"""How a world that is changed by hand responds to a learner: by its events, and where it answers, to the policy deployed."""
from types import SimpleNamespace

from labkit.learner import Learner
from labkit.tabular.family import Tabular
from labkit.tabular.sampling import BLOCK, clock, follow
from labkit.worlds.finite import MDP
from labkit.worlds.steered import SteeredWorld


def steer(algo: Tabular, world: SteeredWorld, learner: Learner, k: SimpleNamespace) -> MDP:
    """The world as it stands, where it answers to the policy that was deployed: a new one every BLOCK steps.

    learner.memory keeps it, "deployed" (L, S, A).
    """
    if learner.step % BLOCK == 0:
        learner.memory["deployed"] = learner.memory["log_pi"].exp()
    return world.facing(clock(learner), learner.memory["deployed"])


def steerable(method: object) -> bool:
    """Does it learn from steps in a world that goes its own way? Then its slot `respond` may be `steer`."""
    return isinstance(method, Tabular) and method.respond is follow
