"""The picture store of a dataset: random access by item, decoded and resized to what an encoder takes."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_io as tfio
from array_record.python.array_record_data_source import ArrayRecordDataSource

from beam_pipelines.shell.progress import progress_bar
from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead

_BATCH = 256  # pictures per read of a whole pass


class PictureStore:
    """Reads the pictures of a dataset.

    Pictures are numbered through all shards: 0, 1, ... in the manifest's order. Items that share a picture share its
    number, so that a picture is decoded and encoded once.

    Args:
        dataset: the page dataset.
        image_size: `(height, width)` that every picture is resized to (anti-aliased; the aspect ratio is not kept, so
            that nothing is cut off).

    Attributes:
        pictures: number of pictures.
        picture_of_item: int32 `(items,)`, the picture of each item row, -1 without.

    Raises:
        ArtifactError: the dataset has no pictures, or a file of them is damaged.
    """

    def __init__(self, dataset: Dataset, image_size: tuple[int, int]) -> None:
        index = dataset.image_index()
        paths = dataset.image_shard_paths()
        images = dataset.manifest.images
        assert images is not None  # the index would have been refused
        self.image_size = image_size
        self._format = images.format
        self._records = ArrayRecordDataSource(paths)
        first = np.cumsum([0, *(shard.records for shard in images.shards)])
        self.pictures = int(first[-1])
        shard, record = (index.column(name).to_numpy().astype(np.int64) for name in ("shard", "index"))
        self.picture_of_item = np.where(shard >= 0, first[shard] + record, -1).astype(np.int32)

    def read(self, numbers: tf.Tensor) -> tf.Tensor:
        """Reads pictures, in eager code or inside a `tf.data` pipeline.

        Args:
            numbers: int, shape `(n,)`, picture numbers.

        Returns:
            uint8 `(n, height, width, 3)`, RGB.
        """
        encoded = tf.numpy_function(self._read_records, [numbers], tf.string, stateful=False)
        encoded.set_shape((None,))
        picture = tf.TensorSpec((*self.image_size, 3), tf.uint8)
        return tf.map_fn(self._decode, encoded, fn_output_signature=picture)

    def read_all(self) -> np.ndarray:
        """Reads every picture: uint8 `(pictures, height, width, 3)`, with a progress bar."""
        pictures = np.empty((self.pictures, *self.image_size, 3), np.uint8)
        return self._fill(pictures, lambda batch: batch, "reading pictures")

    def encode_all(self, encode: Callable[[tf.Tensor], tf.Tensor], length: int, description: str) -> np.ndarray:
        """Reads every picture and keeps what is made of it, with a progress bar.

        Args:
            encode: pictures uint8 `(n, height, width, 3)` to float32 `(n, length)`.
            length: of what is kept of a picture.
            description: what the progress bar says.

        Returns:
            float32 `(pictures, length)`.
        """
        return self._fill(np.empty((self.pictures, length), np.float32), encode, description)

    def _fill(self, kept: np.ndarray, encode: Callable[[tf.Tensor], tf.Tensor], description: str) -> np.ndarray:
        with progress_bar(total=self.pictures, desc=description, unit="picture") as progress:
            for first, batch in zip(range(0, self.pictures, _BATCH), self.batches(_BATCH), strict=True):
                kept[first : first + len(batch)] = encode(batch)
                progress.update(len(batch))
        return kept

    def batches(self, batch_size: int, numbers: np.ndarray | None = None) -> tf.data.Dataset:
        """Batches of `read`.

        Args:
            batch_size: pictures per batch; the last one may have fewer.
            numbers: int `(n,)`, the pictures in the order asked for; `None` for all of them.
        """
        if numbers is None:
            chosen = tf.data.Dataset.range(self.pictures)
        else:
            chosen = tf.data.Dataset.from_tensor_slices(numbers)
        return map_ahead(chosen.batch(batch_size), self.read)

    def _read_records(self, numbers: np.ndarray) -> np.ndarray:
        records = self._records.__getitems__(numbers.tolist()) if len(numbers) else []
        return np.array(records, dtype=object)

    def _decode(self, encoded: tf.Tensor) -> tf.Tensor:
        if self._format == "webp":
            picture = tfio.image.decode_webp(encoded)[..., :3]  # RGBA
        else:
            picture = tf.io.decode_jpeg(encoded, channels=3)
        resized = tf.image.resize(picture, self.image_size, antialias=True)
        return tf.saturate_cast(tf.round(resized), tf.uint8)
