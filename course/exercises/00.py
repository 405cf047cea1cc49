"""Exercises of chapter 00: lanes, and reading a record."""
import torch

from labkit.course.progress import Exercise
from labkit.lanes import Lanes
from labkit.record import Record


def how_many(seeds, values_of_eps, values_of_lr):
    ...  # how many lanes does this run have?


def how_many_solution(seeds, values_of_eps, values_of_lr):
    return len(seeds) * len(values_of_eps) * len(values_of_lr)


def check_how_many(answer):
    lanes = Lanes(range(10), {"eps": (0.1, 0.2, 0.4), "lr": (1e-3, 3e-3)})
    said = answer(range(10), (0.1, 0.2, 0.4), (1e-3, 3e-3))
    assert said is not None, "how_many returns nothing yet."
    assert said == len(lanes), f"Ten seeds, three values of eps and two of lr: every setting is run with every seed. You said {said}."
    assert answer(range(4), (0.2,), (1e-3,)) == 4, "With one setting there are as many lanes as seeds."


def which_lane(setting, seed, seeds):
    ...  # the number of the lane that runs setting number `setting` with seed number `seed`


def which_lane_solution(setting, seed, seeds):
    return setting * seeds + seed


def check_which_lane(answer):
    lanes = Lanes((5, 6, 7), {"eps": (0.1, 0.2)})
    said = answer(1, 2, 3)
    assert said is not None, "which_lane returns nothing yet."
    assert lanes.name(5) == "lane 5 (eps=0.2, seed 7)"
    assert said == 5, f"Setting 1 with the last of 3 seeds is the last of 6 lanes, number 5; you said {said}."
    assert answer(1, 0, 3) == 3, "The seeds of one setting stand side by side: setting 1 begins after the 3 lanes of setting 0."


def furthest(record):
    ...  # the value of eps whose policies ended furthest from where they began, on average over seeds


def furthest_solution(record):
    seeds = len(record.lanes.seeds)
    final = record.curves["kl from start"][-1].view(-1, seeds).mean(1)
    return record.lanes.points[int(final.argmax())]["eps"]


def furthest_by_one_lane(record):
    return record.lanes.points[int(record.curves["kl from start"][-1].argmax()) // len(record.lanes.seeds)]["eps"]


def furthest_by_first_row(record):
    return record.lanes.points[int(record.curves["kl from start"][0].view(-1, len(record.lanes.seeds)).mean(1).argmax())]["eps"]


def furthest_by_return(record):
    return record.lanes.points[int(record.curves["return"][-1].view(-1, len(record.lanes.seeds)).mean(1).argmax())]["eps"]


def check_furthest(answer):
    kl = torch.tensor([[9.0, 9.0, 0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 3.0, 4.0, 1.0, 1.0]])
    gained = torch.tensor([[0.0] * 6, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]])
    lanes = Lanes((0, 1), {"eps": (0.1, 0.2, 0.4)})
    made = Record("ppo", "grid.fourrooms", lanes, torch.tensor([0, 9]), {"kl from start": kl, "return": gained})
    said = answer(made)
    assert said is not None, "furthest returns nothing yet."
    assert said != 0.4, "0.4 has the best return in this record; the question is about the drift."
    assert said == 0.2, "Take the last row of the drift, average it over the seeds of each setting, and name the setting with the largest."


EXERCISES = [
    Exercise(
        key="00.1",
        prompt="How many lanes does a run have?",
        check=check_how_many,
        stub=how_many,
        solution=how_many_solution,
        wrong={"adds": lambda s, e, r: len(s) + len(e) + len(r), "forgets the second knob": lambda s, e, r: len(s) * len(e)},
        hints=("A setting is one value of each knob.", "Every setting runs once with every seed, so the numbers multiply."),
    ),
    Exercise(
        key="00.2",
        prompt="Which lane is it?",
        check=check_which_lane,
        stub=which_lane,
        solution=which_lane_solution,
        wrong={"seeds outermost": lambda setting, seed, seeds: seed * 2 + setting, "counts from one": lambda p, s, n: p * n + s + 1},
        hints=(
            "Write the six lanes of two settings and three seeds down in a row.",
            "Each setting before yours takes as many lanes as there are seeds.",
        ),
    ),
    Exercise(
        key="00.3",
        prompt="Which setting drifted furthest?",
        check=check_furthest,
        stub=furthest,
        solution=furthest_solution,
        wrong={
            "the single furthest lane": furthest_by_one_lane,
            "the first moment": furthest_by_first_row,
            "the best return": furthest_by_return,
        },
        hints=('record.curves["kl from start"][-1] has one number per lane.', "Reshape it to (settings, seeds) and average over axis 1."),
    ),
]
