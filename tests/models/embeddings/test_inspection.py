import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from models.clustering.cluster import cluster
from models.embeddings.embeddings import Embeddings
from models.embeddings.inspection import Inspection
from tests.models.embeddings.planted_kinds import ITEMS, WITHOUT_PICTURE, write_planted_kinds


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_planted_kinds(tmp_path_factory.mktemp("inspection"))


@pytest.fixture(scope="module")
def inspection(root):
    return Inspection(root / "data", root / "good", root / "noise")


@pytest.fixture(scope="module")
def distances(root):
    """Of all pairs of items under `good`; infinite to the item itself and to the one without a picture."""
    vectors = Embeddings.load(root / "good").vectors
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    distances[np.arange(ITEMS), np.arange(ITEMS)] = distances[:, WITHOUT_PICTURE] = np.inf
    return distances


def test_neighbours_of_items(inspection, distances):
    nearest = inspection.neighbours(["i4", "i0"], k=3)
    assert list(nearest) == inspection.names == ["good", "noise"]
    assert nearest["good"].seeds.tolist() == [4, 0]
    assert nearest["good"].rows.tolist() == np.argsort(distances[[4, 0]])[:, :3].tolist()
    first, second, *_ = inspection.neighbour_tables(["i4", "i0"], k=3)
    assert first.title.startswith("good: i4  ")
    assert second.title.startswith("good: i0  ")
    assert [row[:2] for row in second.rows[1:]] == [
        [f"{n}", f"i{row}"] for n, row in enumerate(nearest["good"].rows[1], 1)
    ]
    assert float(first.rows[1][-1]) == pytest.approx(distances[4].min(), abs=1e-4)


def test_report_of_two_embeddings(inspection, distances):
    report = inspection.report(k=5)
    assert report["notice"] == "made up for a test"
    assert list(report["labels"]) == ["category", "label_size"]  # nobody has a `label_void`
    category, size = report["labels"].values()
    good = category["consistency"]["good"]
    assert (good["mean"], good["seeds"], good["left_out"]) == (1.0, ITEMS - 1, 0)
    noise = category["consistency"]["noise"]
    assert noise["mean"] == pytest.approx(category["chance"], abs=0.15)
    gain = category["gain"]["noise"]
    assert gain["mean"] == pytest.approx(noise["mean"] - 1)
    assert gain["standard_error"] == pytest.approx(noise["standard_error"])
    assert size["consistency"]["good"]["left_out"] == 1
    assert category["probes"]["good"]["linear"]["top1"] == 1.0
    assert category["probes"]["good"]["knn"]["top1"] == 1.0
    # Titles of items 0 and 1 are missing, item 7 has no picture and leaves item 6 without a counterpart.
    recall = report["identity_recall"]["good"]
    assert recall["queries"] == ITEMS - 4
    queries = [row for row in range(2, ITEMS) if row not in (6, 7)]
    found = [row ^ 1 in np.argsort(distances[row])[:5] for row in queries]
    assert recall["recall"][5] == pytest.approx(np.mean(found))


def test_embeddings_of_the_same_name_are_told_apart_by_their_paths(root, tmp_path):
    (tmp_path / "good").symlink_to(root / "noise")
    inspection = Inspection(root / "data", root / "good", tmp_path / "good", labels=["category"])
    assert inspection.names == [str(root / "good"), str(tmp_path / "good")]
    assert list(inspection.labels) == ["category"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"labels": ["category", "label_style"]},
            InputError,
            "`labels` must be among category, label_.*Received: label_s",
        ),
        ({"labels": ["label_void"]}, InputError, "`labels`: no item has a value. Received: label_void"),
        ({"compare": "good"}, InputError, "`compare` must be other embeddings than `embeddings`. Received: good"),
        ({"embeddings": "of_others"}, ArtifactError, "`embeddings`: made for the items of another dataset"),
        ({"compare": "of_others"}, ArtifactError, "`compare`: made for the items of another dataset"),
        ({"embeddings": "nowhere"}, ArtifactError, "`embeddings`: .*models.embed makes it"),
        ({"embeddings": "broken"}, ArtifactError, "`embeddings` broken: `vectors` must be finite.*the first is row 3"),
        ({"compare": "broken"}, ArtifactError, "`compare` broken: `vectors` must be finite"),
    ],
)
def test_embeddings_and_labels_that_cannot_be_used_are_refused(root, monkeypatch, options, error, message):
    monkeypatch.chdir(root)
    with pytest.raises(error, match=message):
        Inspection(**{"data": "data", "embeddings": "good", **options})


def test_questions_that_cannot_be_answered_are_refused(root, inspection):
    for items, k, message in [
        (["i1", "nobody"], 3, "`items` must be an ID of the item table. Received: nobody"),
        ([f"i{WITHOUT_PICTURE}"], 3, "`items` must have a picture. Received: i7"),
        (["i1"], 0, "`k` must be at least 1. Received: 0"),
        (["i1"], 79, "`k` must be at most 78 for 79 items with a picture. Received: 79"),
    ]:
        for ask in (inspection.neighbours, inspection.neighbour_tables, lambda i, k: inspection.page(items=i, k=k)):
            with pytest.raises(InputError, match=message):
                ask(items, k)
    with pytest.raises(InputError, match="`k` must be at most 78"):
        inspection.report(k=79)
    with pytest.raises(InputError, match=r"`queries` must be at least 1. Received: 0"):
        inspection.report(queries=0)
    others = cluster(root / "of_others", root / "clusters_of_others")
    with pytest.raises(ArtifactError, match="`clusters`: made for the items of another dataset"):
        inspection.page(clusters=others)
    without_labels = Inspection(root / "data", root / "good", labels=[])
    with pytest.raises(InputError, match=r"no item of .* has a category or a label_\* to report on; pass `items`"):
        without_labels.report()
