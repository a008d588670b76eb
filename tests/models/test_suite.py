"""The tests that transformers ships: unpacked from an archive, and skipped with a reason where they are absent."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

from .fetch_transformers_tests import default_folder, unpack


def test_only_the_python_files_of_the_tests_are_unpacked_and_none_outside_the_folder(tmp_path):
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        for name in ("tests/test_a.py", "tests/deep/b.py", "tests/c.bin", "src/tests/d.py", "tests/../../e.py"):
            member = tarfile.TarInfo(f"transformers-0/{name}")
            member.size = 5
            archive.addfile(member, io.BytesIO(b"x = 1"))
    folder = tmp_path / "in" / "side"
    assert unpack(tmp_path / "archive.tar.gz", folder) == 2
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py")}
    assert found == {"in/side/__init__.py", "in/side/test_a.py", "in/side/deep/b.py"}


def test_their_default_place_is_the_virtual_environment():
    assert default_folder().is_relative_to(sys.prefix)


def test_without_them_the_module_is_skipped_and_says_where_they_would_be(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_ALIGN_TRANSFORMERS_TESTS", str(tmp_path))
    module = Path(__file__).with_name("test_common.py")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stdout + done.stderr  # nothing collected
    assert f"transformers' tests are not in {tmp_path}; `make test` fetches them" in done.stdout
