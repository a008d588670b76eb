"""How often the loss law's 95% intervals hold the constants that made the points.

    python benchmarks/scaling_coverage.py --sets 100 --noise 0 0.01 --output results/coverage.json

Every set draws its own constants, about Chinchilla's, and has 7 sizes from 3M to 3B with 5, 10, 20, 40 and 80 tokens a
parameter. With 100 sets 95 is measured as 90 to 99 (95% of binomial draws).
"""

import argparse
import json
from pathlib import Path

import numpy as np

from llama_align.scaling import losses
from llama_align.sizes.laws import Law


def constants(rng: np.random.Generator) -> Law:
    a, b = np.exp(rng.uniform(np.log([200, 500]), np.log([800, 4000])))
    return Law(rng.uniform(1.5, 2), a, b, rng.uniform(0.28, 0.42), rng.uniform(0.28, 0.42))


def held(noise: float, rng: np.random.Generator) -> dict[str, bool]:
    """Of one set, by constant, whether its interval holds it."""
    true = constants(rng)
    sizes = np.repeat(np.geomspace(3e6, 3e9, 7), 5)
    tokens = np.tile([5, 10, 20, 40, 80], 7) * sizes
    measured = true.loss(sizes, tokens) * np.exp(noise * rng.standard_normal(sizes.size))
    found = losses.fit(sizes, tokens, measured).intervals()
    return {name: bool(found[name][0] <= value <= found[name][1]) for name, value in true.constants.items()}


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01], help="standard deviation of log L")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = {}
    for noise in args.noise:
        rng, sets = np.random.default_rng(args.seed), []
        for number in range(1, args.sets + 1):
            sets.append(held(noise, rng))
            if number % 10 == 0 or number == args.sets:
                counts = {name: sum(one[name] for one in sets) for name in sets[0]}
                print(f"noise {noise:g}, {number} sets: {counts}", flush=True)
        found[str(noise)] = {"sets": len(sets), "held": {name: sum(one[name] for one in sets) for name in sets[0]}}
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
