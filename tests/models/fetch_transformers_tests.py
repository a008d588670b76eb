"""Unpacks the tests that transformers ships in its source archive, for the version installed beside this interpreter.

usage: python tests/models/fetch_transformers_tests.py [FOLDER]   (default: inside the virtual environment)

pip brings the archive from wherever it is set up to look. The archive holds the common tests of models, but neither
transformers' tests of single models nor those of `generate`.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath


def default_folder() -> Path:
    return Path(sys.prefix, "transformers-tests", version("transformers"))


def unpack(archive: Path, folder: Path) -> int:
    """Writes the Python files below the archive's `tests/` into `folder`; returns how many there were."""
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("__init__.py").touch()
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or parts[1:2] != ("tests",) or ".." in parts or not member.name.endswith(".py"):
                continue
            path = folder.joinpath(*parts[2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
            count += 1
    return count


def main(folder: Path) -> None:
    """Fetches and unpacks them, unless they are there; without a network the tests that need them are skipped."""
    if folder.is_dir():
        return
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        done = subprocess.run([*pip, "--dest", temporary, f"transformers=={version('transformers')}"], check=False)
        archives = list(Path(temporary).glob("transformers-*.tar.gz"))
        if done.returncode or not archives:
            print("transformers' source archive could not be had; its tests will be skipped", file=sys.stderr)
            return
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        print(f"{unpack(archives[0], part)} files of transformers' tests in {folder}")
        part.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder())
