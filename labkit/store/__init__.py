"""Runs on disk.

A run is a folder of plain files, which any tool can read:

    meta.json                      what decides the run, for people and programs; written once, last, and never changed
    journal.jsonl                  one line per stored snapshot, oldest first; lines are added, never changed
    learner-00000008.safetensors   all state after update 8: go on from it, or fork it
    metrics-00000008.parquet       the metrics of the updates up to the 8th, since the line before: step, lane, a column each
    fields-00000008.safetensors    of saved records only: pictures' data (T, L, ...)

meta.json holds `format` and `version`, the method's key, the world's, seeds and grid (so the lanes), when and by which
versions it was begun, its `parent` where it is a fork, and in `training` the rest that the folder needs to go on without
anything else: the world's options, the shape, the defaults of all knobs, the goal in steps, and `every` how many updates a
learner is stored. A saved record has no `training`.

A line of the journal vouches for its parts by SHA-256 and size, and for itself and all above it, up to meta.json, by
`check`. Parts are written whole and synced first, then the line: what has no line was never there, and neither was a torn
last line. So a process may be killed at any moment. Whatever was changed later, by a bad disk or by hand, is found when a
run is opened, and cuts it there: the snapshots before the damage can be read and forked, and nothing is overwritten.
Checksums tell damage, not authors: they are no signature.

Nothing read here is executed, no file is unpickled, and no name found in a file is used as a path. One process writes a
run, others read it; the lock of a process that has ended is free.

    run = begin(ppo, "control.cartpole", Lanes(range(10)), steps=100_000)   # or find("cartpole-ppo-1", write=True)
    for snapshot in train(run):
        ...
    run.record(), run.learner(), fork("cartpole-ppo-1", grid={"eps": (0.1,)}), export("cartpole-ppo-1", "run.zip")
"""
from labkit.store.archive import bring, export, pack
from labkit.store.run import Run, shaped
from labkit.store.shelf import aligned, begin, compare, delete, find, fork, load, names, root, save, train

__all__ = [
    "Run",
    "aligned",
    "begin",
    "bring",
    "compare",
    "delete",
    "export",
    "find",
    "fork",
    "load",
    "names",
    "pack",
    "root",
    "save",
    "shaped",
    "train",
]
