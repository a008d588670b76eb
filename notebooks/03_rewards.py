# %% [markdown]
# # A reward model, best of K, and over-optimisation
#
# Rejection sampling draws K answers and keeps the one that a reward model likes best (Llama 2, section 3.2.3). More
# answers, more reward: figure 7 of the paper. Whether the answer is also better only a judge tells who has no part in
# the choice (Gao et al., 2022). The sandbox has an exact one.
#
# Two reward models are compared, of one size and one start. One was trained on preferences between the policy's own
# answers (697 pairs, two epochs), the other on answers that somebody else wrote (450, three epochs): Llama 2 gathers
# new preferences every week because a reward model degrades on answers of a distribution it has not seen (section
# 3.2.1).

# %%
from llama_align import Model, Reward, lines, load
from llama_align.data import load_records

run = load("little.yaml", output_dir="runs/little", until="reward_elsewhere").run(quiet=True)
run

# %% [markdown]
# ## What a reward model learned
#
# Of held-out pairs, how often the better answer scored higher, by grade; and whether a probability of 80% is right in
# eight cases of ten.

# %%
run["reward_elsewhere"].plot()

# %% [markdown]
# ## Best of K
#
# 32 answers to every held-out prompt, scored by both models and judged. `quality` is the judge's: 0.6 for what an
# answer says, 0.25 for the form asked for, 0.15 for a proper ending. This model of a hundred thousand weights knows
# little, but it can learn form and ending.

# %%
heldout = {"path": f"{run['sandbox'].folder}/heldout.jsonl", "where": {"objective": "helpfulness"}}
prompts, _ = load_records([heldout], "prompt")
answers = Model(run["sft"].folder).sample(prompts, k=32, temperature=1.0, max_new_tokens=24, seed=1)
reward = Reward(own=run["reward"].folder, elsewhere=run["reward_elsewhere"].folder)
scored = answers.scored(reward).judged()
scored.best("own")

# %%
rewards = {f"trained on {name}": scored.best_of(name) for name in ("own", "elsewhere")}
lines("What the reward model sees", rewards, "answers per prompt", "reward of the best", log=True)

# %% [markdown]
# Both curves rise, as they must: a maximum over more answers. `best_of` averages over all subsets of k of the 32
# answers, so the curves have no noise of which came first.

# %%
judged = {f"trained on {name}": scored.best_of(name, "quality") for name in ("own", "elsewhere")}
lines("What the judge sees of the same answers", judged, "answers per prompt", "quality of the best", log=True)

# %%
own, elsewhere = (values for _, values in judged.values())
print(f"one answer {own[0]:.3f}; best of 32: own {own[-1]:.3f}, elsewhere {elsewhere[-1]:.3f}")

assert all(values == sorted(values) for _, values in rewards.values())
assert abs(own[0] - scored.mean("quality")) < 1e-9  # of one answer there is no choice
assert elsewhere[-1] < own[-1]
assert elsewhere[-1] < elsewhere[0]  # worse than an answer that nobody chose

# %% [markdown]
# The first curve says nothing of the second. A reward model that has seen such answers is worth following for some
# answers, and less and less with more; one that has not finds, among many, those it is wrong about. What the rounds of
# the papers are for: new preferences on the newest model's answers, and a bound on how far one goes (K, or PPO's KL).
