# %% [markdown]
# # Averaging weights
#
# Llama 3 averages models of the same stage that differ in data or hyperparameters (section 4.1.5), and the last
# checkpoints of pretraining (section 3.4.3). An average of weights is not an average of answers: why does it work, and
# when does it not?
#
# Two models go on from one checkpoint, each on one half of the corpus.

# %%
import shutil

import torch
from safetensors.torch import load_file, save_file

from llama_align import Model, Result, lines, load
from llama_align.data import load_records

run = load("little.yaml", output_dir="runs/little", until="pretrain").run(quiet=True)
corpus = run["sandbox"].folder
halves = []
for number, part in enumerate(([0, 0.5], [0.5, 1])):
    half = load(
        "../recipes/herd-nano/pretrain.yaml",
        output_dir=f"runs/half_{number}",
        model_name_or_path=str(run["pretrain"].folder),
        tokenizer=str(run["tokenizer"].folder),
        size=None,
        datasets=[{"path": f"{corpus}/corpus.jsonl", "part": part}],
        eval_datasets=[],
        num_train_epochs=1,
        per_device_train_batch_size=2,
        learning_rate=2e-3,
        logging_steps=10,
    ).run(quiet=True)
    halves.append(half.folder)

# %% [markdown]
# ## Along the line between them
#
# Perplexity on documents that neither has seen, at shares of the second model from none to all.

# %%
documents, _ = load_records([{"path": f"{corpus}/corpus_heldout.jsonl"}], "document")
texts = [document.text for document in documents]


def averaged(name: str, models: list, share: float) -> Result:
    return load(
        "../recipes/herd-nano/average.yaml",
        output_dir=f"runs/{name}",
        models=[str(model) for model in models],
        weights=[1 - share, share],
    ).run(quiet=True)


shares = [0.0, 0.25, 0.5, 0.75, 1.0]
line = [Model(averaged("average", halves, share).folder).perplexity(texts) for share in shares]

# %% [markdown]
# ## The same function, other weights
#
# The neurons of an MLP have no order. Permuted, the second model computes exactly what it did, and its weights lie
# elsewhere. Averaged with the first one, they are of no use: averaging needs a common history, not a common function.

# %%
permuted = halves[1].with_name("permuted")
shutil.copytree(halves[1], permuted, dirs_exist_ok=True)
weights = load_file(permuted / "model.safetensors")
order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
for name, weight in weights.items():
    if name.endswith(("gate_proj.weight", "up_proj.weight")):
        weights[name] = weight[order]
    elif name.endswith("down_proj.weight"):
        weights[name] = weight[:, order].contiguous()
save_file(weights, permuted / "model.safetensors", metadata={"format": "pt"})

far = [Model(averaged("average", [halves[0], permuted], share).folder).perplexity(texts) for share in shares]
lines(
    "Perplexity along the line",
    {"common start": (shares, line), "permuted neurons": (shares, far)},
    "share of the second model",
    "perplexity, held out",
)

# %%
print(f"first {line[0]:.3f}, second {line[-1]:.3f}, average {line[2]:.3f}; with permuted neurons {far[2]:.3f}")

assert abs(far[-1] / line[-1] - 1) < 1e-3  # the same function
assert line[2] < (line[0] + line[-1]) / 2  # better than the two are on average
assert far[2] > 1.1 * line[2]

# %% [markdown]
# ## How far apart they are
#
# Relative distances from the average, as the recipe reports them.

# %%
near, other = averaged("average", halves, 0.5), averaged("average_permuted", [halves[0], permuted], 0.5)
print("common start    ", near.metrics["relative_distance"])
print("permuted neurons", other.metrics["relative_distance"])

assert max(near.metrics["relative_distance"]) < min(other.metrics["relative_distance"])
