"""Input at random, by seed: what is wrong is refused by name, nothing hangs, nothing wrong is taken.

`python -m tests.fuzz --rows 7000 --configurations 3000 --checkpoints 1000 --seed 1` is the long run.
"""
