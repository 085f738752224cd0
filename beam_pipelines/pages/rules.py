"""The choices that shape pages, as the build's options state them."""

import dataclasses
from collections.abc import Mapping

from beam_pipelines.format.records import HISTORIES
from beam_pipelines.options import PretrainingKind
from beam_pipelines.pages.item_statistics import DAY_MS

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


@dataclasses.dataclass(frozen=True)
class PageRules:
    """What belongs to a page; `pages` says what the rules mean.

    Attributes:
        split_times: pages before the first moment are `pretrain`, before the second `train`, the rest `test`; `None`
            if impressions have a `split` column.
        page_gap_minutes: the longest pause within a page.
        split_reused_pages: whether a page ID that is used again, by another user or after such a pause, names several
            pages; if not, its rows are rejected.
        click_days, pay_days: how far back these histories reach.
        same_category_clicks: whether the click history keeps the page's category only.
        attribution_hours: how long after an impression a `click` event still makes it clicked; `None` if the `clicked`
            column alone says so.
        train_negatives: share of the unclicked candidates of train pages that is kept.
        max_candidates: candidates kept per page, the first ones.
        limits: steps kept per history.
    """

    split_times: tuple[int, int] | None
    page_gap_minutes: float = 60.0
    split_reused_pages: bool = False
    click_days: int = 183
    pay_days: int = 730
    same_category_clicks: bool = False
    attribution_hours: float | None = None
    train_negatives: float = 1.0
    max_candidates: int = 1000
    limits: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(HISTORIES))

    def reach(self, history: str) -> int:
        """How far back a history reaches, in milliseconds."""
        return DAY_MS * {"click": self.click_days, "pay": self.pay_days}[history]


@dataclasses.dataclass(frozen=True)
class PretrainingRules:
    """What encoder pre-training sees (paper, section 4.2.1).

    Attributes:
        kind: `page`: the pretrain pages, trimmed. `causal`: every click once as the target of the clicks before it
            (paper, appendix C).
        negatives: share of the unclicked candidates that is kept; `page` only.
        candidates, clicks: the largest numbers on a page.
        categories: categories of the items that are kept; all if empty.
        end: clicks from this moment on are no targets; `causal` only.
    """

    kind: PretrainingKind = "page"
    negatives: float = 0.2
    candidates: int = 5
    clicks: int = 5
    categories: tuple[str, ...] = ()
    end: int = 0
