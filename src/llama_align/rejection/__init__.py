"""Rejection sampling (Llama 2, section 3.2.3): answers drawn in shards, scored, and chosen from.

Knows nothing of how an engine samples or a reward model scores.
"""
