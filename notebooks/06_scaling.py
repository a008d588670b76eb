# %% [markdown]
# # Scaling laws in five minutes
#
# Which size for how many tokens, and which mix of data? Papers answer from small runs and a law through them. Here the
# runs are points made from known laws with noise, so that one sees what comes back. `recipes/scaling.py` and
# `recipes/mix.py` do the same with runs of their own (`docs/scaling.md`).
#
# ## The best size for a budget
#
# Several sizes are trained with the same budget C = 6 N D of FLOPs each. Loss against size is a parabola on a
# logarithmic axis, and its bottom the best size; a power law goes through the bottoms (Llama 3, section 3.2.1, figures
# 2 and 3).

# %%
import numpy as np

from llama_align import Picture
from llama_align.report import laws as pictures
from llama_align.scaling import isoflop, losses, mixing
from llama_align.sizes.laws import REFIT as truth

rng = np.random.default_rng(0)
flops = np.repeat([6e18, 3e19, 1e20, 6e20, 3e21], 7)
best = np.array([truth.optimum(budget)[0] for budget in flops])
sizes = best * np.tile(np.geomspace(1 / 3, 3, 7), 5)
tokens = flops / (6 * sizes)
measured = truth.loss(sizes, tokens) * np.exp(0.0005 * rng.standard_normal(sizes.size))

budgets = isoflop.by_budget(flops, sizes, measured)
frontier = isoflop.frontier(budgets)
Picture("Loss by size and budget", pictures.isoflop("loss by size", budgets, frontier.minima))

# %%
print(f"best size = {frontier.coefficient:.3g} * C^{frontier.exponent:.3f}, the exponent in truth {truth.exponent:.3f}")
print(f"95% interval of the exponent: {frontier.low:.3f} to {frontier.high:.3f}")

assert not frontier.refused
assert abs(frontier.exponent - truth.exponent) < 0.05

# %% [markdown]
# A budget whose lowest loss is at the edge of its sizes says nothing of the best one, and is refused by name.

# %%
small = sizes < 1.1 * best
try:
    isoflop.frontier(isoflop.by_budget(flops[small], sizes[small], measured[small]))
except isoflop.EdgeError as error:
    refused = str(error)
    print(refused[:240], "...")

assert "at the largest of its sizes" in refused

# %% [markdown]
# ## The law of loss
#
# Chinchilla's third way fits $L = E + A/N^{\alpha} + B/D^{\beta}$ to all points at once (Hoffmann et al., 2022,
# section 3.3). Then it predicts a run ten times above the largest budget, with an interval, before anybody pays for it.

# %%
fit = losses.fit(sizes, tokens, measured)
target = truth.optimum(3e22)
predicted = fit.predicted(*target, fit.bootstrap(100))
really = float(truth.loss(*target))
Picture(
    "A run predicted from smaller ones",
    pictures.prediction(
        "predicted", (flops, measured), [(3e22, really, predicted["low"], predicted["high"])], "loss, nats a token"
    ),
)

# %%
for name, value in fit.law.constants.items():
    print(f"{name:9s}{value:10.4g}   in truth {truth.constants[name]:10.4g}")
print(f"predicted {predicted['loss']:.4f} [{predicted['low']:.4f}, {predicted['high']:.4f}], really {really:.4f}")

assert abs(predicted["loss"] / really - 1) < 0.01
assert predicted["low"] < really < predicted["high"]

# %% [markdown]
# Constants trade against each other along a valley, so that each alone is known badly and the prediction well.
#
# ## The mix of data
#
# Small runs with different shares of four sources, loss $c + \exp(t \cdot r)$ in the shares r (Data Mixing Laws, 2024;
# Llama 3, section 3.1.2, does such experiments). Books help the first target, code the second, the web both a
# little, scraps neither.

# %%
names = ["books", "web", "code", "scraps"]
law = mixing.MixingLaw(np.array([1.6, 1.2]), np.array([[-2.0, -0.5, 0.8, 0.5], [0.8, -0.5, -2.0, 0.6]]))
runs = rng.dirichlet(np.ones(4), 40)
lost = law.predict(runs) + 0.01 * rng.standard_normal((40, 2))
found = mixing.fit(runs[:32], lost[:32])
order = mixing.rank_correlation(found.predict(runs[32:]).mean(1), lost[32:].mean(1))

most = mixing.epoch_bound(available=[4e9, 20e9, 2e9, 20e9], budget=10e9, epochs=2)
proposed = found.propose(most)
drawn = np.array([one.propose(most) for one in mixing.bootstrap(runs[:32], lost[:32], 60)])
low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
rows = dict(zip(names, zip(proposed, low, high, strict=True), strict=True))
Picture("Proposed mix, 95% interval", pictures.mix("mix", rows, [4 / 46, 20 / 46, 2 / 46, 20 / 46]))

# %%
for name, share, right in zip(names, proposed, law.propose(most), strict=True):
    print(f"{name:7s}{100 * share:5.1f}%   by the true law {100 * right:5.1f}%")
print(f"rank correlation on 8 mixes that were held out: {order:.2f}")

assert order > 0.5
assert proposed[3] < 0.05  # scraps
assert law.predict(proposed[None]).mean() < law.predict(np.full((1, 4), 0.25)).mean()
