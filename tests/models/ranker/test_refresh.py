import keras
import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import parse_pages
from models.features.number_scale import NumberScale
from models.ranker.adapt import adapt_to_pages
from models.ranker.calibrator import Calibrator
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.refresh import refresh_ranker
from models.ranker.run import RankerMetadata, RankerRun
from models.ranker.warm_start import WarmStart
from tests.models.tiny_dataset import write_tiny_dataset

ARCHITECTURE = RankerConfig(
    lengths=RankerLengths(click=4, pay=0, cart=0),
    attention=AttentionConfig(histories="none", activation="dice"),
    mlp_units=(6,),
    token_buckets=20,
)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    tiny = write_tiny_dataset(tmp_path_factory.mktemp("old"), items=40, users=20, pages=60)
    data, clusters = Dataset(tiny.data), Clusters.load(tiny.clusters)
    adapted = adapt_to_pages(data.pages("train"), ARCHITECTURE, pictures=clusters)
    keras.utils.set_random_seed(1)
    calibrator = Calibrator(kind="platt", y=(-1.0,), slope=2.0)
    ranker = Ranker(adapted.config, adapted.features.sizes, adapted.image_feature, calibrator=calibrator)
    ranker.fill(adapted.features)
    moments = [variable for variable in ranker.members[0].variables if variable.name == "moving_mean"]
    assert moments
    for variable in moments:
        variable.assign(variable + 0.3)
    metadata = RankerMetadata(
        image_feature="cluster_id",
        seed=0,
        dataset_digest=data.manifest.digest(),
        item_ids_sha256=data.manifest.items.ids_sha256,
        user_ids_sha256=data.manifest.users.ids_sha256,
        window=data.pages("train").window,
        validation={},
        embeddings=None,
        clusters=clusters.metadata,
        notice="",
    )
    run = tmp_path_factory.mktemp("run")
    RankerRun.save(
        run,
        ranker,
        metadata,
        TrainingConfig(ranker=adapted.config),
        items=data.items(),
        users=data.users(),
        training_counts=adapted.occurrences,
    )
    return data, run


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """A dataset with more items and users, other pages, and the same centers; the items before keep their clusters."""
    tiny = write_tiny_dataset(tmp_path_factory.mktemp("later"), items=55, users=25, pages=40, seed=3)
    return Dataset(tiny.data), Clusters.load(tiny.clusters)


def with_ids_of(old, later, directory):
    """The later items' clusters: those of the earlier dataset for its items."""
    data, run = old
    _, clusters = later
    ids = clusters.ids.copy()
    earlier = RankerRun(run).ranker().items.pictures.tables["cluster"].numpy()[:-1] - 1
    ids[: len(earlier)] = earlier
    metadata, before = clusters.metadata, RankerRun(run).metadata.clusters
    return Clusters.save(
        directory,
        ids,
        np.load(data.path.parent / "clusters" / "centers.npy"),
        **{name: getattr(before, name) for name in ("backend", "normalize", "spherical", "seed")},
        embeddings=metadata.embeddings,
        mean_squared_distance=0.0,
    )


def test_what_was_scored_before_has_the_same_score(old, later, tmp_path):
    data, run = old
    clusters = with_ids_of(old, later, tmp_path / "clusters")
    refreshed = refresh_ranker(run, later[0], tmp_path / "run", pictures=clusters)
    records = [*data.pages("test").records().as_numpy_iterator()]
    before, after = RankerRun(run).ranker(), refreshed.ranker()
    assert (after.sizes.items, after.sizes.users) == (55, 25)
    pages = parse_pages(records, before.config.lengths)
    np.testing.assert_array_equal(after(pages)["ctr"], before(pages)["ctr"])
    assert after.vocabulary == before.vocabulary
    assert refreshed.metadata.window == RankerRun(run).metadata.window
    counts = RankerRun(run).training_counts()
    np.testing.assert_array_equal(refreshed.training_counts(), [*counts, *[0] * 15])


def test_a_new_item_is_one_of_which_all_but_the_id_is_known(old, later, tmp_path):
    _, run = old
    clusters = with_ids_of(old, later, tmp_path / "clusters")
    ranker = refresh_ranker(run, later[0], tmp_path / "run", pictures=clusters).ranker()
    tables = ranker.items.features.tables
    assert not tables["item_id"].numpy()[40:].any()
    np.testing.assert_array_equal(tables["category"].numpy()[40:-1], tables["category"].numpy()[0:15])  # every 4th
    np.testing.assert_array_equal(ranker.items.pictures.tables["cluster"].numpy()[:-1], clusters.ids + 1)


def test_other_centers_are_refused(old, later, tmp_path):
    _, run = old
    with pytest.raises(InputError, match=r"`pictures` must be those that .* was trained with; carried over: .*cluster"):
        refresh_ranker(run, later[0], tmp_path / "run", pictures=later[1])
    assert not (tmp_path / "run").exists()


def test_what_is_known_stays_and_pages_only_add(old, later):
    _, run = old
    dataset, clusters = later
    earlier = WarmStart(run)
    known = earlier.known(dataset.items(), dataset.users(), None, clusters.metadata)
    pages = dataset.pages("train")
    fresh, extended = (
        adapt_to_pages(pages, ARCHITECTURE, pictures=clusters, known=each).features for each in (None, known)
    )
    old_rows = earlier.ranker.items.features.tables["item_id"].numpy()[:40] > 0
    assert (old_rows & (fresh.items["item_id"][:40] == 0)).any()  # which these pages alone would forget
    had = np.concatenate([old_rows, np.zeros(15, bool)])
    np.testing.assert_array_equal(extended.items["item_id"][:-1] > 0, had | (fresh.items["item_id"][:-1] > 0))
    before = earlier.ranker.vocabulary
    for section in ("item", "user", "candidate"):
        for name, value in getattr(before, section).items():
            now = getattr(extended.vocabulary, section)[name]
            if isinstance(value, NumberScale):
                assert now == value
                assert now != getattr(fresh.vocabulary, section)[name] or section == "candidate"
            else:
                assert set(now) == {*value, *getattr(fresh.vocabulary, section)[name]}
