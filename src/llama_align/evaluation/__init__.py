"""Checkpoints measured on the same prompts and documents. Knows nothing of how they were trained."""
