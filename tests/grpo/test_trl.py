"""Held against TRL's GRPOTrainer: the same advantages, and the same loss and gradients on the same responses."""
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from labkit.grpo.family import TINY, centred, dapo, grpo, not_too_long, standardised
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds.tokens.world import EMPTY
from tests.grpo.by_hand import batch_of, of_lengths

P, G, T, V = 3, 4, 5, 7  # prompts, responses to each, tokens at most, of a vocabulary
PROMPT = [2, 3]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*rollout_func:UserWarning")  # of its libraries about each other


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """TRL's own, around a small Llama. Responses and rewards are those of `made.given`: it samples and marks none itself."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = Tokenizer(models.WordLevel({str(i): i for i in range(V)}, unk_token="0"))
    sizes = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = GRPOTrainer(
        model=LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=1.0, bos_token_id=None, eos_token_id=1, pad_token_id=0)),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1"),
        train_dataset=Dataset.from_dict({"prompt": ["2 3"] * P}),
        args=GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=P * G, num_generations=G, max_completion_length=T,
            use_bias_correction_kl=False,  # its default multiplies the penalty by the ratio, as DeepSeek-V3.2 does and GRPO does not
        ),
        reward_funcs=lambda **_: made.given["reward"],
        rollout_func=lambda *_: {"prompt_ids": [PROMPT] * P * G, "completion_ids": made.given["tokens"], "logprobs": None},
    )  # fmt: skip
    made.ref_model = made.model  # asked where beta is not 0, though the batch has its own
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def near(logits, generator):
    return logits + 0.6 * torch.randn(logits.shape, generator=generator, dtype=torch.float64)


def responses(logits, generator):
    """Responses of every length up to T to P prompts; the policy that wrote them and the reference are near `logits` (1, R, V)."""
    written = torch.arange(T) < torch.randint(1, T + 1, (1, P, G, 1), generator=generator)
    token = torch.where(written, torch.randint(2, V, written.shape, generator=generator), EMPTY)
    reward = torch.randint(0, 2, (1, P, G), generator=generator)
    reward[0, 0] = 1  # one group agrees
    batch = batch_of(token, reward)
    batch.old, batch.ref = (batch.pick(Categorical(near(logits, generator))) for _ in range(2))
    batch.adv = standardised(batch, SimpleNamespace())
    return batch


@pytest.fixture
def case():
    """A policy as logits (1, R, V), and responses to learn it from, in float64."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, P * G * T, V, generator=generator, dtype=torch.float64)
    return logits, responses(logits, generator)


def prepared(trainer, batch):
    """What TRL makes of these responses: padded tokens, their mask and number, and its own advantages."""
    rows = [[t for t in row if t != EMPTY] for row in batch.token.flatten(0, 2).tolist()]
    trainer.given = {"tokens": rows, "reward": batch.reward.flatten().tolist()}
    return trainer._generate_and_score_completions([{"prompt": "2 3"}] * P * G)


def test_advantages(trainer, case):
    """TRL adds 1e-4 to the deviation where we add 1e-6; where a group agrees, so do the advantages."""
    _, batch = case
    trainer.scale_rewards = "none"
    assert_close(centred(batch, None).flatten().float(), prepared(trainer, batch)["advantages"])
    trainer.scale_rewards = "group"
    spread = batch.reward.std(-1, keepdim=True)
    assert_close((batch.adv[..., 0] * (spread + TINY) / (spread + 1e-4)).flatten().float(), prepared(trainer, batch)["advantages"])


def settings(trainer, algo, **grid):
    """Our knobs (1, 1) at one setting, in float64, and TRL set to the same."""
    k = vars(Lanes((0,), {name: (value,) for name, value in grid.items()}).knobs(algo.knobs))
    k = SimpleNamespace(**{name: value.double() for name, value in k.items()})
    trainer.loss_type = algo.paper.key
    trainer.beta = float(k.beta) if "beta" in algo.knobs else 0.0
    trainer.epsilon_low, trainer.epsilon_high = float(k.eps), float(k.eps_high if "eps_high" in algo.knobs else k.eps)
    return k


def loss_of(trainer, model, batch):
    """TRL's, of the same responses, with our advantages."""
    inputs = prepared(trainer, batch) | {"advantages": batch.adv.flatten()}
    inputs |= {"old_per_token_logps": batch.old.view(P * G, T), "ref_per_token_logps": batch.ref.view(P * G, T)}
    return trainer.compute_loss(model, inputs)


class Head(torch.nn.Module):
    """Logits (P G, T, V) in place of a model's, so that the gradient can be read there."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, input_ids, **_):
        law = torch.distributions.Categorical(logits=self.logits)
        return SimpleNamespace(log_probs=law.log_prob(input_ids[:, -T:]), entropy=law.entropy())


CASES = [
    (grpo, {"beta": 0.0}),
    (grpo, {"beta": 0.3, "eps": 0.1}),
    (grpo, {"beta": 0.02, "eps": 0.5}),
    (dapo, {}),
    (dapo, {"eps": 0.1, "eps_high": 0.5}),
]


@pytest.mark.parametrize(("algo", "grid"), CASES)
def test_loss_and_its_gradient_at_the_logits(trainer, case, algo, grid):
    logits, batch = case
    k, head = settings(trainer, algo, **grid), Head(logits.view(P * G, T, V).clone())
    loss = loss_of(trainer, head, batch)
    loss.backward()

    ours = logits.clone().requires_grad_()
    value = algo.loss(Categorical(ours), batch, k)
    value.sum().backward()
    rise = (batch.pick(Categorical(logits)) - batch.old).exp()[batch.mask] - 1
    assert (rise < -k.eps).any() and (rise > trainer.epsilon_high).any()  # both sides of the clip are at work
    assert_close(value[0], loss)
    assert_close(ours.grad.view(P * G, T, V), head.logits.grad)


@pytest.mark.parametrize("algo", [grpo, dapo], ids=["grpo", "dapo"])
def test_gradient_in_the_parameters_of_its_own_model(trainer, algo):
    """Our loss on the logits of its Llama, in float32, against its own way from tokens to loss."""
    model, generator = trainer.model, torch.Generator().manual_seed(2)
    k = settings(trainer, algo)
    batch = responses(torch.zeros(1, P * G * T, V, dtype=torch.float64), generator)
    text = torch.cat([torch.tensor(PROMPT).expand(P * G, -1), batch.token.clamp_min(0).view(P * G, T)], 1)

    def policy():
        return Categorical(model(text).logits[:, len(PROMPT) - 1 : -1].reshape(1, -1, V))

    with torch.no_grad():
        batch.old, batch.ref = (batch.pick(policy()) + 0.3 * (x - x.mean()).float() * batch.mask for x in (batch.old, batch.ref))
    ours = torch.autograd.grad(algo.loss(policy(), batch, k).sum(), list(model.parameters()))
    theirs = torch.autograd.grad(loss_of(trainer, model, batch), list(model.parameters()))
    for mine, its in zip(ours, theirs, strict=True):
        assert_close(mine.float(), its, rtol=1e-3, atol=1e-5)


def test_price_of_length(trainer):
    """DAPO's is TRL's, which counts the tokens of a response likewise."""
    from trl.rewards import get_soft_overlong_punishment

    longest, band = 9, 4
    lengths = list(range(1, longest + 1))
    world = SimpleNamespace(horizon=longest, graph=SimpleNamespace(reward=torch.ones(1)))
    paid = not_too_long(world, of_lengths([lengths]), SimpleNamespace(band=torch.tensor([[float(band)]])))
    theirs = get_soft_overlong_punishment(longest, band)([[2] * n for n in lengths])
    assert (paid.flatten() - 1).tolist() == pytest.approx(theirs)
