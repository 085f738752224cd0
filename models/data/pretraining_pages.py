"""Pages as encoder pre-training sees them: a few candidates, a few clicks, and their distinct pictures."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import PRETRAINING, Window
from models.data.dataset import Dataset
from models.data.pages import PADDING, PageLengths, page_batches

_PARSED_TOGETHER = 512  # pages; parsing and trimming are vectorised over them
_WHOLE = "pretrain"  # the split whose pages are validated on as they were shown


def trim_page(
    page: dict[str, tf.Tensor], picture_of_item: tf.Tensor, candidates: int, clicks: int
) -> dict[str, tf.Tensor]:
    """Trims pages to the pictures that pre-training uses.

    Candidates without picture leave; clicked ones come first, the order is kept otherwise, and the first `candidates`
    stay. Of the latest `clicks` clicks, those with a picture stay.

    Args:
        page: from `parse_pages`, batched.
        picture_of_item: int32 `(items,)`, -1 without picture.
        candidates: candidates per page.
        clicks: history clicks per page.

    Returns:
        `candidate_picture`, int32 `(batch, candidates)`, and `click_picture`, int32 `(batch, clicks)`, newest first:
        picture numbers, -1 = padding, at the end; `clicked`, bool `(batch, candidates)`; `timestamp`, `(batch,)`.

    Reference: COURIER, section 4.2.1.
    """

    def pictures(items: tf.Tensor) -> tf.Tensor:
        return tf.where(items == PADDING, PADDING, tf.gather(picture_of_item, tf.maximum(items, 0)))

    def ordered(order: tf.Tensor, length: int, *tensors: tf.Tensor) -> list[tf.Tensor]:
        first = tf.argsort(order, stable=True)[:, :length]
        missing = length - tf.shape(first)[1]
        padding = [[0, 0], [0, tf.maximum(missing, 0)]]
        return [
            tf.ensure_shape(tf.pad(tf.gather(t, first, batch_dims=1), padding, constant_values=fill), (None, length))
            for t, fill in zip(tensors, (PADDING, False), strict=False)
        ]

    candidate = pictures(page["item"])
    clicked = (page["clicked"] == 1) & (candidate != PADDING)
    order = tf.where(clicked, 0, tf.where(candidate != PADDING, 1, 2))
    candidate, clicked = ordered(order, candidates, candidate, clicked)
    click = pictures(page["click_item"][:, :clicks])
    (click,) = ordered(tf.cast(click == PADDING, tf.int32), clicks, click)
    return {"candidate_picture": candidate, "clicked": clicked, "click_picture": click, "timestamp": page["timestamp"]}


def distinct_pictures(pages: dict[str, tf.Tensor], read: Callable[[tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
    """Reads each picture of a batch once.

    Args:
        pages: `candidate_picture`, `click_picture` and `clicked` of `trim_page`.
        read: picture numbers `(n,)` to pictures uint8 `(n, height, width, 3)`.

    Returns:
        `pictures`, uint8 `(distinct, height, width, 3)`; `candidate_picture` and `click_picture` as rows of
        `pictures`, -1 = padding; `clicked`.
    """
    shapes = [tf.shape(pages["candidate_picture"]), tf.shape(pages["click_picture"])]
    numbers = tf.concat([tf.reshape(pages["candidate_picture"], [-1]), tf.reshape(pages["click_picture"], [-1])], 0)
    present = numbers != PADDING
    distinct, row = tf.unique(tf.boolean_mask(numbers, present))
    rows = tf.tensor_scatter_nd_update(tf.fill(tf.shape(numbers), PADDING), tf.where(present), row)
    candidate, click = tf.split(rows, [tf.reduce_prod(shape) for shape in shapes])
    return {
        "pictures": read(distinct),
        "candidate_picture": tf.ensure_shape(tf.reshape(candidate, shapes[0]), pages["candidate_picture"].shape),
        "click_picture": tf.ensure_shape(tf.reshape(click, shapes[1]), pages["click_picture"].shape),
        "clicked": pages["clicked"],
    }


class PretrainingPages:
    """The pages of the pre-training view, divided by time into training and validation pages.

    A page is usable if a clicked candidate and one of its latest clicks have a picture. The view promises both for
    the pictures that the logs name; a picture that could not be stored can still be missing. Such pages are counted
    and left out.

    Args:
        dataset: the page dataset.
        picture_of_item: int32 `(items,)`, -1 without picture.
        candidates: candidates per page, at most those of the view.
        clicks: history clicks per page, at most those of the view.
        validation_share: share of the usable pages, the latest ones, that is kept for validation.

    Attributes:
        counts: `pages`, `without_history_picture`, `without_clicked_picture` (of the rest), `usable`.
        training, validation: number of pages of each.
        window: when the pages were shown that the encoder learns on or is selected by.

    Raises:
        CommandError: there is no view, it is smaller than asked for, or there are no whole pages to validate on.
    """

    def __init__(
        self,
        dataset: Dataset,
        picture_of_item: np.ndarray,
        *,
        candidates: int,
        clicks: int,
        validation_share: float,
    ) -> None:
        self.dataset = dataset
        self.view = dataset.pretraining_view()
        for name, asked, largest in (
            ("candidates", candidates, self.view.max_candidates),
            ("clicks", clicks, self.view.max_clicks),
        ):
            if asked > largest:
                raise CommandError(
                    f"{name}: must be at most the {largest} per page that {dataset.path} was built with; build it with "
                    f"--pretraining-{name} {asked}. Received: {asked}"
                )
        whole = dataset.split(_WHOLE) if validation_share else None
        self.candidates = candidates
        self.clicks = clicks
        self._picture_of_item = tf.constant(picture_of_item)
        self.counts, timestamps = self._scan()
        timestamps.sort()
        validation = round(len(timestamps) * validation_share)
        first, last = self.view.window.first, self.view.window.last
        # Pages of one moment stay together.
        boundary = int(timestamps[-validation]) if validation else last + 1
        if whole is not None:
            last = max(last, whole.window.last)
        self.window = Window(first=first, last=last)
        self._training_window = Window(first=first, last=boundary - 1)
        self._validation_window = Window(first=boundary, last=last)
        self.training = int(np.searchsorted(timestamps, boundary))
        self.validation = len(timestamps) - self.training

    def training_batches(
        self,
        read: Callable[[tf.Tensor], tf.Tensor],
        *,
        batch_size: int,
        seed: int,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    ) -> tf.data.Dataset:
        """Endless shuffled batches of training pages.

        Args:
            read: picture numbers to pictures, see `PictureStore.read`.
            batch_size: pages per batch.
            seed: of the shuffling.
            augment: changes a batch of distinct pictures, given the batch's number.

        Returns:
            Batches of `distinct_pictures`.
        """
        pages = self._usable(self._training_window, self.candidates, self.clicks, shuffle_seed=seed).repeat()
        batches = pages.rebatch(batch_size).map(
            lambda page: distinct_pictures(page, read), num_parallel_calls=tf.data.AUTOTUNE
        )
        if augment is not None:
            batches = batches.enumerate().map(
                lambda number, batch: {**batch, "pictures": augment(batch["pictures"], number)},
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        return batches.prefetch(tf.data.AUTOTUNE)

    def validation_batches(self, read: Callable[[tf.Tensor], tf.Tensor], *, batch_size: int) -> tf.data.Dataset:
        """The whole batches of validation pages, again and again in the same order: batches of `distinct_pictures`."""
        pages = self._usable(self._validation_window, self.candidates, self.clicks)
        pages = pages.rebatch(batch_size, drop_remainder=True).repeat()
        return pages.map(lambda page: distinct_pictures(page, read)).prefetch(tf.data.AUTOTUNE)

    def validation_pages(self, *, clicks: int, limit: int) -> dict[str, np.ndarray]:
        """Whole pages of the split `pretrain`, as late as the validation pages: every candidate with a picture and the
        latest `clicks` clicks.

        Returns:
            `candidate_picture`, `clicked` and `click_picture` of `trim_page` for the first `limit` pages.

        Raises:
            CommandError: there are none.
        """
        pages = self._usable(self._validation_window, self.dataset.manifest.max_candidates, clicks, split=_WHOLE)
        batches = list(pages.unbatch().take(limit).batch(_PARSED_TOGETHER).as_numpy_iterator())
        if not batches:
            raise CommandError(
                f"validation_share: no usable page of {self.dataset.path} in split `{_WHOLE}` is as late as the pages "
                "kept for validation; raise it, or 0 for none"
            )
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _scan(self) -> tuple[dict[str, int], np.ndarray]:
        counts = {"pages": 0, "without_history_picture": 0, "without_clicked_picture": 0, "usable": 0}
        timestamps = []
        with tqdm(total=self.view.pages, desc="reading pages", unit="page") as progress:
            for page in self._trimmed(None, self.candidates, self.clicks).as_numpy_iterator():
                history = (page["click_picture"] != PADDING).any(axis=1)
                positive = page["clicked"].any(axis=1)
                counts["pages"] += len(history)
                counts["without_history_picture"] += int((~history).sum())
                counts["without_clicked_picture"] += int((history & ~positive).sum())
                timestamps.append(page["timestamp"][history & positive])
                progress.update(len(history))
        timestamps = np.concatenate(timestamps)
        counts["usable"] = len(timestamps)
        return counts, timestamps

    def _trimmed(
        self,
        window: Window | None,
        candidates: int,
        clicks: int,
        shuffle_seed: int | None = None,
        split: str = PRETRAINING,
    ) -> tf.data.Dataset:
        longest = self.view.max_candidates if split == PRETRAINING else self.dataset.manifest.max_candidates
        lengths = PageLengths(candidates=longest, click=clicks, pay=0, cart=0)
        batches = page_batches(
            self.dataset, split, lengths, batch_size=_PARSED_TOGETHER, window=window, shuffle_seed=shuffle_seed
        )
        trimmed = batches.map(
            lambda page: trim_page(page, self._picture_of_item, candidates, clicks),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return trimmed.prefetch(tf.data.AUTOTUNE)

    def _usable(
        self, window: Window, candidates: int, clicks: int, shuffle_seed: int | None = None, split: str = PRETRAINING
    ) -> tf.data.Dataset:
        def usable(page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            history = tf.reduce_any(page["click_picture"] != PADDING, axis=1)
            keep = history & tf.reduce_any(page["clicked"], axis=1)
            return {name: tf.boolean_mask(page[name], keep) for name in page if name != "timestamp"}

        trimmed = self._trimmed(window, candidates, clicks, shuffle_seed, split)
        return trimmed.map(usable, num_parallel_calls=tf.data.AUTOTUNE)
