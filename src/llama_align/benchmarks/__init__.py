"""Scores on benchmarks, through lm-evaluation-harness and for reward models. Knows tasks; nothing of training."""
