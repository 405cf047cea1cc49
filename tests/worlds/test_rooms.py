"""Four rooms as tasks: what changes, what stays, and that every goal can be reached."""
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds.rooms import rooms


def modes(change, **options):
    return rooms(change, **options).models


def test_the_goal_moves_or_the_doors_do_and_the_rest_stays():
    """A goal pays in each of its four actions and leads to the first corner; doors are the free cells of the middle row and column."""
    for seed in range(3):
        moved, opened = (modes(change, seed=seed) for change in ("reward", "dynamics"))
        for models, fixed, free in ((moved, "doors", "goals"), (opened, "goals", "doors")):
            goals = [tuple(r.sum(-1).nonzero()[:, 0].tolist()) for r in models.r]
            walls = [tuple(s for s in range(49) if P[s, :, s].sum() == 4) for P in models.P]
            found = {"goals": goals, "doors": walls}
            assert len(set(found[fixed])) == 1 and len(set(found[free])) > 1
            assert all(len(g) == 1 for g in goals) and all(len(w) == 49 - 4 * 9 - 4 for w in walls)
        assert torch.equal(moved.P[0], opened.P[0]) and torch.equal(moved.r[0], opened.r[0])


def test_every_goal_lies_in_another_room_and_can_be_reached():
    for change in ("reward", "dynamics"):
        world = rooms(change, seed=range(4))
        assert bool((world.models.best.v[:, 0] > 0.95**20).all())
        goal = world.models.r.sum(-1).argmax(-1)
        assert bool(((goal // 7 > 3) | (goal % 7 > 3)).all()) and bool((world.models.P[torch.arange(16), goal][:, :, 0] == 1).all())


def test_tasks_follow_one_another_and_lanes_have_their_own():
    world = rooms(period=10, tasks=3, seed=(5, 8))
    assert world.mode(torch.tensor([9, 10])).tolist() == [0, 1] and world.mode(torch.tensor([29, 99])).tolist() == [2, 2]
    assert torch.equal(world.in_mode(torch.tensor([1, 1])).r[1], modes("reward", tasks=3, seed=8).r[1])


@pytest.mark.parametrize(
    ("options", "part"),
    [({"change": "walls"}, "change is 'walls'"), ({"tasks": 0}, "tasks is 0"), ({"period": 0}, "period is 0"), ({"side": 1}, "side is 1")],
)
def test_bad_options_get_one_sentence(options, part):
    with pytest.raises(LabError, match=part):
        worlds.make("finite.rooms", **options)
