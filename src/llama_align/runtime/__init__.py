"""Processes, files and devices below everything else: whole files, digests, shared work, sharded weights.

Knows nothing of models, data or recipes.
"""
