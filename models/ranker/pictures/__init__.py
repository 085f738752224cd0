"""Picture features, one file each: how pictures enter a ranker."""

from models.features.spec import FeatureSizes
from models.ranker.config import ImageFeature, RankerConfig
from models.ranker.pictures.cluster_id import ClusterIdFeature
from models.ranker.pictures.picture_feature import PictureFeature
from models.ranker.pictures.simscore import SimScoreFeature
from models.ranker.pictures.vector import VectorFeature

PICTURE_FEATURES: dict[ImageFeature, type[PictureFeature]] = {
    "none": PictureFeature,
    "vector": VectorFeature,
    "simscore": SimScoreFeature,
    "cluster_id": ClusterIdFeature,
}


def make_picture_feature(image_feature: ImageFeature, sizes: FeatureSizes, config: RankerConfig) -> PictureFeature:
    """A new layer of this name."""
    options = {}
    if image_feature == "cluster_id":
        options = {"embed": config.embed_clusters, "compare": config.compare_clusters}
    return PICTURE_FEATURES[image_feature](sizes, name="pictures", **options)
