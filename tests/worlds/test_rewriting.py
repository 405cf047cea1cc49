"""The frozen answerer by plain loops, rewrites and scores by hand, and the table of both."""
import numpy as np
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds import rewriting as world
from labkit.worlds.rewriting import (
    CLOSE,
    COMMON,
    FEATURES,
    LETTERS,
    NAMES,
    PER_STYLE,
    REWRITES,
    SHARP,
    SPELT,
    STYLES,
    VAGUE,
    Answerer,
    ask,
    features,
    rewrite,
    rewriting,
    score,
)
from labkit.worlds.rewriting import SYNONYM as SYN


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def told(*facts):
    """An answerer whose document is these facts, (name, attribute) each."""
    base = Answerer.drawn(rng())
    names, attributes = np.array(facts).T
    return Answerer(base.embed, names, attributes, rng(1).integers(LETTERS, size=(len(facts), 3)))


def softmax(scores):
    weight = [np.exp(s - max(scores)) for s in scores]
    return [w / sum(weight) for w in weight]


def by_loops(answerer, words):
    """The answer, place by place: what each place holds, what it fetches, where the question mark looks."""
    facts = zip(answerer.names, answerer.attributes, strict=True)
    stream = [held for n, a in facts for held in (answerer.embed[n], answerer.embed[NAMES + a], np.zeros(16))]
    wanted = sum(answerer.embed[w] for w in words) / len(words)
    looks = []
    for place in range(2, len(stream), 3):
        fetched = np.zeros(16)
        for back in (1, 2):
            for weight, held in zip(softmax([CLOSE * (place - at == back) for at in range(len(stream))]), stream, strict=True):
                fetched = fetched + weight * held
        looks.append(SHARP * wanted @ fetched)
    mass = np.zeros((3, LETTERS))
    for weight, letters in zip(softmax(looks), answerer.letters, strict=True):
        for slot, letter in enumerate(letters):
            mass[slot, letter] += weight
    return mass.argmax(1)


def test_the_answerer_by_plain_loops():
    for seed in range(3):
        answerer, draw = Answerer.drawn(rng(seed)), rng(seed + 10)
        questions = [ask(answerer, style, draw)[0] for style in STYLES for _ in range(4)]
        assert np.array_equal(answerer.answer(questions), [by_loops(answerer, words) for words in questions])


def test_what_is_asked_plainly_is_answered_rightly():
    """A circuit that looks things up does look them up."""
    for seed in range(20):
        answerer = Answerer.drawn(rng(seed))
        every = [[int(n), NAMES + int(a)] for n, a in zip(answerer.names, answerer.attributes, strict=True)]
        assert (answerer.answer(every) == answerer.letters).mean() > 0.95


def test_a_document_states_each_fact_once():
    for seed in range(20):
        answerer = Answerer.drawn(rng(seed))
        facts = list(zip(answerer.names.tolist(), answerer.attributes.tolist(), strict=True))
        assert len(set(facts)) == len(facts) == 10 and len(set(answerer.names)) <= NAMES // 2


def test_scores_by_hand():
    """All right; two in place, one of them elsewhere; the same letters in other places; nothing; a letter counts once."""
    truth = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 1, 2]])
    answer = np.array([[1, 2, 3], [1, 2, 9], [2, 3, 1], [7, 8, 9], [3, 1, 1]])
    by_hand = [1.0, 0.3 * 2 / 3 + 0.1 * 2 / 3, 0.1, 0.0, 0.3 / 3 + 0.1 * 2 / 3]
    np.testing.assert_allclose(score(answer, truth), by_hand)


TWO = told((4, 1), (4, 2), (10, 3))


@pytest.mark.parametrize("words,rewrites", [
    # a plain question for attribute 2 of name 4
    ([4, NAMES + 2], {"keep": [4, NAMES + 2], "paraphrase": [SYN + 4, SYN + NAMES + 2], "simplify": [4, NAMES + 2],
                      "disambiguate": [4, NAMES + 2], "clarify terms": [4, NAMES + 2],
                      "expand": [4, NAMES + 2, SYN + 4, SYN + NAMES + 2, 5]}),
    # a rare name, misspelt: no synonym, and the dictionary takes it for another
    ([SPELT + 10, NAMES], {"paraphrase": [10, SYN + NAMES], "clarify terms": [10 % COMMON, NAMES],
                           "expand": [SPELT + 10, NAMES, 10, SYN + NAMES, 11], "disambiguate": [SPELT + 10, NAMES]}),
    # a rare name, well spelt
    ([10, NAMES], {"clarify terms": [10 % COMMON, NAMES], "paraphrase": [10, SYN + NAMES]}),
    # nothing asked, or something vague: what is said first of the name
    ([4], {"disambiguate": [4, NAMES + 1], "simplify": [4], "keep": [4]}),
    ([4, VAGUE], {"disambiguate": [4, NAMES + 1], "paraphrase": [SYN + 4, VAGUE], "clarify terms": [4, VAGUE]}),
    # another name, before and after
    ([7, 4, NAMES + 2], {"simplify": [7, 4], "disambiguate": [4, NAMES + 2]}),
    ([4, NAMES + 2, 7], {"simplify": [4, NAMES + 2], "disambiguate": [7, NAMES + 2]}),
    # a name of which nothing is said
    ([2], {"disambiguate": [2, NAMES]}),
])  # fmt: skip
def test_rewrites_by_hand(words, rewrites):
    for name, expected in rewrites.items():
        assert rewrite(TWO, name, words) == expected, name


def test_features_by_hand():
    on = {
        (4, NAMES + 2): set(), (SPELT + 4, NAMES): {"misspelt"}, (4,): {"no attribute"}, (4, VAGUE): {"vague"},
        (7, 4, NAMES): {"two names"}, (4, NAMES, 7): {"two names", "names last"}, (NAMES, 4): {"names last", "attribute first"},
        (10, NAMES): {"rare name", "one fact"}, (SPELT + 10, NAMES): {"misspelt", "rare name", "one fact"},
    }  # fmt: skip
    for words, names in on.items():
        assert {name for name, seen in zip(FEATURES, features(TWO, list(words)), strict=True) if seen} == names, words


def test_a_table_of_questions_times_rewrites():
    """Scores of the table by answering the same questions anew; keeping is best for plain questions; nothing is random."""
    table = rewriting(seed=7)
    draw = rng(7)
    answerer = Answerer.drawn(draw)
    asked = [ask(answerer, style, draw) for style in STYLES for _ in range(PER_STYLE)]
    for c in (0, 65, 130, 200, 299):
        words, fact = asked[c]
        for a, name in enumerate(REWRITES):
            answer = answerer.answer([rewrite(answerer, name, words)])
            assert table.mean[0, c, a].item() == pytest.approx(score(answer, answerer.letters[[fact]])[0])
    state = table.reset(Lanes((0, 1)).rand(0, 50, 1))
    action = (Lanes((0, 1)).rand(1, 50) * 6).long()
    paid = [table.step(state, action, Lanes((0, 1)).rand(tick, 50, 2))[1] for tick in (2, 3)]
    assert torch.equal(*paid) and torch.equal(paid[0], table.expected(state).gather(-1, action[..., None])[..., 0].float())


def test_scores_lie_between_0_and_1_and_no_rewrite_suits_all():
    table = rewriting(seed=range(10))
    assert bool((table.mean >= 0).all()) and bool((table.mean <= 1).all())
    fixed = (table.chance[..., None] * table.mean).sum(1)
    assert bool((table.best_value() > fixed.amax(-1) + 0.02).all())


def test_diversity_is_the_share_of_hard_questions():
    table = rewriting(diversity=(0.0, 0.4, 1.0), seed=3)
    shares = table.chance.view(3, len(STYLES), PER_STYLE).sum(-1)
    by_hand = [[1, 0, 0, 0, 0], [0.6, 0.1, 0.1, 0.1, 0.1], [0, 0.25, 0.25, 0.25, 0.25]]
    torch.testing.assert_close(shares, torch.tensor(by_hand, dtype=torch.float64))
    assert torch.equal(table.mean[0], table.mean[2]) and len(table.mean) == 3


def test_the_pool_is_read_once_per_process(monkeypatch):
    rewriting(seed=123)
    monkeypatch.setattr(world, "ask", None)
    rewriting(diversity=0.5, seed=123)


@pytest.mark.parametrize("options,part", [({"diversity": 1.2}, "diversity is 1.2"), ({"diversity": float("nan")}, "diversity is nan"),
                                          ({"diversity": (0.1, 0.2), "seed": (1, 2, 3)}, "3 seeds and 2 diversities")])  # fmt: skip
def test_what_cannot_be_mixed_gets_one_sentence(options, part):
    with pytest.raises(LabError, match=part) as error:
        worlds.make("bandit.rewriting", **options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
