"""Options of `llama-align budget`."""

import argparse

from .devices import KNOWN
from .laws import LAWS
from .published import PRESETS

BUDGET = """\
What a pretraining run costs: from parameters, tokens, FLOPs or hours on a device, the rest.

Of one quantity the others follow at the least loss (Chinchilla's law); of two the third; of a size, tokens and hours
the utilisation. Beside it: models of the same loss that are smaller and read more, with the inference they save, and
the memory of each device by stage of ZeRO. Numbers may end in K, M, B or T. docs/budget.md has the formulas.
"""
BUDGET_EXAMPLES = """\
examples:
  Llama 3's 405B on 16,384 H100
    llama-align budget --size llama-3.1-405b --tokens 15.6T --devices 16384

  the best model for a week on eight H100, with a picture
    llama-align budget --hours 168 --devices 8 --picture budget.svg

  how well Llama 2's devices were used
    llama-align budget --size llama-2-70b --tokens 2T --device A100 --hours 1720320
"""
ENDINGS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def number(text: str) -> float:
    """15.6T, 7B or 3.8e25. Raises ValueError for anything else."""
    factor = ENDINGS.get(text[-1:].upper(), 1)
    return float(text[:-1] if factor > 1 else text) * factor


def device(text: str) -> str | float:
    """A name, or FLOP/s."""
    try:
        return number(text)
    except ValueError:
        return text


def add_options(one: argparse.ArgumentParser) -> None:
    """What `budget` takes, by the same names, and where to draw the picture."""
    one.description, one.epilog = BUDGET, BUDGET_EXAMPLES
    one.add_argument("--size", metavar="NAME", help=f"a preset: {', '.join(PRESETS)}")
    one.add_argument("--parameters", type=number, metavar="N", help="of a model that is no preset")
    one.add_argument("--tokens", type=number, metavar="N", help="of training")
    one.add_argument("--flops", type=number, metavar="N", help="of training, as papers count them: 6 N D")
    one.add_argument("--hours", type=number, metavar="N", help="that all devices run")
    names = ", ".join(dict.fromkeys(pattern for pattern, _ in KNOWN))
    one.add_argument("--device", type=device, default="H100", help=f"a known one ({names}) or its FLOP/s")
    one.add_argument("--devices", type=int, default=1, metavar="N", help="how many (default: 1)")
    one.add_argument("--mfu", type=float, metavar="SHARE", help="of the peak that is reached (default: 0.40)")
    one.add_argument("--context", type=int, metavar="N", help="tokens of a row (default: of the size's pretraining)")
    one.add_argument("--law", default="refit", choices=[*LAWS], help="of loss (default: refit)")
    one.add_argument("--picture", metavar="FILE", help="an SVG of models of the same loss, to write")
