"""The command line: what it runs, says and returns."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llama_align import LlamaHerdForCausalLM, cli
from llama_align.cli import ls
from llama_align.runtime.shipped import scripts


@pytest.fixture
def herd(tmp_path, tiny_config) -> Path:
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path / "herd")
    return tmp_path / "herd"


def test_convert_writes_and_says_where(herd, tmp_path, capsys):
    output = tmp_path / "llama"
    options = ["--dtype", "bfloat16", "--max-shard-size", "30KB"]
    assert cli.main(["convert", str(herd), str(output), *options]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    assert json.loads((output / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert len(list(output.glob("*.safetensors"))) > 1
    assert cli.main(["convert", str(output), str(tmp_path / "again"), "--with-code"]) == 0
    assert (tmp_path / "again" / "modeling_llama_herd.py").is_file()


def test_a_mistake_is_one_message_and_code_two(herd, tmp_path, capsys):
    assert cli.main(["convert", str(tmp_path / "absent"), str(tmp_path / "llama")]) == 2
    assert cli.main(["convert", str(herd), str(herd)]) == 2
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["error", "error"]
    assert not said.out


def test_help_names_every_option_and_choice(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("SOURCE", "OUTPUT", "--to {llama,herd,gguf}", "bfloat16", "--overwrite", "--with-code", "examples:"):
        assert word in said
    assert all(len(line) <= 120 for line in said.splitlines())


def test_eval_and_annotate_run_their_recipes(monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    for name, script in (("eval", "evaluate"), ("annotate", "annotate")):
        assert cli.main([name, "--output_dir", "x", "--launch", "ddp", "--temperature", "0"]) == 0
        assert commands[-1][-5:] == [str(scripts()[script]), "--output_dir", "x", "--temperature", "0"]
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert "--max_new_tokens" in capsys.readouterr().out


def test_eval_runs_benchmarks_where_tasks_are_named(monkeypatch, tmp_path, capsys):
    commands = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    config = tmp_path / "benchmark.yaml"
    config.write_text("output_dir: x\ntasks: [mmlu]\n")
    for options in (["--config", str(config)], ["--output_dir", "x", "--tasks", "mmlu"]):
        assert cli.main(["eval", *options]) == 0
        assert str(scripts()["benchmark"]) in commands[-1]
    assert cli.main(["eval", "--config", str(tmp_path / "absent.yaml")]) == 2
    assert "found no file" in capsys.readouterr().err


def test_a_reader_that_stops_and_an_interrupt_are_no_crash(monkeypatch):
    script = f"{sys.executable} -m llama_align ls | true; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True)
    assert (ran.returncode, ran.stderr) == (141, b"")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ls, "main", interrupted)
    assert cli.main(["ls"]) == 130


@pytest.mark.parametrize("args", [[], ["transmute"], ["convert"], ["convert", "a", "b", "--dtype", "int8"]])
def test_unknown_commands_and_options_end_with_code_two(args, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    assert ended.value.code == 2
    assert "usage: llama-align" in capsys.readouterr().err


def test_the_package_runs_as_a_module_and_as_an_installed_command():
    ran = subprocess.run([sys.executable, "-m", "llama_align", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "llama_align 0.1.0\n")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"llama-align": "llama_align.cli:main"}
