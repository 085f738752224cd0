import json
import re

import pytest

from beam_pipelines.shell.command import CommandError
from models.clustering.cluster import cluster
from models.embeddings.inspection import Inspection
from models.neighbours import main
from tests.browser import Elements
from tests.models.embeddings.planted_kinds import KINDS, WITHOUT_PICTURE, write_planted_kinds


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_planted_kinds(tmp_path_factory.mktemp("neighbours"))
    cluster(root / "good", root / "clusters", num_clusters=KINDS)
    return root


def run(root, *options):
    return main(["--data", str(root / "data"), "--embeddings", str(root / "good"), *map(str, options)])


def test_prints_the_neighbours_of_items(root, capsys):
    closing = run(root, "--item", "i4", "i0", "-k", "3")
    lines = capsys.readouterr().out.splitlines()
    nearest = Inspection(root / "data", root / "good").neighbours(["i4", "i0"], 3)["good"]
    start = {}
    for seed, rows, distances in zip(*nearest, strict=True):
        (line,) = (n for n, line in enumerate(lines) if line.startswith(f"good: i{seed}  "))
        start[seed] = line
        for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), start=1):
            cells = re.split(r"\s{2,}", lines[line + 1 + rank])
            assert cells[:2] == [str(rank), f"i{row}"]
            assert float(cells[-1]) == pytest.approx(distance, abs=1e-4)
    assert start[4] < start[0]  # as asked
    assert lines[0] == "notice: made up for a test"
    assert closing == "neighbours of 2 items under good"


def test_prints_and_writes_a_report_and_a_page(root, tmp_path, capsys):
    report_file, page_file = tmp_path / "report.json", tmp_path / "page.html"
    options = ["--compare", root / "noise", "-k", "5", "--labels", "category", "--clusters", root / "clusters"]
    closing = run(root, *options, "--output", report_file, "--html", page_file)
    assert closing == f"1 labels under good and noise, in {report_file} and {page_file}"
    report = json.loads(report_file.read_text())
    expected = Inspection(root / "data", root / "good", root / "noise", labels=["category"]).report(k=5)
    assert report == json.loads(json.dumps(expected))
    gain = report["labels"]["category"]["gain"]["noise"]
    printed = capsys.readouterr().out
    assert printed.startswith("notice: made up for a test\n\nKNN label consistency: ")
    assert "1.0000 ± 0.0000" in printed
    assert f"{gain['mean']:+.4f} ± {gain['standard_error']:.4f}" in printed
    elements = Elements(page_file.read_text())
    assert len(elements.of("article", "cluster")) == KINDS
    assert len(elements.of("table")) == 3


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
        (["--embeddings", "of_others"], r"--embeddings: made for the items of another dataset"),
        (["--compare", "of_others"], r"--compare: made for the items of another dataset"),
        (["--compare", "good"], r"--compare must be other embeddings than --embeddings"),
        (["--embeddings", "nowhere"], r"--embeddings: .*models\.embed makes it"),
        (["--embeddings", "broken"], r"--embeddings .*: `vectors` must be finite.*the first is row 3"),
        (["--compare", "broken"], r"--compare .*: `vectors` must be finite"),
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
