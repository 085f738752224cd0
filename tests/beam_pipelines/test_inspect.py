import base64
import io
import re
import resource
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_pipelines import build, inspect
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.shell.command import CommandError
from tests.beam_pipelines.page_reference import reference_pages
from tests.beam_pipelines.test_build import SPLIT, items_table, random_logs, write_logs
from tests.browser import MARKUP, Elements, covered, needs_chromium, rendered, screenshot


@pytest.fixture(scope="module")
def odd_rows():
    impressions, events = random_logs()
    return [{**row, "query": row["query"] and f"{row['query']} {MARKUP}"} for row in impressions], events


@pytest.fixture(scope="module")
def odd_dataset(tmp_path_factory, odd_rows):
    """Markup in every text, items without a picture, rejected rows."""
    impressions, events = odd_rows
    items = items_table()
    items["title"] = [None, *(f"{MARKUP} {n}" for n in range(1, 20))]
    items["category"] = [MARKUP] * 20
    items["image"][3] = "nowhere.jpg"
    rejected = [{**impressions[0], "position": -1}, {**impressions[1], "timestamp": -1}]
    logs = write_logs(tmp_path_factory.mktemp("odd") / "logs", [*impressions, *rejected], events, items)
    (logs / "logs.json").write_text('{"notice": "<b>made</b> up"}')
    build.main(["--logs", str(logs), "--output", str(logs.parent / "dataset"), *SPLIT])
    return logs.parent / "dataset"


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
        "rejected rows: 1 invalid position (impressions), 1 invalid timestamp (impressions)",
        "notice: <b>made</b> up",
    ]


def test_one_split(odd_dataset, capsys):
    table, _, closing = printed(capsys, odd_dataset, "--split", "train")
    assert list(table["pages"]) == ["train"]
    assert closing == f"inspected: {Manifest.read(odd_dataset).splits['train'].pages} pages in {odd_dataset}"


def test_the_page_shows_what_happened_and_escapes_everything(odd_dataset, odd_rows, tmp_path):
    file = tmp_path / "new" / "pages.html"
    closing = inspect.main([str(odd_dataset), "--html", str(file), "--pages", "1000"])
    pages = reference_pages(*odd_rows)[0]
    assert closing.endswith(f"{len(pages)} of them shown in {file}")
    page = Elements(file.read_text())
    assert len(page.of("article")) == len(pages)
    candidates = [row for page in pages.values() for row in page["candidates"]]
    shown = [attributes for tag, attributes in page.found if tag == "li" and "class" in attributes]
    assert sum("clicked" in a["class"].split() for a in shown) == sum(row["clicked"] for row in candidates)
    assert sum("bought" in a["class"].split() for a in shown) == sum(row["converted"] for row in candidates)
    steps = sum(min(len(page[name]), 12) for page in pages.values() for name in ("click", "pay", "cart"))
    assert len(page.of("img")) + len(page.of("div", "placeholder")) == len(candidates) + steps

    texts = set(page.texts)
    assert {f"{MARKUP} {n}" for n in range(1, 20)} <= texts
    assert {MARKUP, f"rot {MARKUP}", f"blau {MARKUP}", " <b>made</b> up"} <= texts
    assert not {"script", "b", "link", "iframe"} & {tag for tag, _ in page.found}
    assert not [a for _, attributes in page.found for a in attributes if a.startswith("on") or a == "href"]
    for attributes in page.of("img"):
        picture = Image.open(io.BytesIO(base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,"))))
        assert max(picture.size) <= 150
    assert [path.name for path in file.parent.iterdir()] == ["pages.html"]


def test_candidates_are_in_order_and_histories_newest_first(odd_dataset, odd_rows, tmp_path):
    inspect.main([str(odd_dataset), "--html", str(tmp_path / "p.html"), "--pages", "1000"])
    pages = reference_pages(*odd_rows)[0]
    articles = (tmp_path / "p.html").read_text().split("<article>")[1:]
    ids = {re.search(r"page (p\d+)<", article)[1]: article for article in articles}
    assert ids.keys() == pages.keys()
    for page_id, article in ids.items():
        page = pages[page_id]
        positions = re.findall(r'<span class="position">(\d+)</span>', article)
        assert list(map(int, positions)) == [row["position"] for row in page["candidates"]]
        history, shown = article.split("<h3>Shown</h3>")
        steps = [step for name in ("click", "pay", "cart") for step in page[name][:12]]
        assert re.findall(r'title="[^"]*?(\d{3})"', history) == [item for _, item in steps]
        ages = re.findall(r"<small>(\d+) (d|h|min|s)</small>", history)
        for (time, _), (amount, unit) in zip(steps, ages, strict=True):
            length = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "s": 1000}[unit]
            assert 0 <= page["time"] - time - int(amount) * length < length
        assert re.findall(r'title="[^"]*?(\d{3})"', shown) == [row["item_id"] for row in page["candidates"]]


def test_plots_show_history_lengths_and_clicks_by_position(odd_dataset, odd_rows, tmp_path):
    inspect.main([str(odd_dataset), "--html", str(tmp_path / "p.html"), "--pages", "0"])
    bars = re.findall(
        r"<rect [^>]*><title>(\w+), ([\d-]+): ([\d.]+%)</title></rect>", (tmp_path / "p.html").read_text()
    )
    pages = reference_pages(*odd_rows)[0].values()
    shown = defaultdict(list)
    for page in pages:
        for row in page["candidates"]:
            shown["CTR", str(row["position"])].append(row["clicked"])
        for name in ("click", "pay", "cart"):
            for first, last in ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31)):
                bin_name = str(first) if first == last else f"{first}-{last}"
                shown[name, bin_name].append(first <= len(page[name]) <= last)
    assert {(name, label): share for name, label, share in bars} == {
        key: f"{np.mean(values):.2%}" for key, values in shown.items()
    }


def test_pages_are_chosen_alike_from_every_split_and_better_ones_first(odd_dataset, odd_rows, tmp_path):
    def chosen(name, *options):
        inspect.main([str(odd_dataset), "--html", str(tmp_path / name), *options])
        text = (tmp_path / name).read_text()
        return text, re.findall(r'<span class="split">(\w+)</span>.*?page (p\d+)<', text)

    text, shown = chosen("a.html", "--pages", "9")
    assert chosen("b.html", "--pages", "9")[0] == text
    assert [split for split, _ in shown] == ["pretrain"] * 3 + ["train"] * 3 + ["test"] * 3
    pages = reference_pages(*odd_rows)[0]
    for _, page_id in shown:
        assert any(row["clicked"] for row in pages[page_id]["candidates"])
        assert any(pages[page_id][name] for name in ("click", "pay", "cart"))
    assert {split for split, _ in chosen("c.html", "--split", "test")[1]} == {"test"}
    assert chosen("d.html", "--pages", "0")[1] == []


def test_a_dataset_without_pictures(tmp_path, capsys):
    impressions, events = random_logs(pages=30)
    items = {**items_table(), "image": [""] * 20}
    logs = write_logs(tmp_path / "logs", impressions, events, items)
    build.main(["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT])
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
    inspect.main([str(odd_dataset), "--html", str(tmp_path / "old.html"), "--overwrite"])
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

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    assert subprocess.run([*command, "--overwrite"], preexec_fn=limit, capture_output=True, timeout=120).returncode == 1
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
