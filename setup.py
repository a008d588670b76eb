"""Puts what stands at the top of a checkout into the wheel, inside the package (llama_align.runtime.shipped)."""

from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("recipes", "accelerate_configs", "data_cards")


class WithFiles(build_py):
    def run(self):
        super().run()
        for name in () if self.editable_mode else SHIPPED:
            to = Path(self.build_lib, "llama_align", "files", name)
            copytree(name, to, ignore=ignore_patterns("__pycache__"), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithFiles})
