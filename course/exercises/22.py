"""Exercises of chapter 22: the ratio, the clip, and old log-probabilities that are wrong; then those of its papers."""
from labkit.course.progress import Exercise

EXERCISES: list[Exercise] = [
    # ratio, clip, wrong old log-probabilities
    # bapo, missing_old_logits
    # arpo
    # avatar, erpd
]
