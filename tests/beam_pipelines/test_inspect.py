import re
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from beam_pipelines import BuildOptions, build_dataset, inspect
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.shell.command import CommandError
from tests.beam_pipelines.page_reference import reference_pages
from tests.beam_pipelines.random_logs import SPLIT, items_table, random_logs, write_logs
from tests.browser import Elements, covered, needs_chromium, rendered, screenshot


def printed(capsys, *arguments):
    """The table as label -> column -> cell, the other lines, and the closing line."""
    capsys.readouterr()
    closing = inspect.main([str(a) for a in arguments])
    lines = capsys.readouterr().out.splitlines()
    columns = lines[0].split()
    table = {}
    for line in lines[1:14]:
        label, *cells = re.split(r"\s{2,}", line)
        table[label] = dict(zip(columns, cells, strict=True))
    assert len({len(line) for line in lines[:14]}) == 1  # aligned
    return table, lines[14:], closing


def test_figures_of_the_sample_equal_those_of_its_logs(sample_dataset, sample_logs, capsys):
    table, lines, closing = printed(capsys, sample_dataset)
    assert f"notice: {Manifest.read(sample_dataset).notice}" in lines
    impressions = pq.read_table(sample_logs / "impressions.parquet")
    steps = defaultdict(set)
    clicked = impressions.filter(pc.equal(impressions["clicked"], 1)).select(["user_id", "timestamp", "item_id"])
    for user, time, item in zip(*(column.to_pylist() for column in clicked.columns), strict=True):
        steps["click", user].add((time, item))
    for event in pq.read_table(sample_logs / "events.parquet").to_pylist():
        steps[event["event"], event["user_id"]].add((event["timestamp"], event["item_id"]))
    assert list(table["CTR"]) == ["pretrain", "train", "test", "all", "pretraining"]
    view = Manifest.read(sample_dataset).pretraining
    assert table["pages"]["pretraining"] == f"{view.pages:,}"
    assert table["impressions (# Samples)"]["pretraining"] == f"{view.impressions:,}"
    assert table["CTR"]["pretraining"] == f"{view.clicks / view.impressions:.4f}"
    for split in ("pretrain", "train", "test", "all"):
        rows = impressions if split == "all" else impressions.filter(pc.equal(impressions["split"], split))
        pages = rows.group_by(["page_id", "user_id"]).aggregate(
            [("timestamp", "min"), ("clicked", "sum"), ("clicked", "count")]
        )
        clicks, candidates = (pages[f"clicked_{name}"].to_numpy() for name in ("sum", "count"))
        users, times = pages["user_id"].to_pylist(), pages["timestamp_min"].to_pylist()

        def history(kind, users=users, times=times):
            return np.mean([sum(t < time for t, _ in steps[kind, u]) for u, time in zip(users, times, strict=True)])

        days = np.array([min(times), max(times)], "datetime64[ms]").astype("datetime64[D]").astype(str)
        expected = {
            "users (# User)": f"{len(set(users)):,}",
            "items (# Item)": f"{len(rows['item_id'].unique()):,}",
            "pages": f"{pages.num_rows:,}",
            "impressions (# Samples)": f"{rows.num_rows:,}",
            "CTR": f"{pc.mean(rows['clicked']).as_py():.4f}",
            "click history (# Hist)": f"{history('click'):.2f}",
            "payment history": f"{history('pay'):.2f}",
            "page length (# PV Items)": f"{rows.num_rows / pages.num_rows:.2f}",
            "pages with both classes": f"{np.mean((clicks > 0) & (clicks < candidates)):.1%}",
            "candidates with picture": "100.0%",
            "first day (UTC)": days[0],
            "last day (UTC)": days[1],
        }
        assert {label: table[label][split] for label in expected} == expected
    assert closing == f"inspected: {table['pages']['all']} pages in {sample_dataset}"


def test_carts_pictures_and_rejected_rows(odd_dataset, odd_rows, capsys):
    table, lines, _ = printed(capsys, odd_dataset)
    pages = reference_pages(*odd_rows)[0].values()
    assert table["cart"]["all"] == f"{np.mean([len(page['cart']) for page in pages]):.2f}"
    assert table["payment history"]["all"] == f"{np.mean([len(page['pay']) for page in pages]):.2f}"
    clicks = [{row["clicked"] for row in page["candidates"]} for page in pages]
    assert table["pages with both classes"]["all"] == f"{np.mean([c == {True, False} for c in clicks]):.1%}"
    assert {True} in clicks
    without = {"000", f"{19 - 3:03d}", "020", "021"}
    has_picture = [row["item_id"] not in without for page in pages for row in page["candidates"]]
    assert table["candidates with picture"]["all"] == f"{np.mean(has_picture):.1%}" != "100.0%"
    assert lines == [
        "pre-training: page view, at most 5 candidates and 5 clicks, 20% of the unclicked",
        "pictures: 7 stored, for 18 of 22 items",
        "items without picture: 1 missing, 3 no image named",
        "rejected rows: 1 invalid position (impressions), 1 timestamp out of range (impressions)",
        "joined rows: 100.0% of impressions with items (351 of 351), 88.0% of events with items (264 of 300), "
        "94.7% of items with pictures (18 of 19)",
        "lost values: 1 of 353 in impressions.timestamp, 1 of 353 in impressions.position",
        "notice: <b>made</b> up",
    ]


def test_one_split(odd_dataset, capsys):
    table, _, closing = printed(capsys, odd_dataset, "--split", "train")
    assert list(table["pages"]) == ["train"]
    assert closing == f"inspected: {Manifest.read(odd_dataset).splits['train'].pages} pages in {odd_dataset}"


def test_a_dataset_without_pictures(tmp_path, capsys):
    impressions, events = random_logs(pages=30)
    items = {**items_table(), "image": [""] * 20}
    logs = write_logs(tmp_path / "logs", impressions, events, items)
    build_dataset(logs, tmp_path / "d", BuildOptions(split_by_time=SPLIT))
    table, lines, _ = printed(capsys, tmp_path / "d", "--html", tmp_path / "p.html")
    assert table["candidates with picture"]["all"] == "0.0%"
    assert lines[:3] == ["pre-training: none", "pictures: none", "items without picture: all"]
    page = Elements((tmp_path / "p.html").read_text())
    assert not page.of("img")
    assert page.of("div", "placeholder")


def fails(message, *arguments):
    with pytest.raises(CommandError, match=message):
        inspect.main([str(a) for a in arguments])


@pytest.mark.parametrize("kind", ["pages/*.tfrecord", "images/*.array_record", "images/index.parquet", "items/*"])
def test_a_damaged_file_is_one_clear_error_and_leaves_no_output(odd_dataset, tmp_path, kind):
    damaged = tmp_path / "damaged"
    shutil.copytree(odd_dataset, damaged)
    path = next(damaged.glob(kind))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    fails(f"{path.name} is not the file that manifest.json lists", damaged, "--html", tmp_path / "p.html")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_wrong_options_are_told_before_any_work(odd_dataset, tmp_path):
    fails("is not a page dataset", tmp_path)
    fails("--pages must be at least 0", odd_dataset, "--pages", -1)
    fails("--html must be a file", odd_dataset, "--html", tmp_path)
    (tmp_path / "old.html").write_text("old")
    fails("pass --overwrite", odd_dataset, "--html", tmp_path / "old.html")
    closing = inspect.main([str(odd_dataset), "--html", str(tmp_path / "old.html"), "--overwrite"])
    assert closing.endswith(f" pages in {odd_dataset}; 20 of them shown in {tmp_path / 'old.html'}")
    assert "<article>" in (tmp_path / "old.html").read_text()
    manifest = Manifest.read(odd_dataset)
    shutil.copytree(odd_dataset, tmp_path / "less")
    splits = {name: split for name, split in manifest.splits.items() if name != "test"}
    manifest.model_copy(update={"splits": splits}).write(tmp_path / "less")
    fails(
        r"--split: .* has no pages in test \(splits: pretrain, train, pretraining\)",
        tmp_path / "less",
        "--split",
        "test",
    )


def test_an_output_that_cannot_be_written_whole_leaves_the_old_one(odd_dataset, tmp_path):
    (tmp_path / "old.html").write_text("old")
    command = [sys.executable, "-m", "beam_pipelines.inspect", odd_dataset, "--html", tmp_path / "old.html"]
    limited = ["bash", "-c", 'ulimit -f 4 && exec "$@"', "bash", *command, "--overwrite"]  # files of up to 4 kB
    run = subprocess.run(limited, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "error: no space left on the disk" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old.html"]
    assert (tmp_path / "old.html").read_text() == "old"
    assert subprocess.run([*command, "--overwrite"], capture_output=True, timeout=120).returncode == 0


def test_needs_neither_tensorflow_nor_beam(odd_dataset):
    code = (
        "import sys; from beam_pipelines import inspect; inspect.main(sys.argv[1:]); "
        "assert not {'tensorflow', 'apache_beam'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(odd_dataset)], check=True, timeout=120)


@needs_chromium
def test_a_browser_renders_it(odd_dataset, tmp_path):
    file = tmp_path / "pages.html"
    inspect.main([str(odd_dataset), "--html", str(file), "--pages", "6"])
    built, shown = Elements(file.read_text()), rendered(file)
    for tag in ("article", "li", "img", "svg", "rect", "tr"):
        assert len(shown.of(tag)) == len(built.of(tag)) > 0
    for width in (1200, 500):
        pixels = screenshot(file, width, 3000)
        assert covered(pixels, (18, 130, 59)) > 500  # marks of clicks
        assert covered(pixels, (50, 103, 200)) > 2000  # bars
        assert sum(covered(pixels, (n * 60, 0, 0)) for n in (1, 2, 3)) > 5000  # pictures
        assert sum(covered(pixels, (0, 0, n * 30)) for n in (4, 5, 6)) > 5000
