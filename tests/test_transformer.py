"""The transformer against PyTorch's own, lane by lane; its cache, its masks and its gradient."""
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.meter import DriftMeter, States
from labkit.nn import clip_norm
from labkit.snapshot import Snapshot
from labkit.transformer import Transformer, attend, mask

LANES = Lanes((0, 1, 2))
SIZES = (12, 11, 32, 4, 2, 9)


def model(lanes=LANES, sizes=SIZES):
    tick = iter(range(1, 99))
    return Transformer(lambda n: lanes.rand(next(tick), n), sizes)


def text(lanes=LANES, n=5, t=10, symbols=11, holes=0.3):
    """Tokens (L, n, t), some missing, but the first."""
    tokens = (lanes.rand(200, n, t) * symbols).long()
    tokens[..., 1:] = torch.where(lanes.rand(201, n, t - 1) < holes, -1, tokens[..., 1:])
    return tokens


def torch_twin(ours, lane):
    """PyTorch's layers with the weights of one lane, as a function from tokens (N, T)."""
    _, symbols, width, heads, layers, _ = ours.sizes
    table, *blocks, head = (w[lane] for w in ours.layers(ours.theta.detach()))
    options = {"dropout": 0.0, "norm_first": True, "batch_first": True, "bias": False}
    stack = [torch.nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(layers)]
    for i, layer in enumerate(stack):
        places = (layer.self_attn.in_proj_weight, layer.self_attn.out_proj.weight, layer.linear1.weight, layer.linear2.weight)
        for place, w in zip(places, blocks[4 * i : 4 * i + 4], strict=True):
            place.data = w.T.clone()

    def forward(tokens):
        absent = tokens < 0
        x = table[tokens] + table[symbols:][(~absent).cumsum(-1) - 1]
        future = torch.ones(2 * tokens.shape[-1:], dtype=torch.bool).triu(1)
        for layer in stack:
            x = layer(x, src_mask=future, src_key_padding_mask=absent)
        return torch.nn.functional.layer_norm(x, (width,)) @ head

    return forward


def test_forward_is_torchs():
    ours, tokens = model(), text()
    assert bool((tokens < 0).any())
    for lane in range(3):
        there = tokens[lane] >= 0
        torch.testing.assert_close(ours.logits(tokens)[lane][there], torch_twin(ours, lane)(tokens[lane])[there], atol=2e-5, rtol=1e-4)


def test_attention_is_torchs():
    q, k, v = LANES.rand(1, 3, 5 * 4, 7, 8).transpose(0, 1).flatten(1, 2)
    shut = mask(text(t=7) >= 0, 7)
    theirs = scaled_dot_product_attention(*(x.view(3, 5, 4, 7, 8) for x in (q, k, v)), attn_mask=shut)
    torch.testing.assert_close(attend(*(x.view(3, 5, 4, 7, 8) for x in (q, k, v)), shut), theirs.transpose(2, 3).reshape(3, 5 * 7, 32))


def test_the_gradient_is_that_of_finite_differences():
    lanes, tick = Lanes((0, 1)), iter(range(1, 99))
    ours, tokens = Transformer(lambda n: lanes.rand(next(tick), n).double(), (6, 5, 4, 2, 2, 3)), text(lanes, 2, 5, 5)
    theta = ours.theta.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda theta: ours.logits(tokens, theta), theta, fast_mode=True)


@pytest.mark.parametrize("sizes", [SIZES, (12, 11, 16, 1, 1, 1), (12, 11, 24, 3, 2, 11), (12, 11, 64, 4, 1, 2)])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_a_lane_alone_equals_a_lane_beside_others(sizes, n):
    def outcome(lanes):
        ours, tokens = model(lanes, sizes), text(lanes, n, t=11)
        for _ in range(2):
            loss = ours.logits(tokens).log_softmax(-1)[..., 0].sum() + ours(tokens.float()[..., [*range(11), 0]])[0].square().sum()
            grad = clip_norm(torch.autograd.grad(loss, ours.theta)[0], 0.5)
            ours.adam(grad, torch.full((len(lanes), 1), 0.01), torch.ones(len(lanes), 1, dtype=torch.bool))
        cache, first = ours.begin(tokens[..., :7], responses=2)
        steps = [ours.advance(cache, tokens[..., t : t + 1].repeat_interleave(2, 1)) for t in range(7, 11)]
        return torch.cat([x.flatten(1) for x in (ours.theta.detach(), ours.logits(tokens).detach(), first, *steps)], 1)

    together = outcome(Lanes(tuple(range(8))))
    for k in (0, 3, 7):
        assert torch.equal(outcome(Lanes((k,)))[0], together[k])
        assert torch.equal(outcome(Lanes((77, k, 78)))[1], together[k])


def test_nothing_is_read_before_its_time():
    ours, tokens = model(), text()
    other = tokens.clone()
    other[..., 6:] = (tokens[..., 6:] + 3) % 11
    one, two = ours.logits(tokens), ours.logits(other)
    assert torch.equal(one[:, :, :6], two[:, :, :6]) and not torch.isclose(one[:, :, 6:], two[:, :, 6:]).all(-1).any()


def test_it_does_not_matter_where_padding_stands():
    ours, tokens = model(), text(holes=0)
    there = torch.tensor([1, 2, 4, 5, 6, 9])
    gaps = torch.full_like(tokens, -1)
    gaps[..., there] = tokens[..., :6]
    torch.testing.assert_close(ours.logits(gaps)[:, :, there], ours.logits(tokens[..., :6]))
    dense, apart = (torch.nn.functional.pad(x, (0, 12 - x.shape[-1]), value=-1).float() for x in (tokens[..., :6], gaps))
    torch.testing.assert_close(ours(apart)[0], ours(dense)[0])
    assert ours(dense)[1].shape == (3, 1, 0)


def test_the_model_sees_order_and_place():
    ours = model()
    tokens = torch.tensor([[[1, 2, 3], [2, 1, 3], [3, 3, 3]]]).expand(3, -1, -1)
    after = ours.logits(tokens)[:, :, -1]
    assert not torch.isclose(after[:, 0], after[:, 1]).all(-1).any()
    assert not torch.isclose(*ours.logits(tokens)[:, 2, [1, 2]].unbind(1)).all(-1).any()


def test_the_gradient_of_answers_is_the_same_where_their_prompt_is_read_once():
    ours, prompt, answers = model(), text(t=6), text(n=15, t=4, holes=0)
    cache, first = ours.begin(prompt, responses=3)
    once = torch.cat([first[:, :, None], ours.advance(cache, answers)], 2)
    whole = ours.logits(torch.cat([prompt.repeat_interleave(3, 1), answers], 2))[:, :, 6:]
    one, two = (torch.autograd.grad(out.log_softmax(-1)[..., 0].sum(), ours.theta)[0] for out in (once[:, :, 1:], whole))
    torch.testing.assert_close(once[:, :, 1:], whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one, two, atol=1e-5 * float(two.abs().max()), rtol=1e-4)
    assert ours.advance(cache, answers[..., :0]).shape == (3, 15, 0, 9)


@pytest.mark.parametrize("responses", [1, 3])
def test_sampling_with_the_cache_reads_as_the_whole_does(responses):
    """Prompts with holes, and answers that end: the same logits, also of an older theta."""
    ours, other = model(), model(Lanes((5, 6, 7)))
    whole = text(t=12).repeat_interleave(responses, 1)
    whole[..., 8:] = (LANES.rand(300, 5 * responses, 4) * 11).long()
    whole[:, ::2, 10:] = -1
    for theta, full in ((None, ours.logits(whole)), (other.theta, other.logits(whole))):
        assert torch.equal(ours.logits(whole, theta), full)
        cache, first = ours.begin(whole[:, ::responses, :8], theta, responses)
        at = torch.arange(8).expand(3, 5 * responses, 8).masked_fill(whole[..., :8] < 0, -1).amax(-1)
        torch.testing.assert_close(first, full.take_along_dim(at[..., None, None], 2)[:, :, 0], atol=1e-5, rtol=1e-5)
        for t in range(8, 12):
            next_token = ours.advance(cache, whole[..., t : t + 1])[:, :, 0]
            there = whole[..., t] >= 0
            torch.testing.assert_close(next_token[there], full[:, :, t][there], atol=1e-5, rtol=1e-5)


def learner():
    made = Learner(LANES)
    made.nets["pi"] = Transformer(made.rand, SIZES)
    return made


def test_a_learner_holds_packs_and_reads_it():
    made, obs = learner(), torch.nn.functional.pad(text(), (0, 2), value=-1).float()
    back = Learner.unpack(*made.pack())
    for some in (made, back):
        some.descend("pi", some.policy(obs).entropy().mean(1), torch.full((3, 1), 0.1), clip=0.5)
    assert isinstance(back.nets["pi"], Transformer) and torch.equal(back.policy(obs).logits, made.policy(obs).logits)
    meter = DriftMeter(States(obs), "kl")
    at_start, later = (meter(Snapshot(0, some, {})) for some in (learner(), made))
    assert not at_start.value.any() and bool((later.value > 0.01).all())


def test_supervised_training_learns_to_copy():
    """Say the prompt's one token again and again: nothing but attention to it can know it."""
    made = learner()
    for step in range(60):
        tokens = (LANES.rand(500 + step, 16, 1) * 9).long().expand(-1, -1, 4)
        loss = -made.nets["pi"].logits(tokens)[:, :, :3].log_softmax(-1).gather(-1, tokens[:, :, 1:, None])[..., 0].mean((1, 2))
        made.descend("pi", loss, torch.full((3, 1), 3e-3), clip=1.0)
    assert bool((loss < 0.2).all())


def test_errors():
    ours = model()
    with pytest.raises(LabError, match="reads 12 tokens at most, and is given 13"):
        ours.logits(torch.zeros(3, 1, 13, dtype=torch.int64))
    cache, _ = ours.begin(torch.zeros(3, 1, 12, dtype=torch.int64))
    with pytest.raises(LabError, match="reads 12 tokens at most, and is given 13"):
        ours.advance(cache, torch.zeros(3, 1, 1, dtype=torch.int64))
    for wrong in (-2, 11):
        with pytest.raises(LabError, match="Tokens go from 0 to 10, or are -1 where there is none"):
            ours.logits(torch.full((3, 1, 2), wrong))
    with pytest.raises(LabError, match="some of these contexts hold none"):
        ours(torch.full((3, 1, 12), -1.0))
    for sizes in ((12, 11, 30, 4, 2, 9), (12, 11, 32, 4, 2, 12), (12, 11, 32, 4, 2), (12, 11, 32, 0, 2, 9)):
        with pytest.raises(LabError, match=r"sizes are .*got"):
            model(sizes=sizes)
