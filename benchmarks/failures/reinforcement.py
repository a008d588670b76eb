"""Failures of PPO and of choosing the best of many answers."""

from pathlib import Path

from llama_align.data import load_records, write_jsonl
from llama_align.rejection.judges import EXACT

from .arms import trained
from .kinds import Arm, Curves, Failure, Start, first, highest, last, lowest
from .probes import judged

PPO = {
    "model_name_or_path": "{sft}",
    "datasets": [{"path": "{sandbox}/prompts.jsonl"}],
    "reward_models": {"helpfulness": "{reward_helpfulness}", "safety": "{reward_safety}"},
    "generation_batch_size": 128,
    "per_device_train_batch_size": 32,
    "learning_rate": 2.0e-4,
    "max_steps": 32,
    "logging_steps": 2,
}


def longer_preferred(start: Start, folder: Path, seed: int) -> str:
    """A reward model of annotators who choose the longer of two answers, whatever it says."""
    rows = []
    for record in load_records([{"path": f"{start('sandbox')}/preferences.jsonl"}], "preference")[0]:
        chosen, rejected = sorted((record.chosen, record.rejected), key=len, reverse=True)
        if record.objective == "helpfulness" and len(chosen) > len(rejected):
            rows.append(record.to_dict() | {"chosen": chosen, "rejected": rejected, "grade": "better"})
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "longer.jsonl", rows)
    options = {"model_name_or_path": "{sft}", "datasets": [{"path": str(folder / "longer.jsonl")}], "eval_datasets": []}
    options |= {"max_steps": 60, "seed": seed}
    return str(trained("reward_helpfulness.yaml", options, start, folder).folder)


def best_of_k(failure: Failure, arm: Arm, start: Start, seed: int, folder: Path) -> Curves:
    """What the rejection sampling recipe reports of the best of 1 to K answers: its reward, and the exact judge's."""
    options = {**failure.common, **arm.prepare(start, folder, seed), "seed": seed}
    curve = trained(failure.config, options, start, folder).metrics["best_of_k"][0]
    columns = {"reward": curve["best"], "judge": curve["heldout"][EXACT]}
    return {name: [list(point) for point in zip(curve["k"], column, strict=True)] for name, column in columns.items()}


FAILURES = [
    Failure(
        name="kl_off",
        config="ppo.yaml",
        until="reward_safety",
        common=PPO | {"learning_rate": 8.0e-4},
        healthy=Arm(),
        ill=Arm({"beta": 0.0001}),
        probes=(judged(),),
        every=16,
        panels={"reward": "reward", "kl": "KL to the start, nats per answer", "judge/helpful": "answers as asked, %"},
        claim="twice the KL, and at most three quarters as many answers as asked",
        shows=lambda healthy, ill: (
            last(ill, "kl") > 2 * last(healthy, "kl")
            and last(ill, "judge/helpful", 1) <= 0.75 * last(healthy, "judge/helpful", 1)
        ),
    ),
    Failure(
        name="critic",
        config="ppo.yaml",
        until="reward_safety",
        common=PPO,
        healthy=Arm(),
        ill=Arm({"value_learning_rate": 0.1}),
        every=16,
        panels={
            "loss/value": "value loss",
            "value/explained_variance": "explained variance",
            "reward": "reward",
        },
        claim="explained variance falls below -5, the value loss rises to ten times the healthy one's",
        shows=lambda healthy, ill: (
            lowest(ill, "value/explained_variance") < -5
            and highest(ill, "loss/value") > 10 * highest(healthy, "loss/value")
        ),
    ),
    Failure(
        name="stale",
        config="ppo.yaml",
        until="reward_safety",
        common=PPO,
        healthy=Arm(),
        ill=Arm({"num_iterations": 15}),
        probes=(judged(),),
        every=16,
        panels={
            "policy/clip_fraction": "clipped tokens, share",
            "policy/approx_kl": "KL of an update",
            "judge/helpful": "answers as asked, %",
        },
        claim="three times as many tokens are clipped, and fewer answers are as asked",
        shows=lambda healthy, ill: (
            last(ill, "policy/clip_fraction") > 3 * last(healthy, "policy/clip_fraction")
            and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1)
        ),
    ),
    Failure(
        name="ppo_rate",
        config="ppo.yaml",
        until="reward_safety",
        common=PPO,
        healthy=Arm(),
        ill=Arm({"learning_rate": 2.0e-3}),
        probes=(judged(),),
        every=16,
        panels={
            "policy/clip_fraction": "clipped tokens, share",
            "entropy": "entropy, nats per token",
            "judge/helpful": "answers as asked, %",
        },
        claim="more than 0.3 of the tokens clipped at the highest, and half as many answers as asked",
        shows=lambda healthy, ill: (
            highest(ill, "policy/clip_fraction") > 0.3
            and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1) / 2
        ),
    ),
    Failure(
        name="length",
        config="ppo.yaml",
        until="reward_safety",
        common=PPO,
        healthy=Arm(),
        ill=Arm(
            prepare=lambda start, folder, seed: {
                "reward_models": {
                    "helpfulness": longer_preferred(start, folder, seed),
                    "safety": str(start("reward_safety")),
                }
            }
        ),
        probes=(judged(),),
        every=16,
        panels={"reward": "reward", "answers/length": "length, tokens", "judge/helpful": "answers as asked, %"},
        claim="the reward rises, answers are half as long again, fewer are as asked",
        shows=lambda healthy, ill: (
            last(ill, "reward") > first(ill, "reward")
            and last(ill, "answers/length") > 1.5 * last(healthy, "answers/length")
            and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1)
        ),
    ),
    Failure(
        name="best_of_k",
        config="rejection_sampling.yaml",
        until="reward_safety",
        common={
            "model": "{sft}",
            "datasets": [{"path": "{sandbox}/validation.jsonl", "where": {"objective": "helpfulness"}, "limit": 150}],
            "answers": 16,
            "temperature": 1.0,
            "judge": "sandbox",
        },
        healthy=Arm(
            prepare=lambda start, folder, seed: {"reward_models": {"reward": str(start("reward_helpfulness"))}}
        ),
        ill=Arm(
            prepare=lambda start, folder, seed: {"reward_models": {"reward": longer_preferred(start, folder, seed)}}
        ),
        measure=best_of_k,
        axis="answers to choose from",
        panels={"reward": "reward of the best", "judge": "quality of the best, by the exact judge"},
        claim="the reward rises with K, and the chosen answers' quality falls below that of a single answer",
        shows=lambda healthy, ill: (
            ill["reward"][-1][1] > ill["reward"][0][1]
            and ill["judge"][-1][1] < ill["judge"][0][1]
            and healthy["judge"][-1][1] > healthy["judge"][0][1]
        ),
    ),
]
