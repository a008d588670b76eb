"""Failures of pretraining."""

from .kinds import Arm, Failure, last

COMMON = {
    "tokenizer": "{tokenizer}",
    "datasets": [{"path": "{sandbox}/corpus.jsonl"}],
    "eval_datasets": [],
    "per_device_train_batch_size": 4,
    "max_steps": 80,
    "logging_steps": 4,
}

FAILURES = [
    Failure(
        name="learning_rate",
        config="pretrain.yaml",
        until="tokenizer",
        common=COMMON,
        healthy=Arm(),
        ill=Arm({"learning_rate": 0.1}),
        panels={"loss": "loss", "grad_norm": "gradient norm"},
        claim="the loss ends 1 nat or more above the healthy one's",
        shows=lambda healthy, ill: last(ill, "loss") > last(healthy, "loss") + 1,
    ),
]
