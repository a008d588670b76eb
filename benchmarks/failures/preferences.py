"""Failures of reward models and of DPO."""

from .kinds import Arm, Failure, last, lowest
from .probes import judged, pairs

REWARD = {
    "model_name_or_path": "{sft}",
    "datasets": [{"path": "{sandbox}/preferences.jsonl"}],
    "eval_datasets": [],
    "per_device_train_batch_size": 16,
    "max_steps": 90,
    "logging_steps": 5,
}
DPO = {
    "model_name_or_path": "{sft}",
    "datasets": [{"path": "{annotate}/preferences.jsonl"}],
    "num_train_epochs": 2,
    "max_steps": 60,
    "per_device_train_batch_size": 16,
    "logging_steps": 5,
}

FAILURES = [
    Failure(
        name="reward_epochs",
        config="reward_helpfulness.yaml",
        until="sft",
        common=REWARD | {"max_steps": 190},
        healthy=Arm(),
        ill=Arm({"datasets": [{"path": "{sandbox}/preferences.jsonl", "limit": 400}]}),
        probes=(pairs(),),
        every=38,
        panels={
            "accuracy": "accuracy in training",
            "held_out/loss": "ranking loss, held out",
            "held_out/ece": "calibration error, held out",
        },
        claim="accuracy above 0.9 in training; held out the loss 0.3 above its lowest and twice the calibration error",
        shows=lambda healthy, ill: (
            last(ill, "accuracy") > 0.9
            and last(ill, "held_out/loss", 1) > lowest(ill, "held_out/loss") + 0.3
            and last(ill, "held_out/ece", 1) > 2 * last(healthy, "held_out/ece", 1)
        ),
    ),
    Failure(
        name="margin",
        config="reward_helpfulness.yaml",
        until="sft",
        common=REWARD,
        healthy=Arm({"margin": "small"}),
        ill=Arm(
            {
                "margin": {
                    "significantly_better": 12,
                    "better": 8,
                    "slightly_better": 4,
                    "negligibly_better": 0,
                }
            }
        ),
        probes=(pairs(),),
        every=45,
        panels={
            "loss/margin": "ranking loss",
            "held_out/gap": "gap between scores, held out",
            "held_out/ece": "calibration error, held out",
        },
        claim="scores of a pair are twice as far apart, the calibration error is 0.1 higher",
        shows=lambda healthy, ill: (
            last(ill, "held_out/gap", 1) > 2 * last(healthy, "held_out/gap", 1)
            and last(ill, "held_out/ece", 1) > last(healthy, "held_out/ece", 1) + 0.1
        ),
    ),
    Failure(
        name="chosen_falling",
        config="dpo.yaml",
        until="annotate",
        common=DPO | {"alarm_after": 30},
        healthy=Arm({"nll_coefficient": 1.0}),
        ill=Arm({"nll_coefficient": 0.0}),
        probes=(judged(),),
        every=30,
        panels={
            "rewards/chosen": "implicit reward of chosen answers",
            "rewards/margins": "margin to the rejected",
            "loss/nll": "NLL of chosen answers, nats per token",
        },
        claim="rewards/chosen ends below 0 and below the healthy one's, while the margin grows at least as well",
        shows=lambda healthy, ill: (
            last(ill, "rewards/chosen") < min(0, last(healthy, "rewards/chosen"))
            and last(ill, "rewards/margins") > last(healthy, "rewards/margins")
        ),
    ),
    Failure(
        name="dpo_rate",
        config="dpo.yaml",
        until="annotate",
        common=DPO | {"alarm_after": 30},
        healthy=Arm({"nll_coefficient": 1.0}),
        ill=Arm({"nll_coefficient": 1.0, "learning_rate": 3.0e-3}),
        probes=(judged(),),
        every=30,
        panels={
            "loss/nll": "NLL of chosen answers, nats per token",
            "rewards/margins": "margin to the rejected",
            "judge/helpful": "answers as asked, %",
        },
        claim="the chosen answers' NLL ends 0.2 nats higher, and half as many answers are as asked",
        shows=lambda healthy, ill: (
            last(ill, "loss/nll") > last(healthy, "loss/nll") + 0.2
            and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1) / 2
        ),
    ),
    Failure(
        name="beta",
        config="dpo.yaml",
        until="annotate",
        common=DPO | {"nll_coefficient": 0.2},
        healthy=Arm({"beta": 0.1}),
        ill=Arm({"beta": 0.005}),
        probes=(judged(),),
        every=30,
        panels={
            "logps/chosen": "log p of chosen answers, nats",
            "logps/rejected": "log p of rejected answers, nats",
            "judge/helpful": "answers as asked, %",
        },
        claim="rejected answers lose twice as many nats, and fewer answers are as asked",
        shows=lambda healthy, ill: (
            last(ill, "logps/rejected") < 2 * last(healthy, "logps/rejected")
            and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1)
        ),
    ),
    Failure(
        name="format_tokens",
        config="dpo.yaml",
        until="annotate",
        common=DPO | {"alarm_after": 30},
        healthy=Arm({"nll_coefficient": 0.0}),
        ill=Arm({"nll_coefficient": 0.0, "mask_format_tokens": False}),
        probes=(judged(),),
        every=30,
        panels={
            "rewards/chosen": "implicit reward of chosen answers",
            "judge/missing_end": "without an end, %",
            "judge/repetitive": "repetitive tails, %",
        },
        claim="5 points more of the answers have no end or a repetitive tail",
        shows=lambda healthy, ill: (
            last(ill, "judge/missing_end", 1) + last(ill, "judge/repetitive", 1)
            > last(healthy, "judge/missing_end", 1) + last(healthy, "judge/repetitive", 1) + 5
        ),
    ),
]
