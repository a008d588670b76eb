"""Checkpoints with their code beside the weights, loaded where llama_align is not installed."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import get_relative_import_files

import llama_align
from llama_align.models.portable import AUTO_MAP, MODELING, flat_sources, write_code

HEADS = {
    "AutoModel": llama_align.LlamaHerdModel,
    "AutoModelForCausalLM": llama_align.LlamaHerdForCausalLM,
    "AutoModelForSequenceClassification": llama_align.LlamaHerdForSequenceClassification,
    "AutoModelForTokenClassification": llama_align.LlamaHerdForTokenClassification,
}

# on a machine without the package: what it says of itself, then each checkpoint by its Auto class
FOREIGN = """
import json, sys
try:
    import llama_align
    sys.exit("llama_align is installed here")
except ImportError:
    pass
import torch, transformers
folder = sys.argv[1]
for name in sys.argv[2:]:
    auto = getattr(transformers, name)
    path = f"{folder}/{name}"
    try:
        auto.from_pretrained(path, trust_remote_code=False)
        sys.exit(f"{path} loaded without trust")
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules."), type(config)
    model = auto.from_pretrained(path, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    with torch.no_grad():
        torch.save(model(torch.load(f"{folder}/ids.pt"))[0], f"{folder}/{name}.pt")
    model.save_pretrained(f"{folder}/again-{name}")
"""


@pytest.fixture
def registered(monkeypatch):
    """The heads as `register_for_auto_class` leaves them, taken back after the test."""
    for kind in (*HEADS.values(), llama_align.LlamaHerdConfig):
        monkeypatch.setattr(kind, "_auto_class", None)
    for auto, kind in HEADS.items():
        kind.register_for_auto_class(auto)


def run_without_package(code: str, *arguments: str, cache: Path) -> None:
    """Runs Python with the installed libraries alone: -S leaves out the .pth files of editable installations."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cache),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(cache / "modules"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-S", "-c", code, *arguments]
    ended = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:] + ended.stdout[-1000:]


def saved_heads(folder: Path, tiny_config) -> dict[str, torch.Tensor]:
    """A checkpoint of every head, ids, and the numbers each gives for them."""
    ids = torch.tensor([[30, 40, 50, 60, 70]])
    torch.save(ids, folder / "ids.pt")
    wanted = {}
    for auto, kind in HEADS.items():
        torch.manual_seed(0)
        model = kind(tiny_config(num_labels=3)).eval()
        model.save_pretrained(folder / auto)
        with torch.no_grad():
            wanted[auto] = model(ids)[0]
    return wanted


def test_every_head_loads_and_saves_where_the_package_is_absent(tmp_path, tiny_config, registered):
    wanted = saved_heads(tmp_path, tiny_config)
    run_without_package(FOREIGN, str(tmp_path), *HEADS, cache=tmp_path)
    for auto, logits in wanted.items():
        assert torch.equal(torch.load(tmp_path / f"{auto}.pt"), logits), auto
        # fine-tuned and saved over there, it still carries its code
        again = tmp_path / f"again-{auto}"
        assert json.loads((again / "config.json").read_text())["auto_map"] == AUTO_MAP
        for path in (tmp_path / auto).glob("*.py"):
            assert (again / path.name).read_text() == path.read_text()


def test_a_registered_class_is_saved_with_files_that_transformers_follows(tmp_path, tiny_config, registered):
    llama_align.LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == AUTO_MAP
    written = {path.name for path in tmp_path.glob("*.py")}
    followed = {Path(path).name for path in get_relative_import_files(tmp_path / MODELING.name)}
    assert written == followed | {MODELING.name}
    assert {"configuration_llama_herd.py", "kernels_linear.py"} < written
    assert not list(tmp_path.glob("*.part"))
    for reference in AUTO_MAP.values():
        module, name = reference.split(".")
        assert f"class {name}(" in (tmp_path / f"{module}.py").read_text()


def test_without_registration_no_code_is_saved(tmp_path, tiny_config):
    llama_align.LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_a_checkpoint_that_came_with_its_code_keeps_it(tmp_path, tiny_config, registered, monkeypatch):
    llama_align.LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path / "first")
    for kind in HEADS.values():
        monkeypatch.setattr(kind, "_auto_class", None)
    # installed code is preferred to the checkpoint's, and needs no trust
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert type(model) is llama_align.LlamaHerdForCausalLM
    model.save_pretrained(tmp_path / "second")
    for folder in ("first", "second"):
        assert (tmp_path / folder / MODELING.name).is_file()
        assert json.loads((tmp_path / folder / "config.json").read_text())["auto_map"] == AUTO_MAP


def test_other_processes_write_no_code(tmp_path, tiny_config, registered):
    llama_align.LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.glob("*.py"))


def test_a_registered_configuration_leaves_its_class_as_it_was(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setattr(llama_align.LlamaHerdConfig, "_auto_class", None)
    llama_align.LlamaHerdConfig.register_for_auto_class()
    tiny_config().save_pretrained(tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert found == {"AutoConfig": AUTO_MAP["AutoConfig"]}
    assert (tmp_path / "configuration_llama_herd.py").is_file()
    assert llama_align.LlamaHerdConfig.auto_map == {}


def package(folder: Path, files: dict[str, str]) -> Path:
    """A package `made` with a module models/main.py and others."""
    for name, text in ({"__init__.py": "", "models/__init__.py": "", "kernels/__init__.py": ""} | files).items():
        path = folder / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "made" / "models" / "main.py"


def test_the_closure_is_followed_through_folders_and_functions(tmp_path):
    main = package(
        tmp_path,
        {
            "models/main.py": "import os\nfrom ..kernels.linear import (\n    A,\n)\nfrom .near import C\n\nx = 1\n",
            "models/near.py": "def f():\n    from ..kernels.deep.head import D\n    return D\n",
            "kernels/linear.py": "from .deep.head import D\nfrom ..models.main import x\nA = B = D\n",
            "kernels/deep/head.py": "import torch\nD = 'from ..kernels.linear import'\n",
        },
    )
    sources = flat_sources(main)
    assert sources == {
        "main.py": "import os\nfrom .kernels_linear import (\n    A,\n)\nfrom .near import C\n\nx = 1\n",
        "near.py": "def f():\n    from .kernels_deep_head import D\n    return D\n",
        "kernels_linear.py": "from .kernels_deep_head import D\nfrom .main import x\nA = B = D\n",
        "kernels_deep_head.py": "import torch\nD = 'from ..kernels.linear import'\n",
    }


def test_flat_files_are_their_own_closure(tmp_path):
    write_code(tmp_path)
    flat = flat_sources(tmp_path / MODELING.name)
    assert flat == flat_sources(MODELING)
    assert flat == {path.name: path.read_text() for path in tmp_path.glob("*.py")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nfrom ..kernels import A\n", r"main\.py, line 2: found 'from \.\.kernels import \.\.\.', expected"),
        ("from . import near\n", r"main\.py, line 1: found 'from \. import \.\.\.', expected the import of a module"),
        ("from ..kernels.absent import A\n", r"absent\.py is none"),
        ("from made.kernels.linear import A\n", r"found an import of made\.kernels\.linear, expected a relative one"),
        ("import made\n", r"found an import of made, expected a relative one"),
        (
            "from ..kernels.near import A\nfrom .kernels_near import B\n",
            r"line 2: found .*models/kernels_near\.py, expected another file name; .*kernels/near\.py would be written",
        ),
    ],
)
def test_imports_without_a_flat_form_are_refused(tmp_path, text, message):
    others = dict.fromkeys(("models/near.py", "kernels/near.py", "models/kernels_near.py"), "A = B = 1\n")
    main = package(tmp_path, others | {"models/main.py": text})
    with pytest.raises(ValueError, match=message):
        flat_sources(main)


def test_nothing_here_trusts_the_code_of_a_checkpoint():
    root = Path(__file__).parents[2]
    for path in [*root.glob("src/**/*.py"), *root.glob("recipes/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert not isinstance(node.value, ast.Constant) or not node.value.value, f"{path}, line {node.lineno}"
