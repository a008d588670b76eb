import pytest

from llama_align.sandbox import World


@pytest.fixture(scope="session")
def world():
    return World.generate(0)
