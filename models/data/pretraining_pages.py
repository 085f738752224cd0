"""Pages as encoder pre-training sees them: a few candidates, a few clicks, and their distinct pictures."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from beam_pipelines.format.manifest import PRETRAINING, Window
from beam_pipelines.shell.command import CommandError
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import PADDING, PageLengths, page_batches

_PARSED_TOGETHER = 512  # pages; parsing and trimming are vectorised over them
_BUCKETS = 32  # numbers of distinct pictures that a batch can have
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

    Their number is rounded up to a multiple of a share of what the pages have room for, so that the batches of a run
    have few shapes: an encoder is compiled once for each. The pictures added are black, and nothing refers to them.

    Args:
        pages: `candidate_picture`, `click_picture` and `clicked` of `trim_page`.
        read: picture numbers `(n,)` to pictures uint8 `(n, height, width, 3)`.

    Returns:
        `pictures`, uint8 `(n, height, width, 3)`; `picture_id`, int32 `(n,)`, their numbers in the store, -1 = added;
        `candidate_picture` and `click_picture` as rows of `pictures`, -1 = padding; `clicked`.
    """
    shapes = [tf.shape(pages["candidate_picture"]), tf.shape(pages["click_picture"])]
    numbers = tf.concat([tf.reshape(pages["candidate_picture"], [-1]), tf.reshape(pages["click_picture"], [-1])], 0)
    present = numbers != PADDING
    distinct, row = tf.unique(tf.boolean_mask(numbers, present))
    rows = tf.tensor_scatter_nd_update(tf.fill(tf.shape(numbers), PADDING), tf.where(present), row)
    candidate, click = tf.split(rows, [tf.reduce_prod(shape) for shape in shapes])
    bucket = -(-tf.size(numbers) // _BUCKETS)
    added = -tf.size(distinct) % bucket
    pictures = read(distinct)
    return {
        "pictures": tf.pad(pictures, [[0, added], *[[0, 0]] * (pictures.shape.rank - 1)]),
        "picture_id": tf.pad(distinct, [[0, added]], constant_values=PADDING),
        "candidate_picture": tf.ensure_shape(tf.reshape(candidate, shapes[0]), pages["candidate_picture"].shape),
        "click_picture": tf.ensure_shape(tf.reshape(click, shapes[1]), pages["click_picture"].shape),
        "clicked": pages["clicked"],
    }


class PretrainingPages:
    """The pages of the pre-training view, divided by time into training and validation pages.

    A page is usable if a clicked candidate and one of its latest clicks have a picture. The view promises both for
    the pictures that the logs name; a picture that could not be stored can still be missing. Such pages are counted
    and left out.

    The trimmed pages stay in memory: 45 bytes for each page of 5 candidates and 5 clicks, 4.5 GB for 100 million.

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
        self.counts, usable = self._scan()
        time = usable.pop("timestamp")
        timestamps = np.sort(time)
        validation = round(len(timestamps) * validation_share)
        first, last = self.view.window.first, self.view.window.last
        # Pages of one moment stay together.
        boundary = int(timestamps[-validation]) if validation else last + 1
        if whole is not None:
            last = max(last, whole.window.last)
        self.window = Window(first=first, last=last)
        self._validation_window = Window(first=boundary, last=last)
        self._training, self._validation = (
            {name: tf.constant(values[kept]) for name, values in usable.items()}
            for kept in (time < boundary, time >= boundary)
        )
        self.training, self.validation = int((time < boundary).sum()), int((time >= boundary).sum())

    def training_batches(
        self,
        read: Callable[[tf.Tensor], tf.Tensor],
        *,
        batch_size: int,
        seed: int,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        first_step: int = 0,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Endless shuffled batches of training pages.

        What a step learns on depends on `seed` and the step's number alone: a run that starts at `first_step`
        continues another one exactly, at no cost. Each pass has every page once, in an order of its own.

        Args:
            read: picture numbers to pictures, see `PictureStore.read`.
            batch_size: pages per step, over all replicas.
            seed: of the shuffling.
            augment: changes a batch of distinct pictures, given the batch's number.
            first_step: number of steps to leave out.
            context: this worker among others; the pages of a step are divided between the replicas.

        Returns:
            Batches of `distinct_pictures`: of each step, one for each replica of this worker.
        """
        pages = self.training

        def numbers(positions: tf.Tensor) -> tf.Tensor:
            passes = positions // pages
            seeds = tf.stack([tf.fill(tf.shape(passes), tf.constant(seed, tf.int64)), passes, tf.zeros_like(passes)], 1)
            last = tf.constant(pages - 1, tf.int64)
            # `tf.random.experimental.index_shuffle` cannot take a seed for each position, although it says so.
            return tf.raw_ops.RandomIndexShuffle(index=positions % pages, seed=seeds, max_index=last, rounds=4)

        return self._batches(self._training, numbers, read, batch_size, augment, first_step, context)

    def validation_batches(
        self,
        read: Callable[[tf.Tensor], tf.Tensor],
        *,
        batch_size: int,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """The whole batches of validation pages, again and again in the same order; see `training_batches`."""
        pages = self.validation // batch_size * batch_size
        return self._batches(self._validation, lambda positions: positions % pages, read, batch_size, None, 0, context)

    def validation_pages(self, *, clicks: int, limit: int) -> dict[str, np.ndarray]:
        """Whole pages of the split `pretrain`, as late as the validation pages: every candidate with a picture and the
        latest `clicks` clicks.

        Returns:
            `candidate_picture`, `clicked` and `click_picture` of `trim_page` for the first `limit` pages.

        Raises:
            CommandError: there are none.
        """

        def usable(page: dict[str, tf.Tensor]) -> tf.Tensor:
            return tf.reduce_any(page["click_picture"] != PADDING) & tf.reduce_any(page["clicked"])

        longest = self.dataset.manifest.max_candidates
        pages = self._trimmed(_WHOLE, self._validation_window, longest, clicks).unbatch().filter(usable)
        batches = list(pages.take(limit).batch(_PARSED_TOGETHER).as_numpy_iterator())
        if not batches:
            raise CommandError(
                f"validation_share: no usable page of {self.dataset.path} in split `{_WHOLE}` is as late as the pages "
                "kept for validation; raise it, or 0 for none"
            )
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _scan(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        counts = {"pages": 0, "without_history_picture": 0, "without_clicked_picture": 0, "usable": 0}
        parts = []
        with tqdm(total=self.view.pages, desc="reading pages", unit="page") as progress:
            for page in self._trimmed(PRETRAINING, None, self.candidates, self.clicks).as_numpy_iterator():
                history = (page["click_picture"] != PADDING).any(axis=1)
                positive = page["clicked"].any(axis=1)
                counts["pages"] += len(history)
                counts["without_history_picture"] += int((~history).sum())
                counts["without_clicked_picture"] += int((history & ~positive).sum())
                parts.append({name: values[history & positive] for name, values in page.items()})
                progress.update(len(history))
        usable = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        counts["usable"] = len(usable["timestamp"])
        return counts, usable

    def _batches(
        self,
        pages: dict[str, tf.Tensor],
        numbers: Callable[[tf.Tensor], tf.Tensor],
        read: Callable[[tf.Tensor], tf.Tensor],
        batch_size: int,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None,
        first_step: int,
        context: tf.distribute.InputContext | None,
    ) -> tf.data.Dataset:
        """Batches of the pages that `numbers` puts at positions 0, 1, ...; int64 `(n,)` to int64 `(n,)`."""
        context = context or tf.distribute.InputContext()
        replicas = context.num_replicas_in_sync
        here = replicas // context.num_input_pipelines
        part = context.get_per_replica_batch_size(batch_size)

        def batch(element: tf.Tensor) -> dict[str, tf.Tensor]:
            # Elements are a step's replicas in turn: those of this worker.
            number = element // here * replicas + context.input_pipeline_id * here + element % here
            rows = numbers(number * part + tf.range(part, dtype=tf.int64))
            made = distinct_pictures({name: tf.gather(values, rows) for name, values in pages.items()}, read)
            return made if augment is None else {**made, "pictures": augment(made["pictures"], number)}

        elements = tf.data.Dataset.range(first_step * here, tf.int64.max)
        return map_ahead(elements, batch)

    def _trimmed(self, split: str, window: Window | None, candidates: int, clicks: int) -> tf.data.Dataset:
        longest = self.view.max_candidates if split == PRETRAINING else self.dataset.manifest.max_candidates
        lengths = PageLengths(candidates=longest, click=clicks, pay=0, cart=0)
        batches = page_batches(self.dataset, split, lengths, batch_size=_PARSED_TOGETHER, window=window)
        return map_ahead(batches, lambda page: trim_page(page, self._picture_of_item, candidates, clicks))
