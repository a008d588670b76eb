# %% [markdown]
# # Reading a run
#
# What a run of rounds leaves is files: of every step its options, its log, what it measured; of all of them a report.
# `Run` and `Result` read the folders, of a finished run as well as of one on another machine.

# %%
import math

from llama_align import Run, load

load("little.yaml", output_dir="runs/little").run(quiet=True)

run = Run("runs/little")
run

# %% [markdown]
# ## What came out
#
# The last step that measured models. `Score` is the exact judge's: content, form and ending all right, with its
# interval of 95%. Perplexity is of documents, which so small a model unlearns in SFT. A win rate is under the run's own
# reward model, which says that optimisation worked and not that answers are better (Llama 2, section 3.4, measures by
# people).

# %%
run.evaluation

# %%
pretrained, tuned = run.evaluation.metrics["rows"]

assert [pretrained["row"], tuned["row"]] == ["pretrain", "sft"]
assert tuned["length"]["finished"] > pretrained["length"]["finished"]  # it has learned to stop
assert pretrained["perplexity"]["value"] < tuned["perplexity"]["value"]

# %% [markdown]
# ## A step
#
# A step is a `Result`: what it measured (`metrics.json`), what its trainer logged, pictures of both.

# %%
run["pretrain"]

# %%
run["pretrain"].plot()

# %% [markdown]
# A loss in nats a token has a scale. Before training it is near the logarithm of the vocabulary, and where it is not,
# something is wrong with the initialisation or the labels. Held-out loss near the loss of training: nothing is learned
# by heart yet.

# %%
losses = [row["loss"] for row in run["pretrain"].log if "loss" in row]
heldout = [row["eval_loss"] for row in run["pretrain"].log if "eval_loss" in row]
print(f"log of the vocabulary {math.log(512):.2f}, first {losses[0]:.2f}, last {losses[-1]:.2f}, held out {heldout}")

assert losses[-1] < losses[0] < math.log(512) + 0.5

# %% [markdown]
# ## Everything that was logged
#
# `all=True` adds schedules, norms and parts of losses. A gradient norm that jumps, a rate that is not what was meant:
# look here first.

# %%
everything = run["sft"].plot(all=True)
print(everything.titles)
everything["Gradient norm"]

# %% [markdown]
# ## A reward model
#
# Accuracy by grade beside always preferring the longer answer, on held-out pairs: where that is as good, the model may
# have learned to measure length.

# %%
run["reward_elsewhere"].plot()

# %%
measured = run["reward_elsewhere"].metrics

assert set(measured["by_grade"]) == {"significantly_better", "better", "slightly_better", "negligibly_better"}
assert measured["by_grade"]["significantly_better"]["accuracy"] > 0.5

# %% [markdown]
# ## The report
#
# One HTML page with all of it, nothing loaded from anywhere: `report.html` in the run's folder.

# %%
page = run.report().read_text("utf-8")

assert "<svg" in page
assert "<script" not in page
