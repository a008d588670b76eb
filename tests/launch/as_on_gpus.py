"""Runs a script as on GPUs, where two libraries do less without one: `accelerate launch ... as_on_gpus.py recipes/...`.

accelerate 1.15 reads FSDP settings for groups of GPU processes alone, and leaves them out over gloo without a word;
transformers 5.23 takes bf16 without a GPU only with `use_cpu`, with which accelerate leaves DeepSpeed out. Here the
group has another name when accelerate looks, and bf16 is said to be there. What follows (sharding, gathering, casting,
clipping, checkpoints) is their own code and torch's.
"""

import runpy
import sys

from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from transformers import training_args

initialise = AcceleratorState.__init__


def among_gpus(self, *args, **kwargs) -> None:
    if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    initialise(self, *args, **kwargs)


if __name__ == "__main__":
    AcceleratorState.__init__ = among_gpus
    training_args.is_torch_bf16_gpu_available = lambda: True
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
