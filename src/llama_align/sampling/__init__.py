"""K answers per prompt from token ids: engines, reward scoring and selection."""
