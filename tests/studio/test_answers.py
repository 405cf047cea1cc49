"""Pictures of answers: what is kept, how mass flows, which point is drawn, and what is told in words."""
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from labkit import stats, worlds
from labkit.errors import LabError
from labkit.grpo.family import Shape, grpo
from labkit.grpo.outcome import exact, policy_at
from labkit.lanes import Lanes
from labkit.record import Record, record
from labkit.snapshot import Snapshot
from labkit.studio.figures import alt
from labkit.studio.figures.answers import (
    KS,
    THICK,
    Tree,
    _places,
    _stacked,
    answer_tree,
    frontier_by_setting,
    pass_curves,
    watch_passes,
    watch_tree,
)

CHAIN = worlds.make("tokens.chain", levels=(1, 2), problems=3, held=1)
STOPPED = worlds.make("tokens.chain", levels=(1, 2), problems=3, held=0, stop=True, room=4)
TWO = 4  # the first problem of two operations in CHAIN
LANES = Lanes((0, 1, 2), {"beta": (0.0, 0.5)})
SMALL = Shape(prompts=2, group=4, width=16, warm=0.2)


@pytest.fixture(scope="module")
def learner():
    return replace(grpo, shape=SMALL).begin(CHAIN, LANES, 0.2)


@pytest.fixture(scope="module")
def kept():
    fields = watch_passes(CHAIN) | watch_tree(CHAIN, TWO)
    return record(replace(grpo, shape=SMALL), CHAIN, LANES, steps=24, fields=fields)


def test_pass_at_k_is_kept_of_the_problems_asked_for(learner):
    said = watch_passes(CHAIN, CHAIN.held_out.nonzero()[:, 0])["pass"](Snapshot(0, learner, {}))
    success = exact(CHAIN, learner)["success"][:, CHAIN.held_out]
    by_hand = torch.stack([(1 - (1 - success) ** k).mean(1) for k in KS], 1)
    torch.testing.assert_close(said.double(), by_hand, rtol=0, atol=1e-6)
    trained = watch_passes(CHAIN)["pass"](Snapshot(0, learner, {}))[:, 0]
    torch.testing.assert_close(trained.double(), exact(CHAIN, learner)["success"][:, CHAIN.pool].mean(1), rtol=0, atol=1e-6)


def test_a_tree_holds_all_that_can_be_written():
    """Two operations: the prompt, 11 first digits, 11 results; with stop and room for 4 tokens the answers end at several depths."""
    tree = Tree.of(CHAIN, TWO)
    assert torch.bincount(tree.depth).tolist() == [1, 11, 11] and tree.nodes[0] == CHAIN.start[TWO]
    assert torch.equal(tree.nodes[tree.follows], CHAIN.graph.next[tree.writing])
    stopped = Tree.of(STOPPED, 3)
    assert torch.equal(stopped.nodes[stopped.follows], STOPPED.graph.next[stopped.writing])
    assert (stopped.depth[stopped.follows] > stopped.depth[: len(stopped.follows), None]).all()


def test_the_flow_is_that_of_every_response_written_out(learner):
    """Mass along each edge, and the part of it that ends right, by the list of all 121 responses."""
    tree, graph = Tree.of(CHAIN, TWO), CHAIN.graph
    probs = policy_at(CHAIN, learner).probs[0]
    flow, right = tree.flows(probs[graph.row[tree.writing]], graph.reward)
    place = {node: i for i, node in enumerate(tree.nodes.tolist())}
    told = torch.zeros(2, *flow.shape, dtype=torch.float64)
    for tokens in itertools.product(range(11), repeat=2):
        node, chance, passed = int(CHAIN.start[TWO]), 1.0, []
        for token in tokens:
            chance, passed = chance * probs[graph.row[node], token].item(), [*passed, (place[node], token)]
            node = int(graph.next[node, token])
        for edge in passed:
            told[0][edge] += chance
            told[1][edge] += chance * graph.reward[node].item()
    torch.testing.assert_close(flow, told[0])
    torch.testing.assert_close(right, told[1])
    torch.testing.assert_close(right[0].sum(), exact(CHAIN, learner)["success"][0, TWO])


def areas(trace):
    """Each polygon's width times its height, from the corners."""
    x, y = ([*axis] for axis in (trace.x, trace.y))
    return [(x[i + 1] - x[i]) * (y[i] - y[i + 3]) for i in range(0, len(x), 5)]


def test_ribbons_are_as_wide_as_their_mass_and_split_as_answers_end(kept):
    fig, tree = answer_tree(kept, CHAIN, TWO, point=1, seed=2), Tree.of(CHAIN, TWO)
    assert len(fig.frames) == len(kept.steps)
    flow, right = tree.flows(kept.fields["tree"][-1, 5].double(), CHAIN.graph.reward)
    for trace, mass in zip(fig.frames[-1].data, (right, flow - right), strict=False):
        drawn = np.array(areas(trace)) / (1 - 0.12) / THICK  # a ribbon keeps 0.06 from the nodes at its ends
        seen = mass[mass > 3e-3]
        np.testing.assert_allclose(np.sort(drawn), np.sort(seen.numpy()), rtol=0, atol=1e-6)
    words = fig.frames[-1].data[2].text
    answer = CHAIN.tokens[int(CHAIN.graph.answer[tree.nodes[-11:]][CHAIN.graph.reward[tree.nodes[-11:]] > 0][0])]
    assert [word.split()[0] for word in words if "✓" in word] == [answer] and len(words) == 11
    assert f"to {right[0].sum():.0%}." in alt(fig) and " ".join(CHAIN.words(CHAIN.solution[TWO])) in alt(fig)


def test_ribbons_lie_side_by_side_at_both_ends(learner):
    """No two overlap where they begin or where they end."""
    tree = Tree.of(CHAIN, TWO)
    flow, right = tree.flows(policy_at(CHAIN, learner).probs[0][CHAIN.graph.row[tree.writing]], CHAIN.graph.reward)
    across, up, _ = _places(tree, CHAIN, TWO)
    ribbons = [(*start, *end, wide) for start, end, wide, _ in _stacked(tree, flow, right, across, up)]
    for x, y in ((0, 1), (2, 3)):
        for node in {ribbon[x] for ribbon in ribbons}:
            here = sorted([(ribbon[y], ribbon[y] - ribbon[4]) for ribbon in ribbons if ribbon[x] == node], reverse=True)
            gaps = [above[1] - below[0] for above, below in itertools.pairwise(here)]
            assert min(gaps) > -1e-6 and here[0][0] - here[-1][1] > 0


def test_a_tree_that_ends_at_several_depths_is_drawn_too():
    told = record(replace(grpo, shape=SMALL), STOPPED, Lanes((0,)), steps=8, fields=watch_tree(STOPPED, 3))
    words = answer_tree(told, STOPPED, 3).data[2].text
    assert sum("✓" in word for word in words) > 1  # the same answer may be stopped at with more or less room left


def test_the_frontier_shows_one_setting_and_its_seeds(kept):
    fig = frontier_by_setting(kept)
    assert [frame.name for frame in fig.frames] == ["beta=0", "beta=0.5"]
    trail, seeds, end = fig.frames[1].data
    np.testing.assert_allclose(seeds.x, kept.curves["kl"][-1, 3:].numpy(), rtol=1e-6)
    middle, low, high = stats.interval(kept.curves["return"][-1, 3:])
    assert end.y[0] == pytest.approx(float(middle)) == trail.y[-1]
    assert (end.error_y.array[0], end.error_y.arrayminus[0]) == (pytest.approx(float(high - middle)), pytest.approx(float(middle - low)))
    assert f"beta=0.5: return {float(middle):.3f}" in alt(fig)
    low, high = fig.layout.xaxis.range
    assert all(low <= x <= high for frame in fig.frames for x in frame.data[1].x)


def test_pass_curves_set_the_start_beside_now(kept):
    fig = pass_curves(kept, (0, 1))
    start, now = fig.data[1], fig.frames[-1].data[3]
    np.testing.assert_allclose(start.y, stats.iqm(kept.fields["pass"][0, :3].T).value.numpy(), rtol=1e-6)
    np.testing.assert_allclose(now.y, stats.iqm(kept.fields["pass"][-1, 3:].T).value.numpy(), rtol=1e-6)
    assert list(now.x) == list(KS) and f"beta=0.5 from {now.y[0]:.3f} to {now.y[-1]:.3f}" in alt(fig)


def test_a_record_without_the_fields_is_refused(kept):
    bare = Record("grpo", "w", kept.lanes, kept.steps, kept.curves)
    with pytest.raises(LabError, match="lacks the field 'tree'"):
        answer_tree(bare, CHAIN, TWO)
    with pytest.raises(LabError, match="lacks the field 'pass'"):
        pass_curves(bare)
