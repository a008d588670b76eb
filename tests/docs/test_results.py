"""Tables of results that were made of kept files are those files' tables."""

import re
import subprocess
import sys

import pytest

from .reading import ROOT

PAGE = ROOT / "docs/results/programmes.md"
COMMANDS = re.findall(r"^    python (benchmarks/programmes\.py tables .+)$", PAGE.read_text(), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_programmes_page_has_the_tables_of_its_files(command, tmp_path):
    words = []
    for word in command.split():
        word = str(tmp_path / "picture.svg") if word.endswith(".svg") else word
        words += sorted(map(str, ROOT.glob(word))) if "?" in word else [word]
    made = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert not set(rows) - set(PAGE.read_text().splitlines())
