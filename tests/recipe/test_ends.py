"""How recipes end: one line for an interrupt or an early stop, and codes that tell them apart."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from llama_align import recipe

ROOT = Path(__file__).parents[2]


@dataclass
class Options:
    seed: int = 0


@dataclass
class Resumes:
    resume_from_checkpoint: str | None = None


def ends(monkeypatch, capsys, error: BaseException, *types: type) -> tuple[int, str]:
    def main(*_):
        raise error

    monkeypatch.setattr(sys, "argv", ["recipe.py"])
    with pytest.raises(SystemExit) as end:
        recipe.run(main, *types)
    return end.value.code, capsys.readouterr().err


def test_an_interrupt_ends_in_one_line_that_says_how_to_go_on(monkeypatch, capsys):
    assert ends(monkeypatch, capsys, KeyboardInterrupt(), Options) == (130, "interrupted; the same command goes on\n")
    assert ends(monkeypatch, capsys, KeyboardInterrupt(), Options, Resumes) == (
        130,
        "interrupted; the same command goes on, with resume_from_checkpoint: last from the newest checkpoint\n",
    )
    code, line = ends(monkeypatch, capsys, KeyboardInterrupt("step 'sft' was at work; goes on"), Options)
    assert (code, line) == (130, "interrupted; step 'sft' was at work; goes on\n")
    monkeypatch.setenv("RANK", "1")
    assert ends(monkeypatch, capsys, KeyboardInterrupt(), Options) == (130, ""), "once for all processes"


def test_an_early_stop_has_a_code_of_its_own(monkeypatch, capsys):
    found = ends(monkeypatch, capsys, recipe.StoppedEarly("stopped early at step 3 of 5"), Options)
    assert found == (recipe.STOPPED_EARLY, "stopped early at step 3 of 5\n")
    assert recipe.STOPPED_EARLY == os.EX_TEMPFAIL


def test_a_gate_that_stays_shut_has_a_code_of_its_own(monkeypatch, capsys):
    found = ends(monkeypatch, capsys, recipe.GateShut("stages[1], long: its gate is shut"), Options)
    assert found == (recipe.GATE_SHUT, "stages[1], long: its gate is shut\n")
    assert recipe.GATE_SHUT not in (0, 1, 2, recipe.STOPPED_EARLY, 130)


def test_an_interrupted_chain_says_so_in_one_line_and_in_its_overview(tmp_path):
    steps = [{"name": "world", "recipe": "sandbox", "set": {"documents": 10**6}}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"steps": steps}))
    command = [sys.executable, ROOT / "recipes" / "rounds.py", "--plan", tmp_path / "plan.yaml"]
    process = subprocess.Popen(
        [*command, "--output_dir", tmp_path / "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # tests started in the background inherit an ignored SIGINT, which Python leaves ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    def status() -> str:
        overview = tmp_path / "run" / "run.json"
        return json.loads(overview.read_text())["steps"][0]["status"] if overview.is_file() else ""

    until = time.monotonic() + 120
    while status() != "running":
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the step gets it, too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted; step 'world' was at work; the same command goes on from here\n"
    assert "Traceback" not in out
    assert status() == "stopped"
