import json
import re

import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from models.clustering.cluster import cluster
from models.neighbours import main
from tests.browser import MARKUP, Elements, check_self_contained, covered, needs_chromium, rendered, screenshot
from tests.models.picture_dataset import write_picture_dataset
from tests.models.saved_embeddings import save_embeddings

ITEMS, KINDS, WITHOUT_PICTURE = 80, 4, 7
COLOURS = [(200, 40, 40), (40, 160, 40), (40, 40, 200), (200, 160, 40)]


def write_embeddings(directory, dataset, embeddings):
    save_embeddings(directory, embeddings.astype(np.float32), np.arange(ITEMS) != WITHOUT_PICTURE, dataset)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Items of four kinds: `good` embeddings tell kinds apart, `noise` does not. Item 7 has no picture.

    Items 2 n and 2 n + 1 share a title, those with another text in it than markup.
    """
    root = tmp_path_factory.mktemp("neighbours")
    rng = np.random.default_rng(0)
    kinds = np.arange(ITEMS) // 2 % KINDS
    pictures = [np.full((12, 8, 3), COLOURS[kind], np.uint8) for kind in kinds]
    places = [(-1, -1) if row == WITHOUT_PICTURE else (0, row) for row in range(ITEMS)]
    columns = {
        "category": [f"{MARKUP} {kind}" for kind in kinds],
        "title": [None, None, *(f"{MARKUP} {row // 2}" for row in range(2, ITEMS))],
        "label_size": ["", *rng.choice(["small", "large"], ITEMS - 1)],
        "label_void": [None] * ITEMS,
    }
    dataset = write_picture_dataset(root / "data", [pictures], places, columns=columns)
    other = write_picture_dataset(root / "other_data", [pictures[:3]], [(0, 0), (0, 1), (0, 2)])
    good = 10 * rng.normal(size=(KINDS, 6))[kinds] + 0.5 * rng.normal(size=(ITEMS, 6))
    write_embeddings(root / "good", dataset, good)
    write_embeddings(root / "noise", dataset, rng.normal(size=(ITEMS, 6)))
    write_embeddings(root / "broken", dataset, np.where(np.arange(ITEMS)[:, None] == 3, np.nan, good))
    write_embeddings(root / "of_others", other, good)
    cluster(root / "good", root / "clusters", num_clusters=KINDS)
    return root


def run(root, *options, embeddings="good"):
    paths = ["--data", str(root / "data"), "--embeddings", str(root / embeddings)]
    return main([*paths, *map(str, options)])


def test_prints_the_neighbours_of_items(root, capsys):
    closing = run(root, "--item", "i4", "i0", "-k", "3")
    lines = capsys.readouterr().out.splitlines()
    embeddings = np.load(root / "good/embeddings.npy")
    start = {}
    for seed in (4, 0):
        (line,) = (n for n, line in enumerate(lines) if line.startswith(f"good: i{seed}  "))
        start[seed] = line
        distances = np.linalg.norm(embeddings - embeddings[seed], axis=1)
        distances[[seed, WITHOUT_PICTURE]] = np.inf
        for place, row in enumerate(np.argsort(distances)[:3], start=1):
            cells = re.split(r"\s{2,}", lines[line + 1 + place])
            assert cells[:2] == [str(place), f"i{row}"]
            assert float(cells[-1]) == pytest.approx(distances[row], abs=1e-4)
    assert start[4] < start[0]  # as asked
    assert "notice: made up for a test" in lines
    assert closing == "neighbours of 2 items under good"


def test_report_of_two_embeddings(root, tmp_path, capsys):
    run(root, "--compare", root / "noise", "-k", "5", "--output", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
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
    embeddings = np.load(root / "good/embeddings.npy")
    distances = np.linalg.norm(embeddings[:, None] - embeddings, axis=2)
    distances[np.arange(ITEMS), np.arange(ITEMS)] = distances[:, WITHOUT_PICTURE] = np.inf
    queries = [row for row in range(2, ITEMS) if row not in (6, 7)]
    found = [row ^ 1 in np.argsort(distances[row])[:5] for row in queries]
    assert recall["recall"]["5"] == pytest.approx(np.mean(found))
    assert report["notice"] == "made up for a test"
    printed = capsys.readouterr().out
    assert "1.0000 ± 0.0000" in printed
    assert f"{gain['mean']:+.4f} ± {gain['standard_error']:.4f}" in printed


@pytest.fixture(scope="module")
def page(root):
    closing = run(
        root, "--compare", root / "noise", "--clusters", root / "clusters", "--html", root / "page.html", "-k", "6"
    )
    assert closing.endswith(f"in {root / 'page.html'}")
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
        kinds = np.bincount((np.arange(ITEMS) // 2 % KINDS)[ids == number])
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


def test_same_seed_makes_the_same_page_and_another_seed_another(root, page, tmp_path):
    options = ["--compare", root / "noise", "--clusters", root / "clusters", "-k", "6"]
    run(root, *options, "--html", tmp_path / "same.html")
    assert (tmp_path / "same.html").read_bytes() == page.read_bytes()
    run(root, *options, "--html", tmp_path / "other.html", "--seed", "1")
    assert (tmp_path / "other.html").read_bytes() != page.read_bytes()


def test_page_of_items_asked_for_under_one_embedding(root, tmp_path):
    run(root, "--item", "i5", "--html", tmp_path / "page.html", "--labels", "label_size", "--metric", "cosine")
    elements = Elements((tmp_path / "page.html").read_text())
    assert [len(elements.of(*name)) for name in (("article",), ("figure",), ("table",))] == [1, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--item", "i1", "nobody"], r"--item must be an ID of the item table. Received: nobody"),
        (["--item", f"i{WITHOUT_PICTURE}"], r"--item must have a picture. Received: i7"),
        (["-k", "0"], r"-k must be at least 1. Received: 0"),
        (["-k", "79"], r"-k must be at most 78 for 79 items with a picture. Received: 79"),
        (["--queries", "0"], r"--queries must be at least 1. Received: 0"),
        (["--labels", "category,label_style"], r"--labels must be among category, label_.*Received: label_style"),
        (["--labels", "label_void"], r"--labels: no item has a value. Received: label_void"),
        (["--embeddings", "of_others"], r"--embeddings: made for the items or pictures of another dataset"),
        (["--compare", "of_others"], r"--compare: made for the items or pictures of another dataset"),
        (["--compare", "good"], r"--compare must be other embeddings than --embeddings"),
        (["--embeddings", "nowhere"], r"--embeddings: .*models\.embed makes it"),
        (["--embeddings", "broken"], r"--embeddings .*: `embeddings` must be finite.*the first is row 3"),
        (["--compare", "broken"], r"--compare .*: `embeddings` must be finite"),
        (["--clusters", "clusters"], r"--clusters is for the page; pass --html"),
        (["--clusters", "good", "--html", "page"], r"--clusters: .*models\.cluster makes it"),
        (["--item", "i1", "--output", "report"], r"--output is for the report, which --item replaces"),
        (["--html", "data"], r"--html must be a file to write. Received the directory"),
        (["--html", "clusters/metadata.json"], r"metadata.json exists; pass --overwrite"),
    ],
)
def test_mistakes_are_one_clear_line_and_write_nothing(root, monkeypatch, capsys, options, message):
    monkeypatch.chdir(root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(CommandError, match=message) as error:
        main(["--data", "data", "--embeddings", "good", *options])
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


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
