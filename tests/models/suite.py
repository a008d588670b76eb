"""transformers' own model tests as modules: `load("test_modeling_common")`.

They lie in a folder outside the checkout (see fetch_transformers_tests.py), named by LLAMA_ALIGN_TRANSFORMERS_TESTS
where it is not the default. What their source archive leaves out is stood in for, so that the rest can be imported.
"""

import importlib
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from . import ranks
from .fetch_transformers_tests import default_folder

FOLDER = Path(os.environ.get("LLAMA_ALIGN_TRANSFORMERS_TESTS") or default_folder())
PACKAGE = "transformers_tests"  # their own name for it, `tests`, is that of ours

_STAND_INS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "distributed_testing_utils": {
        "run_distributed": ranks.run_distributed,
        "_start_rank_processes": ranks.start_processes,
        "_get_distributed_backend": lambda: "gloo",
        "_get_distributed_device_type": lambda: "cpu",
        "_get_rank_device": lambda rank: torch.device("cpu"),
        "_set_rank_device": lambda rank: None,
    },
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 3,
            "architectures": ["LlamaHerdForCausalLM"],
            "bos_token_id": 7,
            "pad_token_id": 8,
            "eos_token_id": 9,
            "problem_type": "regression",
        }
    },
}


def _module(name: str, folder: Path | None = None, **contents) -> None:
    module = ModuleType(name)
    module.__path__ = [str(folder)] if folder else []
    vars(module).update(contents)
    sys.modules[name] = module


def _stand_in() -> None:
    for name, contents in _STAND_INS.items():
        path = Path(*name.split("."))
        if not (FOLDER / path).with_suffix(".py").exists():
            if path.parent.name and not (FOLDER / path.parent).is_dir():
                _module(f"{PACKAGE}.{path.parent.name}")
            _module(f"{PACKAGE}.{name}", **contents)


def load(*names: str) -> list[ModuleType]:
    """Modules of transformers' tests by name; the importing module is skipped where they are absent."""
    if not (FOLDER / "test_modeling_common.py").is_file():
        pytest.skip(f"transformers' tests are not in {FOLDER}; `make test` fetches them", allow_module_level=True)
    pytest.importorskip("parameterized", reason="transformers' tests need the package parameterized")
    if PACKAGE not in sys.modules:
        _module(PACKAGE, FOLDER)
        _stand_in()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)  # their marks choose jobs of their own CI
        return [importlib.import_module(f"{PACKAGE}.{name}") for name in names]
