"""Pages as encoder pre-training sees them: a few candidates, a few clicks, and their distinct pictures."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import PRETRAINING, Window
from beam_pipelines.shell.progress import progress_bar
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import PADDING, PageLengths, page_batches
from models.data.picture_store import PictureStore

_PARSED_TOGETHER = 512  # pages; parsing and trimming are vectorised over them
_BUCKETS = 32  # numbers of distinct pictures that a batch can have
_PIXELS, _NUMBER, _TOKENS = "pictures", "picture_id", "tokens"
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


def divide_batches(batches: tf.data.Dataset, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Divides batches between replicas: each gets its share of the pages, and the distinct pictures of these alone.

    Args:
        batches: of `distinct_pictures`.
        context: this worker among others.

    Returns:
        Of each batch, one for each replica of this worker.
    """
    replicas = context.num_replicas_in_sync
    here = replicas // context.num_input_pipelines
    first = context.input_pipeline_id * here

    def part(batch: dict[str, tf.Tensor], replica: tf.Tensor) -> dict[str, tf.Tensor]:
        pages = tf.shape(batch["clicked"], tf.int64)[0]
        rows = slice(pages * replica // replicas, pages * (replica + 1) // replicas)
        names = ("candidate_picture", "click_picture", "clicked")
        divided = distinct_pictures(
            {name: batch[name][rows] for name in names}, lambda row: tf.gather(batch[_PIXELS], row)
        )
        row = divided[_NUMBER]
        divided[_NUMBER] = tf.where(row == PADDING, PADDING, tf.gather(batch[_NUMBER], tf.maximum(row, 0)))
        return {**divided, _TOKENS: _rows(batch[_TOKENS], row)} if _TOKENS in batch else divided

    def parts(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
        return tf.data.Dataset.range(first, first + here).map(lambda replica: part(batch, replica))

    divided = batches.flat_map(parts)
    if (size := batches.cardinality()) >= 0:
        divided = divided.apply(tf.data.experimental.assert_cardinality(size * here))
    return divided.with_options(batches.options())


class PretrainingPages:
    """The pages of the pre-training view with their pictures, divided by time into training and validation pages.

    A page is usable if a clicked candidate and one of its latest clicks have a picture. The view promises both for
    the pictures that the logs name; a picture that could not be stored can still be missing. Such pages are counted
    and left out.

    The trimmed pages stay in memory: 45 bytes for each page of 5 candidates and 5 clicks, 4.5 GB for 100 million.

    Args:
        dataset: the page dataset.
        image_size: height and width that pictures are resized to.
        candidates: candidates per page, at most those of the view.
        clicks: history clicks per page, at most those of the view.
        validation_share: share of the usable pages, the latest ones, that is kept for validation.
        cache_megabytes: decoded pictures are kept in memory, from their first use on, if they take at most this much.
        tokenize: what makes tokens of titles, such as `build_tokenizer` of a `TextConfig`. Batches then have `tokens`
            beside `pictures`, int32 `(distinct, length)`, padded with -1: those of the title of the first item with
            a title that has the picture, padding alone if none has.

    Attributes:
        dataset, image_size, candidates, clicks: as given.
        view: what the dataset says of the pages.
        store: the pictures.
        counts: `pages`, `without_history_picture`, `without_clicked_picture` (of the rest), `usable`.
        training, validation: number of pages of each.
        window: when the pages were shown that the encoder learns on or is selected by.

    Raises:
        ArtifactError: there is no view, no picture or no title, or there are no whole pages to validate on.
        InputError: the view is smaller than asked for.

    Example:
        >>> pages = Dataset("artifacts/dataset").pretraining(image_size=(48, 32), validation_share=0.1)
        >>> courier.fit(pages.batches(64), validation_data=pages.validation_batches(64), epochs=8)
    """

    def __init__(
        self,
        dataset: Dataset,
        image_size: tuple[int, int] = (48, 32),
        *,
        candidates: int = 5,
        clicks: int = 5,
        validation_share: float = 0.0,
        cache_megabytes: int = 1024,
        tokenize: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> None:
        self.dataset = dataset
        self.view = dataset.pretraining_view()
        for name, asked, largest in (
            ("candidates", candidates, self.view.max_candidates),
            ("clicks", clicks, self.view.max_clicks),
        ):
            if asked > largest:
                raise InputError(
                    f"{name}: must be at most the {largest} per page that {dataset.path} was built with; build it with "
                    f"--pretraining-{name} {asked}. Received: {asked}"
                )
        whole = dataset.split(_WHOLE) if validation_share else None
        self.image_size = image_size
        self.candidates = candidates
        self.clicks = clicks
        self.store = PictureStore(dataset, image_size)
        self._cache_bytes = cache_megabytes * 2**20
        self._picture_of_item = tf.constant(self.store.picture_of_item)
        self._tokens = None if tokenize is None else tf.constant(tokenize(self._titles()), tf.int32)
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
            {name: tf.constant(values[chosen]) for name, values in usable.items()}
            for chosen in (time < boundary, time >= boundary)
        )
        self.training, self.validation = int((time < boundary).sum()), int((time >= boundary).sum())

    def keep_encoded(self, encode: Callable[[tf.Tensor], tf.Tensor], length: int) -> bool:
        """Makes `read`, and so all batches, give what an encoder's frozen stages make of pictures instead of pictures.

        Each picture is encoded once, now.

        Args:
            encode: pictures uint8 `(n, height, width, 3)` to float32 `(n, length)`.
            length: of what is kept of a picture.

        Returns:
            Whether that is so; otherwise it would take more memory than the cache may.
        """
        if self.store.pictures * length * 4 > self._cache_bytes:
            return False
        encoded = tf.constant(self.store.encode_all(encode, length, "encoding pictures by the frozen stages"))
        self.read = lambda numbers: tf.gather(encoded, numbers)
        return True

    @functools.cached_property
    def read(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Picture numbers `(n,)` to pictures uint8 `(n, height, width, 3)`: from memory, or from the store."""
        if self.store.pictures * np.prod(self.image_size) * 3 > self._cache_bytes:
            return self.store.read
        with tf.init_scope():  # a pipeline that is being traced may be the first to ask
            decoded = tf.constant(self.store.read_all())
        return lambda numbers: tf.gather(decoded, numbers)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where an encoder learned, as `EncoderRun.save` records it."""
        manifest = self.dataset.manifest
        return {
            "image_size": self.image_size,
            "dataset_digest": manifest.digest(),
            "window": self.window,
            "notice": manifest.notice,
        }

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    ) -> tf.data.Dataset:
        """Shuffled batches of training pages for `fit`: an epoch each time that they are read.

        The first epoch comes when they are read for the first time, the second one the next time, and so on: those of
        `training_batches` with the same seed. Batches are whole; what is left over begins the next epoch.

        Args:
            batch_size: pages per step, over all replicas.
            seed: of the shuffling.
            augment: changes a batch of distinct pictures, given the batch's number; see `flip_crop`.

        Raises:
            InputError: there are fewer pages than that.
        """
        self._check_batch_size(batch_size, self.training, "learn from")
        steps = self.training // batch_size
        epochs = itertools.count()

        def first_step(_: Any) -> tf.Tensor:
            step = tf.numpy_function(lambda: np.int64(next(epochs) * steps), [], tf.int64)
            return tf.ensure_shape(step, ())

        numbers = (
            tf.data.Dataset.range(1).map(first_step).flat_map(lambda step: tf.data.Dataset.range(step, step + steps))
        )
        batches = map_ahead(numbers, self._training_batch(batch_size, seed, augment))
        return batches.apply(tf.data.experimental.assert_cardinality(steps))

    def validation_batches(self, batch_size: int) -> tf.data.Dataset:
        """The whole batches of validation pages, in the same order each time.

        A smaller batch has fewer negatives and therefore a smaller loss: the pages of one would not be comparable.

        Args:
            batch_size: pages per step, over all replicas.

        Raises:
            InputError: there are fewer pages than that.
        """
        self._check_batch_size(batch_size, self.validation, "validate on")
        return self.endless_validation_batches(batch_size).take(self.validation // batch_size)

    def training_batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        first_step: int = 0,
        context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """Endless shuffled batches of training pages.

        What a step learns on depends on `seed` and the step's number alone: a run that starts at `first_step`
        continues another one exactly, at no cost. Each pass has every page once, in an order of its own.

        Args:
            batch_size, seed, augment: see `batches`.
            first_step: number of steps to leave out.
            context: this worker among others; the pages of a step are divided between the replicas.

        Returns:
            Batches of `distinct_pictures`: of each step, one for each replica of this worker.
        """
        return self._endless(batch_size, first_step, context, lambda part: self._training_batch(part, seed, augment))

    def endless_validation_batches(
        self, batch_size: int, *, context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """The whole batches of validation pages, again and again in the same order; see `training_batches`."""
        pages = self.validation // batch_size * batch_size

        def in_order(part: int) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
            return lambda number: self._batch(self._validation, _positions(number, part) % pages)

        return self._endless(batch_size, 0, context, in_order)

    def validation_pages(self, *, clicks: int, limit: int) -> dict[str, np.ndarray]:
        """Whole pages of the split `pretrain`, as late as the validation pages: every candidate with a picture and the
        latest `clicks` clicks.

        Returns:
            `candidate_picture`, `clicked` and `click_picture` of `trim_page` for the first `limit` pages.

        Raises:
            ArtifactError: there are none.
        """

        def usable(page: dict[str, tf.Tensor]) -> tf.Tensor:
            return tf.reduce_any(page["click_picture"] != PADDING) & tf.reduce_any(page["clicked"])

        longest = self.dataset.manifest.max_candidates
        pages = self._trimmed(_WHOLE, self._validation_window, longest, clicks).unbatch().filter(usable)
        batches = list(pages.take(limit).batch(_PARSED_TOGETHER).as_numpy_iterator())
        if not batches:
            raise ArtifactError(
                f"validation_share: no usable page of {self.dataset.path} in split `{_WHOLE}` is as late as the pages "
                "kept for validation; raise it, or 0 for none"
            )
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _titles(self) -> list[str]:
        """The title of each picture, empty without one."""
        items = self.dataset.items()
        if "title" not in items.column_names:
            raise ArtifactError(f"{self.dataset.path} has no titles; build it from items with a column `title`")
        titles = [""] * self.store.pictures
        for picture, title in zip(self.store.picture_of_item.tolist(), items.column("title").to_pylist(), strict=True):
            if picture != PADDING and title and not titles[picture]:
                titles[picture] = title
        if not any(titles):
            raise ArtifactError(f"{self.dataset.path} has no title of an item with a picture")
        return titles

    def _scan(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        counts = {"pages": 0, "without_history_picture": 0, "without_clicked_picture": 0, "usable": 0}
        parts = []
        with progress_bar(total=self.view.pages, desc="reading pages", unit="page") as progress:
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

    def _check_batch_size(self, batch_size: int, pages: int, purpose: str) -> None:
        if batch_size > pages:
            raise InputError(f"`batch_size` must be at most the {pages} pages to {purpose}. Received: {batch_size}")

    def _endless(
        self,
        batch_size: int,
        first_step: int,
        context: tf.distribute.InputContext | None,
        batch_of: Callable[[int], Callable[[tf.Tensor], dict[str, tf.Tensor]]],
    ) -> tf.data.Dataset:
        """Batches 0, 1, ... of a size, those of this worker's replicas; `batch_of` makes one from its number."""
        context = context or tf.distribute.InputContext()
        replicas = context.num_replicas_in_sync
        here = replicas // context.num_input_pipelines
        batch = batch_of(context.get_per_replica_batch_size(batch_size))

        def of_replica(element: tf.Tensor) -> dict[str, tf.Tensor]:
            # Elements are a step's replicas in turn: those of this worker.
            return batch(element // here * replicas + context.input_pipeline_id * here + element % here)

        return map_ahead(tf.data.Dataset.range(first_step * here, tf.int64.max), of_replica)

    def _training_batch(
        self, batch_size: int, seed: int, augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None
    ) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """Makes a batch of shuffled training pages from its number."""
        pages = self.training

        def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
            positions = _positions(number, batch_size)
            passes = positions // pages
            seeds = tf.stack([tf.fill(tf.shape(passes), tf.constant(seed, tf.int64)), passes, tf.zeros_like(passes)], 1)
            last = tf.constant(pages - 1, tf.int64)
            # `tf.random.experimental.index_shuffle` cannot take a seed for each position, although it says so.
            rows = tf.raw_ops.RandomIndexShuffle(index=positions % pages, seed=seeds, max_index=last, rounds=4)
            made = self._batch(self._training, rows)
            return made if augment is None else {**made, _PIXELS: augment(made[_PIXELS], number)}

        return batch

    def _batch(self, pages: dict[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = distinct_pictures({name: tf.gather(values, rows) for name, values in pages.items()}, self.read)
        return batch if self._tokens is None else {**batch, _TOKENS: _rows(self._tokens, batch[_NUMBER])}

    def _trimmed(self, split: str, window: Window | None, candidates: int, clicks: int) -> tf.data.Dataset:
        longest = self.view.max_candidates if split == PRETRAINING else self.dataset.manifest.max_candidates
        lengths = PageLengths(candidates=longest, click=clicks, pay=0, cart=0)
        batches = page_batches(self.dataset, split, lengths, batch_size=_PARSED_TOGETHER, window=window)
        return map_ahead(batches, lambda page: trim_page(page, self._picture_of_item, candidates, clicks))


def _rows(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Rows of `(n, length)` by number; padding for the row -1."""
    return tf.where(rows[:, None] == PADDING, PADDING, tf.gather(values, tf.maximum(rows, 0)))


def _positions(number: tf.Tensor, batch_size: int) -> tf.Tensor:
    """Where the pages of a batch are in the sequence of all: int64 `(batch_size,)`."""
    return number * batch_size + tf.range(batch_size, dtype=tf.int64)
