"""All failures by name, in the order of the page."""

from . import preferences, pretraining, reinforcement, tuning
from .kinds import Failure

FAILURES: dict[str, Failure] = {
    failure.name: failure for part in (pretraining, tuning, preferences, reinforcement) for failure in part.FAILURES
}
