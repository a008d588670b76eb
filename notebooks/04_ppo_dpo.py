# %% [markdown]
# # PPO beside DPO, from one checkpoint
#
# Both raise a reward and stay near a reference. PPO draws answers, scores them with a reward model and learns with a
# critic (Llama 2, section 3.2.3, equations 3 and 4). DPO learns from the preferences themselves, whose reward model is
# the policy (Llama 3, section 4.1.4). Here they start from one SFT model and one set of preferences.

# %%
from llama_align import Model, Reward, lines, load
from llama_align.data import load_records

run = load("little.yaml", output_dir="runs/little", until="reward").run(quiet=True)
sft, sandbox = str(run["sft"].folder), run["sandbox"].folder

# %% [markdown]
# ## PPO
#
# Twelve rollouts of 128 answers, four gradient steps each. `kl` is in nats an answer.

# %%
ppo = load(
    "../recipes/herd-nano/ppo.yaml",
    output_dir="runs/ppo",
    model_name_or_path=sft,
    datasets=[{"path": f"{sandbox}/prompts.jsonl"}],
    reward_models={"helpfulness": str(run["reward"].folder)},
    generation_batch_size=128,
    per_device_train_batch_size=32,
    max_completion_length=24,
    max_steps=48,
    learning_rate=5e-4,
    value_learning_rate=1e-3,
    beta=0.05,
    logging_steps=4,
).run(quiet=True)
steps = [row for row in ppo.log if "reward" in row]
at = [row["step"] for row in steps]
lines("PPO", {"reward": (at, [r["reward"] for r in steps]), "KL": (at, [r["kl"] for r in steps])}, "step", "")

# %%
assert steps[-1]["reward"] > steps[0]["reward"]
assert steps[-1]["kl"] > abs(steps[0]["kl"])  # of the first rollout, 0: policy and reference are one

# %% [markdown]
# ## DPO
#
# Of the preferences that the reward model was trained on those of the three strongest grades, 347 of 697 pairs.
# `rewards/chosen` is beta times how much likelier the chosen answer became. That it may fall while the margin grows is
# why Llama 3 adds the likelihood of the chosen answer.

# %%
dpo = load(
    "../recipes/herd-nano/dpo.yaml",
    output_dir="runs/dpo",
    model_name_or_path=sft,
    datasets=[{"path": f"{run['annotate'].folder}/preferences.jsonl"}],
    learning_rate=5e-4,
    num_train_epochs=2,
    logging_steps=4,
).run(quiet=True)
pairs = [row for row in dpo.log if "rewards/margins" in row]
at = [row["step"] for row in pairs]
implicit = {name: (at, [row[f"rewards/{name}"] for row in pairs]) for name in ("chosen", "rejected")}
lines("DPO: implicit reward", implicit, "step", "beta times log-ratio")

# %%
assert pairs[-1]["rewards/margins"] > pairs[0]["rewards/margins"]
assert pairs[-1]["rewards/accuracies"] > 0.5

# %% [markdown]
# ## The three, side by side
#
# Answers to held-out prompts: what the reward model says of them, which PPO optimised, and what the exact judge says,
# whom nobody did.

# %%
prompts, _ = load_records([{"path": f"{sandbox}/heldout.jsonl", "where": {"objective": "helpfulness"}}], "prompt")
reward = Reward(run["reward"].folder)
answers = {
    name: Model(place).sample(prompts, k=8, temperature=1.0, max_new_tokens=24, seed=2).scored(reward).judged()
    for name, place in {"sft": sft, "ppo": ppo.folder, "dpo": dpo.folder}.items()
}
for name, found in answers.items():
    print(f"{name}: reward {found.mean('reward'):6.3f}, quality {found.mean('quality'):.3f}")

# %%
assert answers["ppo"].mean("reward") > answers["sft"].mean("reward")
assert answers["dpo"].mean("reward") > answers["sft"].mean("reward")
answers["ppo"].best("quality")

# %% [markdown]
# PPO moved the reward further than the judge follows: it went where a reward model of a hundred thousand weights,
# trained on 697 pairs, is wrong. Read what its policy says above, and what was asked: the reward model likes
# `Answer:`, asked for or not. A larger `beta` holds it back; a better reward model, on fresh preferences, is the cure.
# DPO meets no answers but those that were compared, and moved less.
