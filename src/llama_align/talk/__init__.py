"""A conversation with checkpoints in a terminal: `llama-align chat`."""
