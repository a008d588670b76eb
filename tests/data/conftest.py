import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports datasets

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def lines(tmp_path):
    """Writes rows as JSON lines and returns the path."""

    def write(*rows: dict, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def shared(monkeypatch):
    """The shared public data; the test is skipped where it is absent."""
    root = Path(os.environ.get("LLAMA_ALIGN_SHARED", PROJECT.parent / "shared"))
    if not (root / "data").is_dir():
        pytest.skip("the shared data is not beside the checkout (set LLAMA_ALIGN_SHARED)")
    monkeypatch.setenv("LLAMA_ALIGN_SHARED", str(root))
    return root / "data"
