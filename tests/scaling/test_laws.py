"""Laws of losses, sizes, benchmarks and mixes: what made the points is found again; what cannot be found, refused."""

import numpy as np
import pytest
from scipy.optimize import minimize

from llama_align.scaling import losses, mixing
from llama_align.scaling.benchmarks import TwoStep
from llama_align.scaling.descent import Points, huber
from llama_align.scaling.isoflop import Budget, EdgeError, frontier
from llama_align.sizes.laws import Law

TRUE = Law(1.7, 400.0, 1500.0, 0.34, 0.37)
SIZES = np.repeat(np.geomspace(3e6, 3e9, 7), 5)
TOKENS = np.tile([5, 10, 20, 40, 80], 7) * SIZES


def measured(noise: float, seed: int = 0) -> np.ndarray:
    return TRUE.loss(SIZES, TOKENS) * np.exp(noise * np.random.default_rng(seed).standard_normal(SIZES.size))


def test_constants_without_noise_are_found_to_rounding_and_lie_in_their_intervals():
    found = losses.fit(SIZES, TOKENS, measured(0))
    ends = found.intervals()
    for name, value in TRUE.constants.items():
        assert found.law.constants[name] == pytest.approx(value, rel=1e-9)
        assert ends[name][0] <= value <= ends[name][1]


def test_constants_with_noise_lie_in_intervals_that_are_no_wider_than_they_need_be():
    found = losses.fit(SIZES, TOKENS, measured(0.01, seed=3))
    for name, (low, high) in found.intervals().items():
        assert low < found.law.constants[name] < high
        assert low < TRUE.constants[name] < high
    assert np.diff(found.intervals()["alpha"])[0] < 0.15


def test_the_descent_ends_no_higher_than_l_bfgs():
    target, points = np.log(measured(0.01)), Points(SIZES, TOKENS)
    best = points.best(target, 1e-3)
    ours = huber((target - points.log_loss(best[None])[0])[None], 1e-3)[0]
    for start in ([0.5, -1, -1, 0.3, 0.3], [0.6, -2, 0, 0.5, 0.2]):
        theirs = minimize(lambda x: huber(target - points.log_loss(x[None]), 1e-3)[0], start, method="L-BFGS-B").fun
        assert ours <= theirs * (1 + 1e-6)


def test_the_best_size_of_a_budget_has_the_lowest_loss():
    size, tokens = TRUE.optimum(1e20)
    assert 6 * size * tokens == pytest.approx(1e20)
    for other in (0.9, 1.1):
        assert TRUE.loss(size, tokens) < TRUE.loss(size * other, tokens / other)


def test_a_further_run_is_predicted_with_an_interval_that_holds_it():
    fit = losses.fit(SIZES, TOKENS, measured(0.01), runs=[f"{size:.0f}" for size in SIZES])
    found = fit.predicted(1e10, 2e11, fit.bootstrap(60))
    assert found["low"] < TRUE.loss(1e10, 2e11) < found["high"]
    assert found["high"] / found["low"] < 1.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": [1.0] * 5}, "parameters: found .* expected 5 finite numbers above 0"),
        ({"tokens": np.full(35, 1e9)}, "tokens: found 1 that differ, expected at least 3"),
        ({"parameters": -SIZES}, "parameters: found .* expected 35 finite numbers above 0"),
        ({"runs": [1, 2]}, "runs: found 2, expected 35"),
    ],
)
def test_points_that_make_no_law_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        losses.fit(**{"parameters": SIZES, "tokens": TOKENS, "losses": measured(0)} | change)


def budget(flops: float, around: float = 1.0, noise: float = 0.0) -> Budget:
    best, _ = TRUE.optimum(flops)
    sizes = best * around * np.geomspace(0.5, 2, 5)
    return Budget(flops, sizes, TRUE.loss(sizes, flops / 6 / sizes) + noise * np.array([1, -1, 1, 1, -1]))


def test_the_frontier_has_the_exponent_of_the_law():
    found = frontier([budget(flops, noise=1e-4) for flops in (1e18, 1e19, 1e20)], draws=50)
    assert found.exponent == pytest.approx(TRUE.exponent, abs=0.02)
    assert found.low < TRUE.exponent < found.high
    assert found.size(1e21) == pytest.approx(TRUE.optimum(1e21)[0], rel=0.1)


@pytest.mark.parametrize(("around", "edge"), [(4, "smallest"), (0.25, "largest")])
def test_a_minimum_at_the_edge_of_its_grid_is_refused_by_name(around, edge):
    with pytest.raises(
        EdgeError, match=rf"budget of 1e\+18 FLOPs: found its lowest loss, .* at the {edge} of its sizes"
    ):
        budget(1e18, around).minimum()
    found = frontier([budget(1e18, around), budget(1e19), budget(1e20)], draws=10)
    assert list(found.refused) == [1e18]
    with pytest.raises(EdgeError, match="1 budgets with a minimum inside their sizes, expected at least 2"):
        frontier([budget(1e18, around), budget(1e19)])


def benchmark(items: int = 2000, rise: float = 1.0) -> TwoStep:
    rng, flops = np.random.default_rng(0), np.geomspace(1e14, 1e17, 8)
    nll = 3 - 0.4 * rise * np.log10(flops / 1e14) + 0.01 * rng.standard_normal(8)
    accuracy = 0.25 + 0.75 / (1 + np.exp(3 * (nll - 1.5)))
    return TwoStep.fit(flops, nll, rng.binomial(items, accuracy) / items, items, 0.25)


def test_a_benchmark_is_predicted_in_two_steps_with_an_interval_through_both():
    found = benchmark().predict(1e18, draws=60)
    loss = 3 - 0.4 * 4
    assert found["why"] is None
    assert found["nll"][1] < loss < found["nll"][2]
    assert found["two_step"][1] < 0.25 + 0.75 / (1 + np.exp(3 * (loss - 1.5))) < found["two_step"][2]
    assert 0 <= found["direct"][1] < found["direct"][2] <= 1


@pytest.mark.parametrize(("items", "rise", "why"), [(40, 0.2, "not told from chance"), (2000, -1.0, "not predictable")])
def test_a_benchmark_near_chance_is_not_predictable(items, rise, why):
    found = benchmark(items, rise).predict(1e18, draws=20)
    assert found["two_step"] is None
    assert found["direct"] is None
    assert why in found["why"]


SLOPES = np.array([[-0.5, 0.3, 0.9, 1.5], [0.4, -0.6, 0.8, 1.6]])


def mixes(runs: int = 60) -> tuple[np.ndarray, np.ndarray]:
    mixtures = np.random.default_rng(0).dirichlet(np.full(4, 0.7), runs)
    return mixtures, 2 + np.exp(mixtures @ SLOPES.T)


def test_a_mixs_law_is_found_again_for_one_target_and_for_several():
    mixtures, found = mixes()
    law = mixing.fit(mixtures, found)
    assert law.predict(mixtures) == pytest.approx(found, abs=2e-3)
    assert mixing.fit(mixtures, found[:, 0]).predict(mixtures) == pytest.approx(found[:, 0], abs=2e-3)
    assert mixing.rank_correlation(law.predict(mixtures)[:, 1], found[:, 1]) > 0.999


def test_the_mix_proposed_is_the_best_within_its_bounds_and_bad_data_gains_least():
    mixtures, found = mixes()
    law = mixing.fit(mixtures, found)
    most = mixing.epoch_bound([1e6, 0.3e6, 1e6, 1e6], budget=2e6, epochs=2)
    best = law.propose(most)
    assert best.sum() == pytest.approx(1)
    assert (best <= most + 1e-9).all()
    drawn = np.random.default_rng(1).dirichlet(np.ones(4), 2000)
    allowed = drawn[(drawn <= most).all(1)]
    assert law.predict([best]).mean() <= law.predict(allowed).mean(1).min() + 1e-6
    assert np.argmin(law.gains(np.full(4, 0.25))) == 3
    proposal = mixing.Proposal.of(law, mixing.bootstrap(mixtures, found, draws=5), np.full(4, 0.25), most)
    assert (proposal.low <= proposal.high).all()


@pytest.mark.parametrize("steepness", [1, 30])
def test_a_mix_is_the_best_however_steep_its_law_and_keeps_its_bounds_to_the_last_digit(steepness):
    rng = np.random.default_rng(0)
    for _ in range(10):
        law = mixing.MixingLaw(np.zeros(3), rng.normal(0, steepness, (3, 5)))
        most = rng.uniform(0.2, 0.9, 5)
        best = law.propose(most)
        assert best.sum() == pytest.approx(1, abs=1e-12)
        assert (best <= most).all()
        assert (best >= 0).all()
        # where the mean's logarithm is convex, no mix within the bounds lies below its tangent here
        parts = np.exp(law.slopes @ best)
        slope = parts @ law.slopes / parts.sum()
        left, lowest = 1.0, 0.0
        for i in np.argsort(slope):
            lowest, left = lowest + min(left, most[i]) * slope[i], left - min(left, most[i])
        assert slope @ best - lowest < 1e-5 * steepness


def test_what_is_no_mix_or_leaves_none_is_refused():
    mixtures, found = mixes()
    with pytest.raises(ValueError, match=r"mixtures: found \[.* as run 0, expected shares that sum to 1"):
        mixing.fit(mixtures * 2, found)
    with pytest.raises(ValueError, match="losses: found the shape"):
        mixing.fit(mixtures, found[:5])
    with pytest.raises(ValueError, match=r"most: found .* expected 4 shares that reach 1 together"):
        mixing.fit(mixtures, found).propose([0.1] * 4)
