"""What the modules for `evaluate` share: how they are described, the types of their columns, Llama 2's citation."""

import evaluate
from datasets import Features, Value

NUMBER, TEXT = Value("float64"), Value("string")  # 0 and 1 as well: an integer column would cut 0.5 to 0 without a word
LLAMA2 = """\
@article{touvron2023llama2,
  title={Llama 2: Open Foundation and Fine-Tuned Chat Models},
  author={Touvron, Hugo and others},
  journal={arXiv preprint arXiv:2307.09288},
  year={2023}
}
"""


def described(description: str, inputs: str, citation: str, **columns: Value) -> evaluate.MetricInfo:
    """The description of a metric whose `compute` takes these columns."""
    return evaluate.MetricInfo(
        description=description, inputs_description=inputs, citation=citation, features=Features(columns)
    )
