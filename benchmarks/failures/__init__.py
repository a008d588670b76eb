"""Failures made on purpose, each beside the healthy run from the same start: see docs/troubleshooting.md."""
