import re

import numpy as np
import pytest

from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.embeddings.inspection import Inspection
from models.embeddings.label_report import report_tables
from tests.browser import MARKUP, Elements, check_self_contained, covered, needs_chromium, rendered, screenshot
from tests.models.embeddings.planted_kinds import COLOURS, KIND, KINDS, write_planted_kinds


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_planted_kinds(tmp_path_factory.mktemp("neighbours"))
    cluster(root / "good", root / "clusters", num_clusters=KINDS)
    return root


def make_page(root, seed=0):
    inspection = Inspection(root / "data", root / "good", root / "noise", seed=seed)
    tables = report_tables(inspection.report(k=6))
    return inspection.page(k=6, clusters=Clusters.load(root / "clusters"), tables=tables)


@pytest.fixture(scope="module")
def page(root):
    (root / "page.html").write_text(make_page(root), encoding="utf-8")
    return root / "page.html"


def test_page_shows_seeds_clusters_and_maps(root, page):
    elements = Elements(page.read_text())
    assert len(elements.of("article", "seed")) == 10
    assert len(elements.of("article", "cluster")) == KINDS
    assert len(elements.of("figure")) == 4  # two embeddings by two labels
    assert len(elements.of("table")) == 3
    texts = "".join(elements.texts)
    assert "made up for a test" in texts
    ids = np.load(root / "clusters/cluster_ids.npy")
    expected = []
    for number in np.argsort(-np.bincount(ids[ids >= 0]), kind="stable"):
        kinds = np.bincount(KIND[ids == number])
        expected.append((f"{number}", f"{kinds.sum()}", f"{100 * kinds.max() / kinds.sum():.0f}", f"{kinds.argmax()}"))
    found = re.findall(rf"Cluster (\d)(\d+) itemscategory: (\d+)% {re.escape(MARKUP)} (\d)", texts)
    assert found == expected
    counts = re.findall(r"category (\d)/6", texts)
    assert counts[::2] == ["6"] * 10  # under `good`, and fewer under `noise`
    assert sum(map(int, counts[1::2])) < 30
    marked = sum(map(int, re.findall(r"(?:category|label_size) (\d)/6", texts)))
    own = texts.count("/6") // 2  # the seeds' own chips: one per label that it has
    assert len(elements.of("span", "same")) == marked + own


def test_page_needs_nothing_else_and_is_made_of_text(page):
    assert check_self_contained(page.read_text()).of("img")


def test_same_seed_makes_the_same_page_and_another_seed_another(root, page):
    assert make_page(root) == page.read_text()
    assert make_page(root, seed=1) != page.read_text()


def test_page_of_items_asked_for_under_one_embedding(root):
    inspection = Inspection(root / "data", root / "good", labels=["label_size"], metric="cosine")
    elements = Elements(inspection.page(items=["i5"]))
    assert [len(elements.of(*name)) for name in (("article",), ("figure",), ("table",))] == [1, 1, 0]


@needs_chromium
def test_a_browser_renders_it(page):
    built, shown = Elements(page.read_text()), rendered(page)
    for tag in ("article", "li", "img", "figure", "tr"):
        assert len(shown.of(tag)) == len(built.of(tag)) > 0
    for width, height in ((1200, 9000), (500, 16000)):
        pixels = screenshot(page, width, height)
        assert covered(pixels, (18, 130, 59), 12) > 5000  # marks of labels that are the seed's
        assert all(covered(pixels, colour, 12) > 20_000 for colour in COLOURS)  # pictures
        assert covered(pixels, (81, 126, 208), 12) > 300  # points of the maps, which let the paper through
