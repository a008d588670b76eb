"""Pretraining on packed documents, AdamW and cosine as in Llama 2."""

from .trainer import PretrainConfig, PretrainTrainer

__all__ = ["PretrainConfig", "PretrainTrainer"]
