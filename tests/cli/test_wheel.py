"""The wheel, installed where no checkout is: what it lists, copies, looks at and runs."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("src", "recipes", "accelerate_configs", "data_cards")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed")


def call(*command, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """`bin` of an environment with the wheel, and what it depends on from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / "copy")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, folder / "copy", cwd=folder)
    shutil.rmtree(folder / "copy")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    call(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return python.parent


def test_a_wheel_gives_everything(installed, tmp_path):
    command = installed / "llama-align"
    where = call(installed / "python", "-c", "import llama_align; print(llama_align.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert "herd-nano" in call(command, "ls", cwd=tmp_path)
    call(command, "cp", "herd-nano", "mine", cwd=tmp_path)
    assert "mine/rounds.yaml: a plan, nothing wrong" in call(command, "validate", "mine/rounds.yaml", cwd=tmp_path)
    sizes = ("--documents", "20", "--prompts", "10", "--preferences", "10", "--demonstrations", "10")
    call(command, "run", "sandbox", "--config", "mine/sandbox.yaml", "--output_dir", "out", *sizes, cwd=tmp_path)
    assert len((tmp_path / "out" / "corpus.jsonl").read_text().splitlines()) == 20
    plan = call(command, "rounds", "dry-run", "mine/rounds.yaml", cwd=tmp_path)
    assert "[1/17] sandbox (sandbox): run" in plan


def test_the_wheel_has_every_file_once_and_git_has_no_copy(installed):
    (files,) = installed.parent.glob("lib/python*/site-packages/llama_align/files")
    for name in SOURCES[1:]:
        there = {path.relative_to(files) for path in (files / name).rglob("*") if path.suffix not in ("", ".pyc")}
        own = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.suffix not in ("", ".pyc")}
        assert there == own
    assert not (ROOT / "src" / "llama_align" / "files").exists()
