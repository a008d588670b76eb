"""Checkpoints, programmes and data out to the Hub: cards, licences, an explicit list of files, commits."""
