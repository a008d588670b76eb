"""PPO against the last PPOTrainer that TRL had (1.12.0): reward reached, by wall-clock, on the sandbox.

    python -m venv trl112 && trl112/bin/pip install -r benchmarks/ppo_trl.txt
    python benchmarks/ppo.py --trl trl112/bin/python --run runs/demo [--seeds 0 1 2] [--answers 5120] [--output DIR]

`--run` is a finished `make demo`: its SFT checkpoint is the policy, its helpfulness model reward and critic's start.
Every trainer learns from the same number of answers to the sandbox's prompts, in the same mini-batches, with the same
coefficients. `ours` optimises what TRL's does (plain scores, no clipping of gradients); `ours, whitened` has Llama 2's
whitening of scores. The policies left are measured alike: answers drawn at temperature 1 to held-out prompts, judged
exactly and by the reward model. Seconds are those of training alone, every trainer in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from measure import about

from llama_align import recipe
from llama_align.chat import render_prompt
from llama_align.data import Prompt, load_records
from llama_align.models.convert import convert
from llama_align.sampling import SamplingParams
from llama_align.sampling.dialogs import DialogSampler
from llama_align.sandbox.judge import is_unsafe, judge
from llama_align.trainers import PPOConfig, PPOTrainer

SHARED = {
    "rollout": 256,
    "mini_batch": 64,
    "longest": 32,
    "learning_rate": 1e-4,
    "kl": 0.1,
    "clip": 0.2,
    "value_clip": 0.2,
    "value_coefficient": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
    "cut_penalty": 1.0,
}
OURS = {"ours": {"whiten_scores": False, "max_grad_norm": 0.0}, "ours, whitened": {"whiten_scores": True}}
THEIRS = "TRL 1.12.0"


def found(run: Path, name: str) -> str:
    """The folder of a step of a finished run; of several the newest."""
    steps = [*run.glob(f"{name}-*"), *run.glob(name)]
    if not steps:
        raise SystemExit(f"error: {run}: found no step {name}, expected a finished make demo")
    return str(max(steps, key=lambda path: path.stat().st_mtime))


def prompts_of(path: str) -> list[Prompt]:
    prompts = load_records([{"path": path}], "prompt")[0]
    return [prompt for prompt in prompts if not is_unsafe(prompt.task)]


def train_ours(job: dict) -> dict:
    tokenizer = recipe.load_tokenizer(job["sft"])
    rewards = {"helpfulness": recipe.load_reward_model(job["reward"])}
    config = PPOConfig(
        output_dir=job["output"],
        generation_batch_size=job["rollout"],
        per_device_train_batch_size=job["mini_batch"],
        max_completion_length=job["longest"],
        max_steps=job["answers"] // job["mini_batch"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        beta=job["kl"],
        epsilon=job["clip"],
        value_clip=job["value_clip"],
        value_coefficient=job["value_coefficient"],
        gamma=job["gamma"],
        lam=job["lam"],
        truncation_penalty=job["cut_penalty"],
        logging_steps=job["rollout"] // job["mini_batch"],
        seed=job["seed"],
        **OURS[job["variant"]],
        **{"save_strategy": "no", "report_to": "none", "gradient_checkpointing": False, "bf16": False, "use_cpu": True},
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        recipe.load_model(job["sft"], tokenizer=tokenizer),
        reward=rewards,
        value_model=recipe.load_model(job["reward"], "value", tokenizer),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": p.messages} for p in prompts_of(job["prompts"])]),
        processing_class=tokenizer,
    )
    start, busy = time.perf_counter(), time.process_time()
    trainer.train()
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
    trainer.save_model(job["output"])
    return seconds | {"rewards": [row["reward"] for row in trainer.state.log_history if "reward" in row]}


def child(python: str, script: str, job: dict) -> dict:
    """Trains in a process of its own and returns what its last line says."""
    environment = {key: value for key, value in os.environ.items() if python == sys.executable or key != "PYTHONPATH"}
    done = subprocess.run([python, script, "--child", json.dumps(job)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"error: {job['variant']} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(path: str, reward: str, heldout: list[Prompt]) -> dict[str, float]:
    """Share judged helpful and mean reward of answers drawn at temperature 1."""
    tokenizer = recipe.load_tokenizer(path)
    sampler = DialogSampler(recipe.load_model(path, tokenizer=tokenizer), tokenizer)
    messages = [prompt.messages for prompt in heldout]
    drafts = [group[0] for group in sampler(messages, SamplingParams(1, SHARED["longest"], 1.0))]
    helpful = [judge(p.task, d.text, d.finished).helpful for p, d in zip(heldout, drafts, strict=True)]
    scores = recipe.load_reward_model(reward).score(messages, [d.text for d in drafts], [d.finished for d in drafts])
    return {"judged": 100 * statistics.mean(helpful), "reward": statistics.mean(scores)}


def trl_inputs(job: dict, output: Path) -> dict:
    """What TRL's trainer reads: Llama's form of both models, and prompts as token ids."""
    for name in ("sft", "reward"):
        if not (output / name).is_dir():
            convert(job[name], str(output / name), to="llama")
    tokenizer = recipe.load_tokenizer(job["sft"])
    ids = [render_prompt(tokenizer, prompt.messages) for prompt in prompts_of(job["prompts"])]
    (output / "prompts.json").write_text(json.dumps(ids))
    stop = tokenizer.eos_token_id
    return (
        job
        | {name: str(output / name) for name in ("sft", "reward")}
        | {
            "prompts": str(output / "prompts.json"),
            "stop": stop,
        }
    )


def spread(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def report(rows: list[dict], base: dict) -> str:
    lines = [
        "| trainer | judged right, % | reward model | seconds | CPU seconds | reward after a quarter, half, all |",
        "|---|---|---|---|---|---|",
        f"| SFT, before | {base['judged']:.1f} | {base['reward']:.2f} | | | |",
    ]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        curve = []
        for part in (0.25, 0.5, 1.0):
            ends = [max(round(len(row["rewards"]) * part), 1) for row in own]  # and the rollout before: less noise
            near = [statistics.mean(row["rewards"][max(end - 2, 0) : end]) for row, end in zip(own, ends, strict=True)]
            curve.append(f"{statistics.mean(near):.2f}")
        cells = [spread([row[key] for row in own], n) for key, n in (("judged", 1), ("reward", 2), ("seconds", 0))]
        lines.append(
            f"| {variant} | {' | '.join(cells)} | {spread([r['cpu_seconds'] for r in own], 0)} | {', '.join(curve)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished make demo")
    parser.add_argument("--trl", help="python of an environment with benchmarks/ppo_trl.txt (default: ours alone)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--answers", type=int, default=5120, help="answers learned from")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_ppo"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train_ours(json.loads(options.child))))
        return
    about()
    options.output.mkdir(parents=True, exist_ok=True)
    sandbox = found(options.run, "sandbox")
    job = SHARED | {
        "answers": options.answers,
        "sft": found(options.run, "sft"),
        "reward": found(options.run, "reward_helpfulness"),
        "prompts": f"{sandbox}/prompts.jsonl",
    }
    heldout = prompts_of(f"{sandbox}/heldout.jsonl")
    base, rows = measure(job["sft"], job["reward"], heldout), []
    for seed in options.seeds:
        for variant in [*OURS, *([THEIRS] if options.trl else [])]:
            ours = variant in OURS
            output = options.output / f"{variant.replace(', ', '_').replace(' ', '_')}-{seed}"
            its = job if ours else trl_inputs(job, options.output)
            its = its | {"variant": variant, "seed": seed, "output": str(output)}
            script = __file__ if ours else str(Path(__file__).with_name("ppo_trl.py"))
            row = {"variant": variant, "seed": seed} | child(sys.executable if ours else options.trl, script, its)
            rows.append(row | measure(str(output), job["reward"], heldout))
            print({key: value for key, value in rows[-1].items() if key != "rewards"}, flush=True)
            (options.output / "rows.json").write_text(json.dumps({"base": base, "rows": rows}))
    print(
        f"\n{len(heldout)} held-out prompts, {options.answers} answers learned from, {torch.get_num_threads()} threads"
    )
    print(report(rows, base))


if __name__ == "__main__":
    main()
