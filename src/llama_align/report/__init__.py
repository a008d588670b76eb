"""What a run did, for reading: one self-contained HTML page, and the same table of stages for a terminal."""

from llama_align.report.page import write_report
from llama_align.report.terminal import print_stages, stage_table

__all__ = ["print_stages", "stage_table", "write_report"]
