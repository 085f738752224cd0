"""Bounds of a day: what it may look like, and how much worse a version may be than the one that serves."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from models.config import Config


class DayBounds(Config):
    """What a day must keep to, or it is refused; and what a candidate must, or the version before goes on serving.

    "Usual" is the median over the last `recent_days` days that were not refused; before there are any, what the dataset
    of the first day says of one of its days.

    Attributes:
        recent_days: days that say what is usual.
        min_pages: pages of a day, whatever is usual.
        min_volume, max_volume: pages, impressions and clicks, over the usual ones.
        min_click_rate, max_click_rate: clicks per impression, over the usual rate.
        max_user_share: share of the day's clicks that one user may have.
        max_duplicates: share of the day's impressions that repeat an item of their page.
        max_join_drop: how far the share of rows whose item, or user, is known may be below the usual one.
        max_picture_drop: how far the share of the catalogue's items with a picture may be below the usual one.
        max_gauc_loss: GAUC that a candidate may lose to the version that serves. Over all pages, it is refused if it
            loses more and the paired 95 % interval of the difference is below zero; in a slice, of which there are
            dozens, if the whole interval is below this.
        max_log_loss_rise: log loss that it may gain over all pages, as a share of that of the version that serves;
            refused if the whole interval is above.
        min_slice_pages: pages with clicked and unclicked candidates that a slice must have to be looked at.
    """

    recent_days: PositiveInt = 7
    min_pages: PositiveInt = 100
    min_volume: NonNegativeFloat = 0.6
    max_volume: float = Field(2.0, gt=0)
    min_click_rate: NonNegativeFloat = 0.5
    max_click_rate: float = Field(2.0, gt=0)
    max_user_share: float = Field(0.2, gt=0, le=1)
    max_duplicates: float = Field(0.05, ge=0, le=1)
    max_join_drop: float = Field(0.05, ge=0, le=1)
    max_picture_drop: float = Field(0.05, ge=0, le=1)
    max_gauc_loss: NonNegativeFloat = 0.01
    max_log_loss_rise: NonNegativeFloat = 0.02
    min_slice_pages: PositiveInt = 100
