# %% [markdown]
# # A margin loss by grade, live
#
# Llama 2's annotators say which answer is better and by how much, in four grades. The reward model's loss asks for a
# larger gap between two scores where the grade is stronger (Llama 2, section 3.2.2, equation 2; margins in table 27):
#
# $$-\log \sigma\bigl(r(x, y_c) - r(x, y_r) - m(\mathrm{grade})\bigr)$$
#
# Llama 3 takes the margin out again, as its gain fades with more data (Llama 3, section 4.1.2).

# %%
import torch

from llama_align import Reward, lines, load
from llama_align.data import GRADES, load_records
from llama_align.trainers import MARGINS
from llama_align.trainers.reward import ranking_loss

gap = torch.arange(-10, 31) / 5
nothing = torch.zeros_like(gap)
losses = {
    grade.replace("_", " "): (gap.tolist(), ranking_loss(gap, nothing, nothing + margin).tolist())
    for grade, margin in zip(GRADES, MARGINS["large"], strict=True)
}
lines(
    "Loss of a pair by its grade, large margins", losses, "score of the chosen less the rejected answer", "loss, nats"
)

# %% [markdown]
# Two scores that are equal cost most where the grade is strongest. Without a margin (negligibly better) the loss is
# that of Bradley and Terry, log 2 at a gap of 0.

# %%
at_zero = [values[10] for _, values in losses.values()]

assert gap[10] == 0
assert at_zero == sorted(at_zero, reverse=True)
assert abs(at_zero[-1] - 0.6931) < 1e-3

# %% [markdown]
# ## Two reward models
#
# The same pairs, the same start, once without and once with large margins. `load` takes a recipe's own YAML; what
# follows wins over it. Each trains for some seconds.

# %%
run = load("little.yaml", output_dir="runs/little", until="sft").run(quiet=True)
sandbox = run["sandbox"].folder
results = {}
for margin in ("none", "large"):
    results[margin] = load(
        "../recipes/herd-nano/reward_helpfulness.yaml",
        output_dir=f"runs/margin_{margin}",
        model_name_or_path=str(run["sft"].folder),
        datasets=[{"path": f"{sandbox}/preferences.jsonl"}],
        eval_datasets=[{"path": f"{sandbox}/preferences_heldout.jsonl"}],
        objective="all",
        margin=margin,
        num_train_epochs=4,
        learning_rate=1e-3,
        logging_steps=2,
    ).run(quiet=True)

# %% [markdown]
# The gap between the two scores as it grows while they train: what was logged.

# %%
curves = {}
for margin, result in results.items():
    rows = [row for row in result.log if "score/chosen" in row]
    gaps = [row["score/chosen"] - row["score/rejected"] for row in rows]
    curves[f"margin: {margin}"] = ([row["step"] for row in rows], gaps)
lines("Mean gap between the scores of a pair", curves, "step", "score of chosen less rejected")

# %% [markdown]
# ## What it learned, by grade
#
# The mean gap of each grade on the pairs trained on, against the margin that was asked for.

# %%
pairs, _ = load_records([{"path": f"{sandbox}/preferences.jsonl"}], "preference")
reward = Reward(**{margin: result.folder for margin, result in results.items()})
learned = {}
for margin, gaps in reward.gaps(pairs).items():
    by_grade = {grade: [g for g, pair in zip(gaps, pairs, strict=True) if pair.grade == grade] for grade in GRADES}
    learned[f"margin: {margin}"] = (list(MARGINS["large"]), [sum(found) / len(found) for found in by_grade.values()])
lines("Mean gap by grade", learned, "large margin of the grade", "score of chosen less rejected")

# %%
without, with_margin = (values for _, values in learned.values())

assert with_margin[0] > without[0]  # significantly better: further apart than without a margin
assert with_margin[0] > with_margin[-1]  # and further than negligibly better
assert results["large"].metrics["by_grade"]["significantly_better"]["accuracy"] > 0.5

# %% [markdown]
# Does it make a better reward model? On 200 pairs that were held out the difference is noise, and on public pairs, too
# (`docs/results/margins.md`).

# %%
for margin, result in results.items():
    by_grade = result.metrics["by_grade"]
    print(f"margin {margin:6s}", {grade: f"{100 * by_grade[grade]['accuracy']:.0f}%" for grade in by_grade})
