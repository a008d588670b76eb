"""The other side of benchmarks/ppo.py: TRL 1.12.0's PPOTrainer, in an environment of its own (ppo_trl.txt)."""

import argparse
import json
import time

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Keep(TrainerCallback):
    """The score of every rollout."""

    def __init__(self):
        self.rewards = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "objective/scores" in logs:
            self.rewards.append(logs["objective/scores"])


def train(job: dict) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(job["sft"], padding_side="left")
    config = PPOConfig(
        output_dir=job["output"],
        # with accumulation this trainer steps once a rollout, whatever num_mini_batches says
        per_device_train_batch_size=job["rollout"],
        gradient_accumulation_steps=1,
        num_mini_batches=job["rollout"] // job["mini_batch"],
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=job["mini_batch"],
        total_episodes=job["answers"],
        response_length=job["longest"],
        stop_token_id=job["stop"],
        temperature=1.0,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        kl_coef=job["kl"],
        cliprange=job["clip"],
        cliprange_value=job["value_clip"],
        vf_coef=job["value_coefficient"],
        gamma=job["gamma"],
        lam=job["lam"],
        missing_eos_penalty=job["cut_penalty"],
        num_sample_generations=0,
        logging_steps=1,
        seed=job["seed"],
        **{"save_strategy": "no", "report_to": "none", "gradient_checkpointing": False, "bf16": False, "use_cpu": True},
    )
    with open(job["prompts"]) as file:
        data = Dataset.from_list([{"input_ids": ids} for ids in json.load(file)])
    score = {"num_labels": 1}
    keep = Keep()
    trainer = PPOTrainer(
        config,
        tokenizer,
        AutoModelForCausalLM.from_pretrained(job["sft"]),
        AutoModelForCausalLM.from_pretrained(job["sft"]),
        AutoModelForSequenceClassification.from_pretrained(job["reward"], **score),
        data,
        AutoModelForSequenceClassification.from_pretrained(job["reward"], **score),
        eval_dataset=data,
        callbacks=[keep],
    )
    start, busy = time.perf_counter(), time.process_time()
    trainer.train()
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
    trainer.save_model(job["output"])
    tokenizer.save_pretrained(job["output"])
    return seconds | {"rewards": keep.rewards}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", required=True)
    print("\n" + json.dumps(train(json.loads(parser.parse_args().child))))
