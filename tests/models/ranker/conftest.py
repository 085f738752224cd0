"""Pages of a tiny dataset, and rankers of its sizes."""

import numpy as np
import pytest

from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import page_batches
from models.embeddings.embeddings import Embeddings
from models.features.adapt import adapt_features
from models.features.spec import resolve_features
from models.features.training_counts import count_training
from models.ranker.config import image_features_of
from models.ranker.pictures.pictures import PICTURE_FEATURES
from models.ranker.ranker import Ranker
from tests.models.ranker.ranker_pages import CONFIG, IMAGE_FEATURE_SETS, PAGE_LENGTHS, last, semantic_ids_of
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def dataset(tiny):
    return Dataset(tiny.data)


@pytest.fixture(scope="module")
def counts(dataset):
    return count_training(dataset.pages("train"))[0]


@pytest.fixture(scope="module")
def resolve(dataset):
    """The features of the dataset, without the IDs' dropout."""

    def resolve_config(config, dropout=0.0):
        features = resolve_features(config.features, dataset.items().schema, dataset.users().schema)
        sections = {}
        for section in ("item", "user"):
            declared = getattr(features, section)
            dropped = {
                name: f.model_copy(update={"dropout": dropout}) for name, f in declared.items() if f.type == "id"
            }
            sections[section] = {**declared, **dropped}
        return config.model_copy(update={"features": features.model_copy(update=sections)})

    return resolve_config


@pytest.fixture(scope="module")
def page(dataset):
    """The last pages of training: most have histories, some have fewer candidates than others."""
    return next(iter(page_batches(dataset, "train", PAGE_LENGTHS, batch_size=240).map(lambda p: last(p, 24))))


@pytest.fixture(scope="module")
def make(tiny, dataset, counts, resolve):
    def make_ranker(image_feature, config=CONFIG, seed=0, dropout=0.0, **options):
        if image_feature == IMAGE_FEATURE_SETS[-1]:
            by_similarity = {"similarity_aware": True, "similarity_buckets": 5}
            config = config.model_copy(update={"attention": config.attention.model_copy(update=by_similarity)})
        config = resolve(config, dropout)
        images = {}
        reads = {PICTURE_FEATURES[name].reads for name in image_features_of(image_feature)}
        if "embeddings" in reads:
            vectors = np.asarray(Embeddings.load(tiny.embeddings).vectors)
            images["image_embeddings"] = [vectors, vectors[:, :3] ** 2][: 1 + ("," in image_feature)]
        if "clusters" in reads:
            clusters = Clusters.load(tiny.clusters)
            images |= {"cluster_ids": clusters.ids, "centers": clusters.centers}
            if "semantic_id" in image_feature:
                images |= {"semantic_ids": semantic_ids_of(clusters), "levels": 2}
        tables = adapt_features(
            config.features, dataset.items(), dataset.users(), counts, token_buckets=config.token_buckets, **images
        )
        ranker = Ranker(config, tables.sizes, image_feature, **options)
        # Larger weights than the initial ones, so that every input moves the scores visibly.
        rng = np.random.default_rng(seed)
        towers = [variable for tower in ranker.items.pictures.towers for variable in tower.variables]
        for variable in ranker.trainable_variables + towers:
            variable.assign(rng.normal(0, 0.25, variable.shape))
        ranker.fill(tables)
        return ranker

    return make_ranker


@pytest.fixture(scope="module", params=IMAGE_FEATURE_SETS)
def ranker(make, request):
    return make(request.param)
