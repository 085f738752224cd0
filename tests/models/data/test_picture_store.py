import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.data.augmentation import flip_crop
from models.data.dataset import Dataset
from models.data.picture_store import PictureStore
from tests.models.picture_dataset import write_picture_dataset


def plain(colour, height=20, width=30):
    return np.full((height, width, 3), colour, np.uint8)


COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
SHARDS = [[plain(COLOURS[0]), plain(COLOURS[1], 7, 7)], [plain(COLOURS[2], 40, 16)]]
PLACES = [(1, 0), (0, 1), (-1, -1), (0, 0), (0, 1)]  # items 1 and 4 share a picture


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_each_item_has_its_picture_in_rgb_and_in_size(tmp_path, image_format):
    store = PictureStore(write_picture_dataset(tmp_path, SHARDS, PLACES, image_format=image_format), (8, 12))
    assert store.pictures == 3
    assert store.picture_of_item.tolist() == [2, 1, -1, 0, 1]
    pictures = store.read(tf.constant([2, 0, 1, 2])).numpy()
    assert pictures.shape == (4, 8, 12, 3)
    assert pictures.dtype == np.uint8
    for picture, colour in zip(pictures, [COLOURS[2], COLOURS[0], COLOURS[1], COLOURS[2]], strict=True):
        assert np.abs(picture.astype(int) - colour).max() <= 3
    np.testing.assert_array_equal(store.read_all(), store.read(tf.range(3)))
    batches = list(store.batches(2).as_numpy_iterator())
    assert [len(batch) for batch in batches] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), store.read_all())


def test_no_pictures_asked_for_is_an_empty_batch(tmp_path):
    store = PictureStore(write_picture_dataset(tmp_path, SHARDS, PLACES), (8, 12))
    assert store.read(tf.zeros((0,), tf.int32)).shape == (0, 8, 12, 3)


def test_shrinking_averages_instead_of_skipping_pixels(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    store = PictureStore(write_picture_dataset(tmp_path, [[stripes]], [(0, 0)], image_format="webp"), (8, 8))
    assert np.abs(store.read(tf.constant([0])).numpy()[:, :, 1:-1].astype(int) - 127).max() <= 2


def test_lossless_picture_of_the_right_size_is_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    store = PictureStore(write_picture_dataset(tmp_path, [[pixels]], [(0, 0)], image_format="webp"), (8, 8))
    np.testing.assert_array_equal(store.read(tf.constant([0]))[0], pixels)


def test_damaged_shard_is_refused(tmp_path):
    dataset = write_picture_dataset(tmp_path, SHARDS, PLACES)
    with open(tmp_path / dataset.manifest.images.shards[1].path, "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="images-00001-of-00002"):
        PictureStore(Dataset(tmp_path), (8, 8))


def test_augmentation_moves_and_mirrors_each_picture_by_itself_and_keeps_colours():
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3))
    batch = tf.constant(np.repeat(ramp[None], 64, axis=0))
    numbered = tf.data.Dataset.from_tensors(batch).repeat(2).enumerate()
    augmented, second = numbered.map(lambda number, pictures: flip_crop(seed=0)(pictures, number)).as_numpy_iterator()
    np.testing.assert_array_equal(flip_crop(seed=0)(batch, tf.constant(1, tf.int64)), second)  # repeatable
    assert (augmented != second).any()
    assert (flip_crop(seed=1)(batch, tf.constant(0, tf.int64)).numpy() != augmented).any()
    assert augmented.dtype == np.uint8
    assert augmented.shape == batch.shape
    mirrored = augmented[:, 32, 16, 0] > augmented[:, 32, 48, 0]
    assert 16 < mirrored.sum() < 48
    # The middle moves by at most an eighth of the side: 8 columns of 4 grey levels.
    middle = augmented[:, 32, 32].astype(int)
    assert np.abs(middle - 126).max() <= 36
    assert len(np.unique(middle[:, 0])) > 8
    assert (np.ptp(augmented, axis=-1) == 0).all()  # grey stays grey
