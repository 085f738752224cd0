"""Asks a served ranker for scores: `RankerClient(address).rank(page)`, or `python -m export.client`."""

from export.client.page import History, Page, PageError
from export.client.ranker_client import RankerClient, RankerError

__all__ = ["History", "Page", "PageError", "RankerClient", "RankerError"]
