"""Batches written by hand, for tests of what is computed from them."""
import torch

from labkit.grpo.family import Batch
from labkit.worlds.tokens.world import EMPTY


def batch_of(token, reward=0.0):
    """Responses token (L, P, G, T), EMPTY where nothing was written, each token at its own place; log-probabilities 0, all real."""
    row = torch.arange(token[0].numel()).view(token[0].shape).expand_as(token)
    flat, none = torch.zeros(token.shape[:3], dtype=torch.int64), torch.zeros(token.shape, dtype=torch.float64)
    batch = Batch(problem=flat[..., 0], token=token, passed=torch.zeros_like(token), row=row, node=flat, old=none, real=flat == 0)
    batch.reward = torch.as_tensor(reward, dtype=torch.float64).expand(token.shape[:3])
    batch.ref = none
    return batch


def of_lengths(length, reward=0.0):
    """The same with the sign 0 written `length` (P, G) times, in one lane."""
    length = torch.tensor([length])
    return batch_of(torch.where(torch.arange(int(length.max())) < length[..., None], 0, EMPTY), reward)
