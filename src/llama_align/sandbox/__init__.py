"""A small closed world with an exact judge: corpus, instructions, flawed demonstrations and graded preferences.

Everything is a function of a seed, byte for byte. The package knows no tokenizer and no model, only text.
"""

from llama_align.sandbox.annotators import Annotator, static_preferences
from llama_align.sandbox.corpus import documents
from llama_align.sandbox.demonstrations import DemonstrationNoise, demonstrations
from llama_align.sandbox.judge import Verdict, judge, quality
from llama_align.sandbox.tasks import instructions
from llama_align.sandbox.world import World
from llama_align.sandbox.write import SandboxConfig, write_sandbox

__all__ = [
    "Annotator",
    "DemonstrationNoise",
    "SandboxConfig",
    "Verdict",
    "World",
    "demonstrations",
    "documents",
    "instructions",
    "judge",
    "quality",
    "static_preferences",
    "write_sandbox",
]
