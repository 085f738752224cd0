"""Asks a served ranker for scores; `python -m export.client` is the command."""
