"""Questions to a frozen answerer, which may be reworded before it reads them."""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.contextual import Contextual, stacked
from labkit.worlds.registry import register

NAMES, ATTRIBUTES, LETTERS, SLOTS = 12, 4, 10, 3  # words of the language; an answer is SLOTS letters
FACTS, PER_STYLE, WIDTH = 10, 60, 16  # of a document, of the pool, of an embedding
SHARP, CLOSE = 12.0, 10.0  # how strictly the second and the first layer attend
COMMON = 9  # names that are in the dictionary; the others are rare
SYNONYM, SPELT, VAGUE = NAMES + ATTRIBUTES, 2 * (NAMES + ATTRIBUTES), 3 * NAMES + 2 * ATTRIBUTES  # where these words begin
OBVIOUS = 0.8  # chance that what a question leaves out is what the document says first
STYLES = ("plain", "typo", "ellipsis", "distractor", "ambiguity")
REWRITES = ("keep", "paraphrase", "simplify", "disambiguate", "expand", "clarify terms")
FEATURES = ("misspelt", "no attribute", "vague", "two names", "names last", "rare name", "attribute first", "one fact")

Words = list[int]


class Rewriting(Contextual):
    """A question comes in one of five styles, an arm is a rewrite, it pays the score of the answer. The key is bandit.rewriting.

    Nothing in a score is random: the pool's questions times the rewrites are a table, made once.
    """

    def pay(self, mean: Tensor, u: Tensor) -> Tensor:
        return mean


@register("bandit.rewriting")
def rewriting(diversity: float | Sequence[float] = 1.0, seed: int | Sequence[int] = 0) -> Rewriting:
    """A language, a document and 60 questions of each style from the seed; the answerer reads every rewrite of each.

    diversity: share of questions in a hard style. A sequence of seeds gives each lane its own world, one of diversities its own
    mixture. LabError for a diversity outside [0, 1], or for sequences of different lengths.
    """
    seen, score = stacked(_pool, seed)
    hard, lanes = np.asarray(diversity, float).reshape(-1, 1), max(np.size(diversity), len(score))
    if not ((hard >= 0) & (hard <= 1)).all():
        raise LabError(f"diversity is {diversity}; it is a share, from 0 to 1, or one for each lane.")
    if not {len(hard), len(score)} <= {1, lanes}:
        raise LabError(f"There are {len(score)} seeds and {len(hard)} diversities; give as many of both, or one of either.")
    chance = np.repeat(np.concatenate([1 - hard, *[hard / 4] * 4], 1), PER_STYLE, 1) / PER_STYLE
    chance, seen, score = (np.repeat(x, lanes // len(x), 0) for x in (chance, seen, score))
    return Rewriting("bandit.rewriting", seen, chance, score, np.zeros(score.shape, bool))


@lru_cache(maxsize=256)  # the answerer reads a pool once per process
def _pool(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (C, 8) and scores (C, 6) of the questions of all styles."""
    rng = np.random.Generator(np.random.Philox(seed))
    answerer = Answerer.drawn(rng)
    asked = [ask(answerer, style, rng) for style in STYLES for _ in range(PER_STYLE)]
    fact = np.array([fact for _, fact in asked])
    seen = np.array([features(answerer, words) for words, _ in asked])
    answers = [answerer.answer([rewrite(answerer, name, words) for words, _ in asked]) for name in REWRITES]
    return seen, np.stack([score(answer, answerer.letters[fact]) for answer in answers], -1)


# ---- the answerer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answerer:
    """Two layers of attention that look a question up in a document of facts (name, attribute, answer). Its weights never move.

    embed (M, d): every word. names, attributes (F,): what each fact is about. letters (F, 3): what it says.
    The weights are written down, not trained: the circuit is that of Elhage et al. (2021), a layer that fetches what stands
    before, and one that looks for it.
    """

    embed: np.ndarray
    names: np.ndarray
    attributes: np.ndarray
    letters: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Answerer":
        """A language and a document: synonyms lie near their words, misspellings between two names, the vague word amid all attributes."""
        plain = _unit(rng.standard_normal((NAMES + ATTRIBUTES, WIDTH)))
        synonyms = _unit(plain + 0.15 * rng.standard_normal(plain.shape))
        other = plain[(np.arange(NAMES) + rng.integers(1, NAMES, NAMES)) % NAMES]
        spelt = _unit(plain[:NAMES] + rng.uniform(0.5, 1.5, (NAMES, 1)) * other)
        embed = np.concatenate([plain, synonyms, spelt, _unit(plain[NAMES:].mean(0, keepdims=True))])
        told = rng.permutation(NAMES)[: NAMES // 2]
        fact = rng.permutation(len(told) * ATTRIBUTES)[:FACTS]
        return cls(embed, told[fact // ATTRIBUTES], fact % ATTRIBUTES, rng.integers(LETTERS, size=(FACTS, SLOTS)))

    def answer(self, questions: Sequence[Words]) -> np.ndarray:
        """The answers, (B, 3) letters. Layer 1: an answer's place fetches the two words before it, the question mark the
        mean of the question. Layer 2: the question mark looks for the places that fetched what it wants, and says what is there.
        """
        spoken = self.embed[np.stack([self.names, NAMES + self.attributes], 1)]  # (F, 2, d): the words of the facts in their order
        stream = np.concatenate([spoken, np.zeros((FACTS, 1, WIDTH))], 1).reshape(-1, WIDTH)
        place = np.arange(len(stream))
        back = place[2::3, None] - place
        fetched = _attend(CLOSE * (back == 1), stream) + _attend(CLOSE * (back == 2), stream)
        wanted = np.stack([self.embed[words].mean(0) for words in questions])
        said = np.eye(LETTERS)[self.letters].reshape(FACTS, -1)
        return _attend(SHARP * wanted @ fetched.T, said).reshape(-1, SLOTS, LETTERS).argmax(-1)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _attend(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Softmax attention: scores (B, T), values (T, d) -> (B, d)."""
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True) @ values


def score(answer: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """0.6 if all letters are right + 0.3 share of letters in place + 0.1 unigram precision, (B,), of answers (B, 3).

    The weights are those of judge, fuzzy match and BLEU-1 in QueryBandits (Cho et al. 2026).
    """
    same = answer == truth
    count = (np.stack([(x[..., None] == np.arange(LETTERS)).sum(-2) for x in (answer, truth)])).min(0).sum(-1)
    return 0.6 * same.all(-1) + 0.3 * same.mean(-1) + 0.1 * count / SLOTS


# ---- questions and their rewrites -------------------------------------------------------------------------------


def ask(answerer: Answerer, style: str, rng: np.random.Generator) -> tuple[Words, int]:
    """A question in a style, and the number of the fact that answers it."""
    fact = int(rng.integers(FACTS))
    if style in ("ellipsis", "ambiguity") and rng.random() < OBVIOUS:
        fact = int((answerer.names == answerer.names[fact]).argmax())
    name, attribute = int(answerer.names[fact]), NAMES + int(answerer.attributes[fact])
    others = np.unique(answerer.names[answerer.names != name])
    words = {
        "plain": [name, attribute],
        "typo": [SPELT + name, attribute],
        "ellipsis": [name],
        "distractor": [name, attribute],
        "ambiguity": [name, VAGUE],
    }[style]
    if len(words) == 2 and rng.random() < 0.3:
        words = words[::-1]
    if style == "distractor":
        words.insert(int(rng.choice([0, 2])), int(rng.choice(others)))
    return words, fact


def features(answerer: Answerer, words: Words) -> list[bool]:
    """What can be seen of a question, in the order of FEATURES."""
    named = [w for w in words if w < NAMES or SPELT <= w < VAGUE]
    attributes = [w for w in words if NAMES <= w < SYNONYM]
    first = _root(named[0])
    return [
        named[0] >= SPELT, not attributes and VAGUE not in words, VAGUE in words, len(named) > 1, words[-1] in named and len(words) > 1,
        COMMON <= first < NAMES, words[0] in attributes, int((answerer.names == first).sum()) == 1,
    ]  # fmt: skip


def _root(word: int) -> int:
    """The word that another is a synonym or a misspelling of."""
    return word - SPELT if SPELT <= word < VAGUE else word - SYNONYM if SYNONYM <= word < SPELT else word


def rewrite(answerer: Answerer, name: str, words: Words) -> Words:
    """The question as an action puts it, without knowing what is meant.

    paraphrase: synonyms for all words but rare names and the vague one. simplify: the first two words. disambiguate: the last name,
    and, if no attribute was named, the one that the document states first of that name. expand: each word with its synonym, and
    the next name of the dictionary. clarify terms: names from the dictionary for those that are not in it, rare ones, too.
    """
    roots = [_root(w) for w in words]
    other = [SYNONYM + w if w < COMMON or NAMES <= w < SYNONYM else w for w in roots]
    if name == "paraphrase":
        return other
    if name == "simplify":
        return words[:2]
    if name == "disambiguate":
        last = [w for w in words if w < NAMES or SPELT <= w < VAGUE][-1]
        stated = answerer.names == _root(last)
        first = int(answerer.attributes[stated.argmax()]) if stated.any() else 0
        return [last, *([w for w in words if NAMES <= w < SYNONYM] or [NAMES + first])]
    if name == "expand":
        subject = next(w for w in roots if w < NAMES)
        return [*words, *other, (subject + 1) % NAMES]
    if name == "clarify terms":
        return [w % COMMON if w < NAMES else w for w in roots]
    return words
