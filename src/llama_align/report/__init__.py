"""What a run did, for reading: one self-contained HTML page, and the same table of stages for a terminal."""

from .page import save_best_of_k, write_report
from .reward import reward_pictures
from .terminal import print_stages, stage_table

__all__ = ["print_stages", "reward_pictures", "save_best_of_k", "stage_table", "write_report"]
