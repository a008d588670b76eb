"""Post-training data between rounds: records cleaned, scored, thinned and made, with a ledger (Llama 3, section 4.2.3).

Knows records, reward models and checkpoints that are asked; nothing of training.
"""
