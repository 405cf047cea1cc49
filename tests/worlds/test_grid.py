"""The grid worlds against the installed MiniGrid: rules, views, layouts, tables, pictures."""
from collections import Counter, deque

import numpy as np
import pytest
import torch
from minigrid.wrappers import FullyObsWrapper
from scipy.stats import chi2_contingency

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds import finite, make
from labkit.worlds.grid import enumerate_states, exact_return, optimal_return
from labkit.worlds.grid import kinds as k
from labkit.worlds.grid.mini import from_minigrid, peer, to_minigrid
from labkit.worlds.grid.view import visible

torch.set_num_threads(1)

WORLDS = [
    ("grid.empty", {}), ("grid.empty", {"size": 5, "random_start": True}), ("grid.fourrooms", {}), ("grid.fourrooms", {"size": 9}),
    ("grid.doorkey", {}), ("grid.doorkey", {"size": 5}), ("grid.lavagap", {}), ("grid.simplecrossing", {"crossings": 3}),
    ("grid.unlock", {}), ("grid.memory", {"size": 9}), ("grid.memory", {"random_length": True}),
]
SMALL = [
    ("grid.empty", {"size": 5, "random_start": True}), ("grid.fourrooms", {"size": 7}), ("grid.doorkey", {"size": 5}),
    ("grid.lavagap", {"size": 5}), ("grid.simplecrossing", {"size": 7, "crossings": 2}), ("grid.unlock", {"size": 4}),
    ("grid.memory", {"size": 7}), ("grid.memory", {"size": 9, "random_length": True}),
]


def batch(states):
    """Many (1, 1, ...) states side by side: (1, B, ...)."""
    return {name: torch.cat([s[name] for s in states], 1) for name in states[0]}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def greedy(table, gamma=0.95):
    """A shortest way to success from every state: (S,) actions."""
    value = torch.zeros(len(table.mu), dtype=torch.float64)
    for _ in range(200):
        q = table.reward + gamma * torch.where(table.done, 0.0, value[table.next])
        value = q.amax(1)
    return q.argmax(1)


def play(env, act, steps):
    """Step a live MiniGrid environment: states before, actions, states after, images, rewards, two flags."""
    log, before, full = [], from_minigrid(env), FullyObsWrapper(env)
    for _ in range(steps):
        action = act(before)
        obs, reward, terminated, truncated, _ = env.step(action)
        after = from_minigrid(env)
        log.append((before, action, after, obs["image"], full.observation(obs)["image"], reward, terminated, truncated))
        if terminated or truncated:
            env.reset()
        before = from_minigrid(env) if terminated or truncated else after
    return log


def agrees(world, log):
    """One step of all states at once equals what MiniGrid did; returns how many steps earned something."""
    before, action, after, image, full, reward, terminated, truncated = zip(*log, strict=True)
    start = batch(before)
    kept = {name: v.clone() for name, v in start.items()}
    out, r, end, cut = world.step(start, torch.tensor([action]), torch.empty(1, len(log), 0))
    assert same(start, kept), "step wrote into its argument"
    assert same(out, batch(after))
    assert torch.equal(r[0], torch.tensor(reward, dtype=torch.float64).float())
    assert end[0].tolist() == [bool(e) for e in terminated] and cut[0].tolist() == list(truncated)
    assert np.array_equal(world.image(out)[0], np.stack(image))
    assert np.array_equal(world.full_image(out)[0], np.stack(full))
    return sum(x > 0 for x in reward)


@pytest.mark.parametrize(("key", "options"), WORLDS)
def test_every_step_equals_minigrid_under_random_actions(key, options):
    world, rng = make(key, **options), np.random.default_rng(1)
    env = peer(world)
    env.reset(seed=3)
    agrees(world, play(env, lambda _: int(rng.choice(7, p=[0.12, 0.12, 0.36, 0.15, 0.08, 0.12, 0.05])), 1000))


@pytest.mark.parametrize(("key", "options"), WORLDS)
def test_every_step_equals_minigrid_on_the_way_to_success(key, options):
    """Half-greedy play in a fixed layout meets opened doors, carried keys and rewards, which random play rarely does."""
    world, rng = make(key, layout_seed=5, view="state", **options), np.random.default_rng(2)
    best = greedy(enumerate_states(world))
    first = world.reset(torch.full((1, 1, world.reset_noise), 0.4))

    def fresh(**_):
        vars(env).update(vars(to_minigrid(world, first)))

    def act(state):
        return int(rng.integers(7)) if rng.random() < 0.4 else int(best[world.number(state)[0, 0]])

    env = to_minigrid(world, first)
    env.reset = fresh
    assert agrees(world, play(env, act, 1000)) > 10


def test_every_thing_ahead_every_load_and_every_action_does_what_it_does_in_minigrid():
    world = make("grid.doorkey", size=5, layout_seed=0)
    colours = range(k.COLOURS)
    carried = [k.EMPTY, *(base + c for base in (k.KEY, k.BALL) for c in colours)]
    loads = carried[:8]  # nothing, all keys, one ball
    things = [*carried, k.GOAL, k.LAVA, k.WALL, *(base + c for base in (k.OPEN, k.CLOSED, k.LOCKED) for c in colours)]
    state = world.reset(torch.zeros(1, 1, 1)) | {"pos": torch.full((1, 1), 6), "dir": torch.zeros(1, 1, dtype=torch.int64)}
    log = []
    for thing in things:
        for load in loads:
            before = state | {"grid": state["grid"].clone(), "load": torch.full((1, 1), load)}
            before["grid"][0, 0, 7] = thing
            env = to_minigrid(world, before)
            for action in range(7):
                log += play(env, lambda _, action=action: action, 1)
                vars(env).update(vars(to_minigrid(world, before)))
    assert len(log) == 34 * 8 * 7
    agrees(world, log)


def test_sight_equals_minigrids_on_random_clutter():
    """Views no layout would show: each cell opaque or not at random."""
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Wall

    rng = np.random.default_rng(0)
    for density in (0.2, 0.5) * 60:
        opaque = rng.random((7, 7)) < density  # [line, column]
        opaque[6, 3] = False
        grid = Grid(7, 7)
        grid.grid = [Wall() if cell else None for cell in opaque.ravel()]
        lines = torch.full((7, 8), k.EMPTY, dtype=torch.uint8)
        lines[:, :7] = torch.where(torch.from_numpy(opaque), k.WALL, k.EMPTY)
        seen = visible(lines.view(torch.int64).view(1, 7)).view(torch.uint8).view(7, 8)
        assert np.array_equal(seen[:, :7] != k.UNSEEN, grid.process_vis((3, 6)).T)


def drawn(world, n):
    """n first states as categories: (grid bytes, pos, dir)."""
    state = world.reset(Lanes((1,)).rand(0, n, world.reset_noise))
    rows = zip(state["grid"][0].numpy(), state["pos"][0].tolist(), state["dir"][0].tolist(), strict=True)
    return [(grid.tobytes(), pos, direction) for grid, pos, direction in rows]


def drawn_by_minigrid(world, n):
    env, out = peer(world), []
    env.reset(seed=1)
    for _ in range(n):
        env.step_count, env.carrying = 0, None
        env._gen_grid(env.width, env.height)
        state = from_minigrid(env)
        out.append((state["grid"].numpy().tobytes(), state["pos"].item(), state["dir"].item()))
    return out


def gaps(category):
    return bytes(kind == k.WALL for kind in category[0])


VIEWS_OF_A_DRAWING = {
    "gaps": gaps, "place": lambda c: c[1:], "first goal": lambda c: c[0].find(k.GOAL),
    "things": lambda c: tuple((i, kind) for i, kind in enumerate(c[0]) if kind in range(k.KEY, k.WALL) or kind > k.WALL),
}


@pytest.mark.parametrize(("key", "options"), SMALL)
def test_layouts_are_drawn_as_minigrid_draws_them(key, options):
    world = make(key, **options)
    ours, theirs = drawn(world, 20_000), drawn_by_minigrid(world, 1000)
    for name, aspect in VIEWS_OF_A_DRAWING.items():
        a, b = Counter(map(aspect, ours)), Counter(map(aspect, theirs))
        assert set(b) <= set(a), f"{name}: MiniGrid draws what we never draw"
        table = np.array([[a[c], b[c]] for c in a]).T
        if table.shape[1] > 1:
            assert chi2_contingency(table).pvalue > 1e-4, name


def test_joint_draw_of_key_agent_and_door_is_minigrids():
    world = make("grid.doorkey", size=5)
    a, b = Counter(drawn(world, 20_000)), Counter(drawn_by_minigrid(world, 2000))
    assert set(a) == set(b) and len(a) == 2 * 3 * 2 * 4
    assert chi2_contingency(np.array([[a[c], b[c]] for c in a]).T).pvalue > 1e-4


@pytest.mark.parametrize(("key", "options"), [("grid.fourrooms", {"size": 7}), ("grid.doorkey", {"size": 5}), ("grid.memory", {"size": 7})])
def test_table_is_what_a_search_through_minigrid_finds(key, options):
    world = make(key, layout_seed=3, **options)
    table = enumerate_states(world)

    def name(state):
        return (state["grid"].numpy().tobytes(), state["pos"].item(), state["dir"].item(), state["load"].item())

    def single(i):
        return {n: v[:, i : i + 1] for n, v in table.states.items()}

    names = {name(single(i)): i for i in range(len(table.mu))}
    assert len(names) == len(table.mu)
    todo = deque(table.mu.nonzero()[:, 0].tolist())
    found = set(todo)
    while todo:
        i = todo.popleft()
        for action in range(7):
            env = to_minigrid(world, single(i))
            _, reward, ended, _, _ = env.step(action)
            assert bool(table.done[i, action]) == bool(ended)
            assert table.reward[i, action] == (reward > 0)
            j = i if ended else names[name(from_minigrid(env))]
            assert table.next[i, action] == j
            if j not in found:
                found.add(j)
                todo.append(j)
    assert len(found) == len(table.mu)


def forward(table, pi):
    """Expected return by carrying the distribution over states forward: dense, another way than the package's."""
    S = len(table.mu)
    go = torch.zeros(S, S, dtype=torch.float64)
    alive = torch.where(table.done, 0.0, pi)
    go.scatter_add_(1, table.next, alive)
    d, total = table.mu.clone(), 0.0
    for t in range(table.horizon):
        total += (1 - 0.9 * (t + 1) / table.horizon) * (d[:, None] * pi * table.reward).sum()
        d = d @ go
    return float(total)


@pytest.mark.parametrize(("key", "options"), [("grid.fourrooms", {"size": 9}), ("grid.doorkey", {"size": 5})])
def test_exact_return_equals_a_forward_sweep_and_lies_where_sampling_says(key, options):
    world = make(key, layout_seed=1, view="state", **options)
    table = enumerate_states(world)
    best = torch.nn.functional.one_hot(greedy(table), 7).double()
    pi = torch.stack([torch.full_like(best, 1 / 7), 0.6 / 7 + 0.4 * best, best])
    exact = exact_return(table, pi)
    assert torch.allclose(exact, torch.tensor([forward(table, p) for p in pi], dtype=torch.float64), atol=1e-12)
    assert torch.equal(exact[1:2], exact_return(table, pi[1:2]))
    lanes, episodes = Lanes((7,)), 20_000
    state, total = world.reset(lanes.rand(0, episodes, world.reset_noise)), torch.zeros(1, episodes)
    alive = torch.ones(1, episodes, dtype=torch.bool)
    for t in range(world.horizon):
        p = pi[1][torch.where(alive, world.number(state), 0)]
        action = (p.cumsum(-1) < lanes.rand(t + 1, episodes)[..., None]).sum(-1).clamp(max=6)
        state, reward, end, cut = world.step(state, action, torch.empty(1, episodes, 0))
        total += reward * alive
        alive &= ~(end | cut)
    assert not alive.any()
    assert abs(total.mean().item() - exact[1].item()) < 4 * total.std().item() / episodes**0.5


def steps_to_success(table):
    """Fewest steps from every state, by search backward from success."""
    steps = torch.full((len(table.mu),), float("inf"), dtype=torch.float64)
    for _ in range(len(steps)):
        new = 1 + torch.where(table.done, torch.where(table.reward > 0, 0.0, float("inf")), steps[table.next]).amin(1)
        if torch.equal(new, steps):
            break
        steps = new
    return steps


@pytest.mark.parametrize(("key", "options"), SMALL)
def test_optimal_return_is_the_shortest_ways(key, options):
    table = enumerate_states(make(key, layout_seed=2, **options))
    steps = steps_to_success(table)
    want = (table.mu * (1 - 0.9 * steps / table.horizon)).sum()
    assert optimal_return(table) == pytest.approx(want.item(), abs=1e-12)
    best = torch.nn.functional.one_hot(greedy(table), 7)[None]
    assert exact_return(table, best).item() == pytest.approx(want.item(), abs=1e-12)


@pytest.mark.parametrize(("key", "options"), WORLDS)
def test_lanes_and_restarts_do_not_depend_on_neighbours(key, options):
    world, lanes = make(key, **options), Lanes((3, 1, 2))
    alone = [Lanes((seed,)) for seed in lanes.seeds]

    def run(lanes):
        state = world.reset(lanes.rand(0, 5, world.reset_noise))
        seen = []
        for t in range(1, 40):
            action = (lanes.rand(2 * t, 5) * 7).long()
            state, reward, end, _ = world.step(state, action, lanes.rand(0, 5, 0))
            old = {name: v.clone() for name, v in state.items()}
            done = end | (lanes.rand(3 * t, 5) < 0.1)
            fresh = world.restart(state, done, lanes.rand(2 * t + 1, 5, world.reset_noise))
            assert same(state, old)
            assert same({n: v[~done] for n, v in fresh.items()}, {n: v[~done] for n, v in state.items()})
            whole = world.reset(lanes.rand(2 * t + 1, 5, world.reset_noise))
            assert same({n: v[done] for n, v in fresh.items()}, {n: v[done] for n, v in whole.items()})
            state = fresh
            seen.append(torch.cat([world.observe(state), reward[..., None]], -1))
        return torch.stack(seen, 1)

    together = run(lanes)
    for i, one in enumerate(alone):
        assert torch.equal(together[i], run(one)[0])


def test_table_as_a_discounted_mdp_has_the_value_of_its_shortest_ways():
    table = enumerate_states(make("grid.doorkey", size=5, layout_seed=2))
    mdp = table.mdp(0.9)
    want = 0.9 ** (steps_to_success(table) - 1)
    assert torch.allclose(finite.optimal(mdp)[1][0], want, atol=1e-9)
    assert mdp.cells[0] == (int(table.place[0, 1]), int(table.place[0, 0]))


def test_views_show_the_codes_divided_by_ten_and_the_state_as_one_hot():
    options = {"size": 5, "layout_seed": 0}
    table = enumerate_states(make("grid.doorkey", view="state", **options))
    assert torch.equal(table.obs, torch.eye(len(table.mu)))
    for view, image in (("partial", "image"), ("full", "full_image")):
        world = make("grid.doorkey", view=view, **options)
        obs = world.observe(table.states)
        assert obs.shape == (1, len(table.mu), world.obs_size) and obs.dtype == torch.float32
        assert torch.equal(obs, getattr(world, image)(table.states).flatten(2).float() / 10)


def test_a_fixed_layout_stays_and_its_cells_are_what_the_grid_holds():
    world = make("grid.fourrooms", size=9, layout_seed=4)
    state = world.reset(Lanes((0,)).rand(0, 500, world.reset_noise))
    assert (state["grid"] == world.plan).all() and not torch.equal(world.plan, make("grid.fourrooms", size=9, layout_seed=5).plan)
    drawn = torch.full((9, 9), k.EMPTY, dtype=torch.uint8)
    for name, kind in (("wall", k.WALL), ("goal", k.GOAL)):
        drawn[world.cells[name][:, 1], world.cells[name][:, 0]] = kind
    assert torch.equal(drawn.view(1, -1), world.plan)
    x, y, _ = enumerate_states(world).place.unbind(1)
    assert {(int(a), int(b)) for a, b in zip(x, y, strict=True)} == {(i % 9, i // 9) for i, v in enumerate(world.plan[0]) if v == k.EMPTY}
    door = make("grid.doorkey", size=6, layout_seed=0)
    assert [len(door.cells[name]) for name in ("door", "key", "goal", "lava")] == [1, 1, 1, 0]


def test_starts_that_are_not_random_are_minigrids_or_the_first_place():
    for key in ("grid.empty", "grid.lavagap", "grid.simplecrossing"):
        world = make(key)
        assert world.random_start is False
        state = world.reset(Lanes((0,)).rand(0, 50, world.reset_noise))
        assert (state["pos"] == world.width + 1).all() and (state["dir"] == 0).all()
    world = make("grid.fourrooms", size=7, random_start=False, layout_seed=0)
    assert world.reset_noise == 0 and enumerate_states(world).mu.tolist().count(1.0) == 1
    crossing = make("grid.simplecrossing", crossings=4, random_start=True, layout_seed=3)
    assert torch.isfinite(steps_to_success(enumerate_states(crossing))).all()


@pytest.mark.parametrize(("key", "options"), WORLDS)
def test_picture_is_minigrids_own(key, options):
    world, env = make(key, **options), peer(make(key, **options))
    env.reset(seed=11)
    for action in (2, 3, 2, 1, 3, 2, 5):
        env.step(action)
    assert np.array_equal(world.picture(from_minigrid(env), tile=8), env.get_frame(tile_size=8))


def test_success_pays_less_the_later_it_comes():
    world = make("grid.empty", size=5, max_steps=10)
    state = world.reset(torch.rand(1, 1, 0))
    for t, action in enumerate((2, 2, 1, 2, 2)):
        state, reward, end, _ = world.step(state, torch.tensor([[action]]), torch.empty(1, 1, 0))
        assert end.item() == (t == 4)
    assert reward.item() == np.float32(1 - 0.9 * 5 / 10)


@pytest.mark.parametrize(("key", "options", "words"), [
    ("grid.doorkey", {"size": 4}, "DoorKey needs a size of at least 5; got size=4"),
    ("grid.fourrooms", {"size": 8}, "FourRooms needs an odd size of at least 7; got size=8"),
    ("grid.simplecrossing", {"crossings": 7}, "1 to 6 crossings; got crossings=7"),
    ("grid.empty", {"view": "side"}, "partial, full and state; got view='side'"),
    ("grid.empty", {"max_steps": 0}, "at least one step an episode; got max_steps=0"),
    ("grid.fourrooms", {"view": "state"}, "fix one with layout_seed=0"),
    ("grid.empty", {"colour": 1}, "colour"),
])
def test_bad_options_are_named(key, options, words):
    with pytest.raises(LabError, match=words.replace("(", r"\(")):
        make(key, **options)


def test_tables_name_what_they_cannot_do(monkeypatch):
    with pytest.raises(LabError, match="layout_seed=0"):
        enumerate_states(make("grid.fourrooms"))
    with pytest.raises(LabError, match=r"takes a policy \(L, 76, 7\); got shape \(76, 7\)"):
        table = enumerate_states(make("grid.fourrooms", size=7, layout_seed=0))
        exact_return(table, torch.full((76, 7), 1 / 7))
    monkeypatch.setattr("labkit.worlds.grid.table.LIMIT", 200)
    with pytest.raises(LabError, match="more than 200 states at size 5 x 5; choose a smaller size"):
        enumerate_states(make("grid.doorkey", size=5, layout_seed=0))


def test_the_state_view_shows_the_listed_state_and_nothing_once_the_episode_has_ended():
    world = make("grid.empty", size=5, layout_seed=0, view="state")
    table = enumerate_states(world)
    assert torch.equal(table.obs, torch.eye(len(table.mu)))
    wide = {name: v.expand(1, *v.shape[1:]) for name, v in table.states.items()}
    after, _, ended, _ = world.step(wide, torch.full(wide["pos"].shape, 2), torch.empty(*wide["pos"].shape, 0))
    assert ended.any() and torch.equal(world.observe(after).sum(-1), 1 - ended.float())
