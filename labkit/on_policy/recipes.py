"""Shapes and knobs under which the family learns each world. Found on seeds from 100 up; tests and figures use others."""
from dataclasses import replace

from labkit.errors import LabError
from labkit.on_policy.family import OnPolicy

RECIPES: dict[str, tuple[dict[str, int], dict[str, float]]] = {  # world: (shape, knobs)
    "control.cartpole": ({}, {}),
    # rewards here are of order 10 a step; a discount of 0.9 keeps values, and the critic's errors, within 100, so nothing is rescaled
    "control.pendulum": ({"steps": 256, "minibatches": 32}, {"gamma": 0.9, "lr": 5e-4, "epochs": 10}),
    "grid.doorkey": ({}, {}),  # with view="full"
    # with view="state": from the codes of all cells a small network learns where it is, and which way it looks, only slowly
    "grid.fourrooms": ({"envs": 64, "steps": 32, "minibatches": 8}, {"gamma": 0.97}),
}


def tuned(algo: OnPolicy, world: str) -> OnPolicy:
    """The method with the shape and the defaults that suit a world; knobs it lacks are left out. LabError where there is no recipe."""
    if world not in RECIPES:
        raise LabError(f"There is no recipe for {world!r}; there is one for {', '.join(RECIPES)}. Or set shape and knobs yourself.")
    shape, defaults = RECIPES[world]
    knobs = {name: replace(knob, default=defaults.get(name, knob.default)) for name, knob in algo.knobs.items()}
    return replace(algo, shape=replace(algo.shape, **shape), knobs=knobs)
