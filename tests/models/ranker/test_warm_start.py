import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.manifest import Window, ids_sha256
from models.clustering.clusters import ClustersMetadata, DeeperLevels
from models.clustering.replacement import ReplacedClusters
from models.embeddings.embeddings import EmbeddingsMetadata
from models.features.adapt import adapt_features
from models.features.spec import STATISTICS, FeaturesConfig, HashFeature, IdFeature, resolve_features
from models.features.training_counts import TrainingCounts
from models.ranker.config import RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun
from models.ranker.warm_start import WarmStart
from models.vision.encoder_run import EncoderMetadata

WINDOW = Window(first=0, last=1)
DIM = 4


def items_of(ids, categories):
    return pa.table({"item_id": ids, "category": categories, "title": ["a title"] * len(ids)})


OLD_ITEMS = items_of(["a", "b", "c", "d"], ["x", "y", "z", "y"])
NEW_ITEMS = items_of(["new", "d", "c", "b", "a"], ["w", "y", "y", "z", "v"])
OLD_USERS, NEW_USERS = pa.table({"user_id": ["u", "v"]}), pa.table({"user_id": ["v", "t"]})


def clusters_of(centers):
    encoder = EncoderMetadata(
        method="courier",
        image_size=(8, 8),
        embedding_dim=8,
        weights_sha256="",
        dataset_digest="",
        window=WINDOW,
        notice="",
    )
    embeddings = EmbeddingsMetadata(
        items=4,
        items_with_image=4,
        dim=8,
        embeddings_sha256="",
        item_ids_sha256="",
        pictures_sha256="",
        encoder=encoder,
    )
    return ClustersMetadata(
        num_clusters=3,
        backend="exact",
        normalize=True,
        spherical=False,
        mean_squared_distance=0.1,
        seed=0,
        centers_sha256=centers,
        cluster_ids_sha256="",
        embeddings=embeddings,
    )


def make(items, users, counts, features=None, image_feature="cluster_id", **changes):
    config = RankerConfig(
        lengths=RankerLengths(candidates=3, click=5, pay=2, cart=0),
        embedding_dim=DIM,
        item_dim=5,
        mlp_units=(6,),
        token_buckets=20,
        **changes,
    )
    resolved = resolve_features(features or FeaturesConfig(), items.schema, users.schema)
    config = config.model_copy(update={"features": resolved})
    occurrences = TrainingCounts(
        np.array(counts), np.full(len(users), 9), {name: np.array([1.0, 2.0]) for name in STATISTICS}
    )
    pictures = {
        "cluster_ids": np.arange(len(items), dtype=np.int32) % 3,
        "centers": np.eye(3, 4, dtype=np.float32),
    }
    if image_feature == "make":
        pictures = {"image_embeddings": [np.eye(len(items), 8, dtype=np.float32)]}
    tables = adapt_features(
        config.features,
        items,
        users,
        occurrences,
        token_buckets=config.token_buckets,
        **pictures,
    )
    ranker = Ranker(config, tables.sizes, image_feature)
    rng = np.random.default_rng(len(items))
    towers = [variable for tower in ranker.items.pictures.towers for variable in tower.variables]
    for variable in ranker.trainable_variables + towers:
        variable.assign(rng.normal(size=variable.shape))
    ranker.fill(tables)
    return ranker


def save(run, ranker, **sources):
    metadata = RankerMetadata(
        image_feature=ranker.image_feature,
        seed=0,
        dataset_digest="",
        item_ids_sha256=ids_sha256(OLD_ITEMS["item_id"].to_pylist()),
        user_ids_sha256=ids_sha256(OLD_USERS["user_id"].to_pylist()),
        window=WINDOW,
        validation={},
        **{"embeddings": None, "clusters": None, **sources},
        notice="",
    )
    RankerRun.save(run, ranker, metadata, TrainingConfig(ranker=ranker.config), items=OLD_ITEMS, users=OLD_USERS)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A run that knows the items a, c and d, and the categories x, y and z."""
    run = tmp_path_factory.mktemp("old")
    ranker = make(OLD_ITEMS, OLD_USERS, [9, 2, 9, 9])
    save(run, ranker, clusters=clusters_of("same"))
    return run, ranker


def table(ranker, name):
    return ranker.members[0].items.features.embeddings[name].get_weights()[0]


def test_rows_go_over_by_what_they_stand_for(old):
    run, earlier = old
    ranker = make(NEW_ITEMS, NEW_USERS, [9, 9, 9, 9, 3])
    fresh = make(NEW_ITEMS, NEW_USERS, [9, 9, 9, 9, 3])
    said = WarmStart(run).fill(ranker, NEW_ITEMS, NEW_USERS, None, clusters_of("same"))
    # Known there: a, c, d as 1, 2, 3. Known here: new, d, c, b as 1, 2, 3, 4.
    np.testing.assert_array_equal(table(ranker, "item_id")[[0, 2, 3]], table(earlier, "item_id")[[0, 3, 2]])
    np.testing.assert_array_equal(table(ranker, "item_id")[[1, 4]], table(fresh, "item_id")[[1, 4]])
    # x, y, z there; v, w, y, z here.
    np.testing.assert_array_equal(table(ranker, "category")[[0, 3, 4]], table(earlier, "category")[[0, 2, 3]])
    np.testing.assert_array_equal(table(ranker, "category")[[1, 2]], table(fresh, "category")[[1, 2]])
    # u, v there; v, t here.
    users = [r.members[0].users.embeddings["user_id"].get_weights()[0] for r in (earlier, ranker, fresh)]
    np.testing.assert_array_equal(users[1][[0, 1]], users[0][[0, 2]])
    np.testing.assert_array_equal(users[1][2], users[2][2])
    assert said.startswith("carried over: item.item_id 2 of 4, item.category 2 of 4, user.user_id 1 of 2, ")
    assert said.endswith(" other variables")
    for layer in (
        lambda r: r.members[0].mlp_candidate,
        lambda r: r.members[0].attention,
        lambda r: r.members[0].recent_attention["pay"],
        lambda r: r.members[0].text,
    ):
        layers = [layer(r).get_weights() for r in (earlier, ranker)]
        for before, after in zip(*layers, strict=True):
            np.testing.assert_array_equal(before, after)
    cluster = [r.members[0].items.picture_encoder.get_weights()[0] for r in (earlier, ranker)]
    np.testing.assert_array_equal(*cluster)


def test_levels_below_are_a_part_of_what_clusters_mean():
    levels = [
        DeeperLevels(mean_squared_distances=(0.1,), prefixes=(3, 4), sharing=2, centers_sha256=sha, ids_sha256="")
        for sha in ("same", "others")
    ]
    one, two, other = (clusters_of("same").model_copy(update={"deeper": each}) for each in (None, *levels))
    assert one.same_centers(clusters_of("same"))
    assert two.same_centers(two.model_copy(update={"deeper": levels[0].model_copy(update={"sharing": 3})}))
    assert not one.same_centers(two)
    assert not two.same_centers(other)


def test_clusters_of_other_centers_mean_something_else(old):
    run, _ = old
    ranker = make(NEW_ITEMS, NEW_USERS, [9] * 5)
    before = ranker.members[0].items.picture_encoder.get_weights()[0]
    said = WarmStart(run).fill(ranker, NEW_ITEMS, NEW_USERS, None, clusters_of("others"))
    np.testing.assert_array_equal(ranker.members[0].items.picture_encoder.get_weights()[0], before)
    assert "initialised: member/items/cluster_embedding/embeddings" in said


def test_what_was_learned_of_a_cluster_goes_to_the_one_in_its_place(old):
    run, earlier = old
    ranker = make(NEW_ITEMS, NEW_USERS, [9] * 5)
    before, learned = (each.members[0].items.picture_encoder.get_weights()[0] for each in (ranker, earlier))
    replaced = ReplacedClusters(centers_sha256="same", num_clusters=3, matched=2, pictures=4, replaced_sha256="")
    clusters = clusters_of("others").model_copy(update={"replaced": replaced})
    said = WarmStart(run).fill(ranker, NEW_ITEMS, NEW_USERS, None, clusters, np.array([2, -1, 0]))
    # Row 0 is none; the second cluster is nobody's heir.
    after = ranker.members[0].items.picture_encoder.get_weights()[0]
    np.testing.assert_array_equal(after, np.stack([learned[0], learned[3], before[2], learned[1]]))
    assert "cluster_id 2 of 3" in said
    assert "initialised" not in said
    # They are the heirs of others than the ranker knows.
    ranker = make(NEW_ITEMS, NEW_USERS, [9] * 5)
    strangers = replaced.model_copy(update={"centers_sha256": "strangers"})
    said = WarmStart(run).fill(
        ranker, NEW_ITEMS, NEW_USERS, None, clusters.model_copy(update={"replaced": strangers}), np.array([2, -1, 0])
    )
    assert "initialised: member/items/cluster_embedding/embeddings" in said


def test_what_pictures_have_taught_goes_over_if_the_embeddings_mean_the_same(tmp_path):
    same = clusters_of("").embeddings
    other = same.model_copy(update={"encoder": same.encoder.model_copy(update={"weights_sha256": "other"})})
    earlier = make(OLD_ITEMS, OLD_USERS, [9] * 4, image_feature="make")
    save(tmp_path, earlier, embeddings=same)
    for embeddings, goes_over in ((same, True), (other, False)):
        ranker = make(NEW_ITEMS, NEW_USERS, [9] * 5, image_feature="make")
        said = WarmStart(tmp_path).fill(ranker, NEW_ITEMS, NEW_USERS, embeddings, None)
        towers = [each.items.pictures.towers[0].logit.get_weights()[0] for each in (earlier, ranker)]
        assert np.array_equal(*towers) == goes_over
        assert ("items/pictures/din/logit/kernel" in said) != goes_over


def test_what_has_another_form_is_initialised_and_named(old):
    run, _ = old
    features = FeaturesConfig(item={"item_id": IdFeature(), "category": HashFeature(buckets=9)})
    ranker = make(NEW_ITEMS, NEW_USERS, [9] * 5, features)
    said = WarmStart(run).fill(ranker, NEW_ITEMS, NEW_USERS, None, clusters_of("same"))
    initialised = said.partition("initialised: ")[2].split(", ")
    assert "member/items/features/category_embedding/embeddings" in initialised
    assert "member/items/projection/kernel" in initialised  # it has fewer inputs
    assert "member/mlp/kernel" not in initialised
    assert "item.item_id 3 of 5" in said


def test_a_run_without_its_tables_is_refused(old, tmp_path):
    run, _ = old
    for path in run.iterdir():
        if path.name != "users.parquet":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ArtifactError, match=r"has no users\.parquet; train the ranker again"):
        WarmStart(tmp_path)


def test_members_go_over_one_by_one_and_more_of_them_begin_anew(old):
    run, earlier = old
    ranker = make(NEW_ITEMS, NEW_USERS, [9, 9, 9, 9, 3], members=2)
    before = ranker.members[1].get_weights()
    said = WarmStart(run).fill(ranker, NEW_ITEMS, NEW_USERS, None, clusters_of("same"))
    np.testing.assert_array_equal(table(ranker, "item_id")[[0, 2, 3]], table(earlier, "item_id")[[0, 3, 2]])
    for was, now in zip(before, ranker.members[1].get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    assert said.count("item.item_id 2 of 4") == 1
    assert "member-2/items/features/item_id_embedding/embeddings" in said
