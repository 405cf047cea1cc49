"""One update of GRPO on a small transformer, from prompts to parameters, beside TRL's GRPOTrainer on the same task and sizes."""
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness import Row, against, cpu, missing

from labkit import worlds
from labkit.grpo.family import Shape, grpo
from labkit.lanes import Lanes
from labkit.worlds.tokens.world import TokenWorld

UPDATES = 5  # in each repeat
WHAT, UNIT = "GRPO, 16 prompts x 8 responses of up to 12 tokens", "CPU-s per update"
SHAPE = Shape(warm=0.0)  # the cost does not depend on what a policy knows
AT_ONCE: dict[str, Any] = {"per_device_train_batch_size": 128, "bf16": False, "gradient_checkpointing": False}


def task() -> TokenWorld:
    """Chains of six operations: prompts of 8 signs."""
    return worlds.make("tokens.chain", levels=(6,), stop=True, room=12, text=True)  # type: ignore[return-value]


def ours(lanes: int, repeats: int) -> Row:
    """Every update ends with a copy of the learner."""
    run = replace(grpo, shape=SHAPE).run(task(), Lanes(tuple(range(lanes))))
    next(run)
    times = cpu(lambda: [next(run) for _ in range(UPDATES)], repeats, 1 / UPDATES / lanes)
    return Row(WHAT, UNIT + " of a lane", f"labkit, lanes: {lanes}", times)


def verifier(world: TokenWorld) -> Callable[..., list[float]]:
    """The world's mark as a reward function of TRL; signs that only prompts hold are wrong."""

    def mark(problem: list[int], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [_mark(world, p, written) for p, written in zip(problem, completion_ids, strict=True)]

    return mark


def _mark(world: TokenWorld, problem: int, written: list[int]) -> float:
    node = int(world.start[problem])
    for token in written:
        if token >= len(world.tokens):
            return 0.0
        node = int(world.graph.next[node, token])
    return float(world.graph.reward[node])


def trainer(world: TokenWorld, folder: str, updates: int, clock: Any, settings: dict[str, Any]) -> Any:
    """TRL's own, of a GPT-2 with our context, width, heads and layers; `folder` keeps its start, from which it loads the reference."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, PrinterCallback
    from transformers.utils import logging
    from trl import GRPOConfig, GRPOTrainer

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    signs = [*world.signs, "pad"]
    words = Tokenizer(models.WordLevel({sign: i for i, sign in enumerate(signs)}, unk_token="pad"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    sizes = {"n_positions": world.obs_size, "n_embd": SHAPE.width, "n_layer": SHAPE.layers, "n_head": SHAPE.heads}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    prompts = [" ".join(world.words(world.prompt[i])) for i in world.pool.tolist()]
    config = GRPOConfig(output_dir=folder, max_steps=updates, num_generations=SHAPE.group, max_completion_length=world.horizon,
                        beta=grpo.knobs["beta"].default, use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no",
                        disable_tqdm=True, **settings)  # fmt: skip
    start = GPT2LMHeadModel(GPT2Config(vocab_size=len(signs), bos_token_id=None, eos_token_id=signs.index("."), **sizes, **still))
    start.save_pretrained(folder)
    made = GRPOTrainer(
        model=GPT2LMHeadModel.from_pretrained(folder),
        reward_funcs=verifier(world),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts, "problem": world.pool.tolist()}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="."),
        callbacks=[clock],
    )
    made.remove_callback(PrinterCallback)
    return made


def trl(who: str, repeats: int, least: float | None = None, **settings: Any) -> Row:
    if gap := missing(WHAT, UNIT, who, "trl"):
        return gap
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(task(), folder, 1 + repeats * UPDATES, Clock(), settings).train()
    marks = ends[::UPDATES]  # the first update is spent on starting
    return Row(WHAT, UNIT, who, tuple((b - a) / UPDATES for a, b in pairwise(marks)), least=least)


def rows(repeats: int, share: float) -> list[Row]:
    return against(
        ours(8, repeats),
        ours(1, repeats),
        trl("TRL, its defaults", repeats, 20, gradient_accumulation_steps=16),
        trl("TRL, the batch at once in float32", repeats, **AT_ONCE),
    )
