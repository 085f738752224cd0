import re

import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.format.text_file import finite
from models.evaluation.html import render
from models.evaluation.report import evaluation_report
from models.evaluation.slices import by_category, by_count, by_flag, by_item_age
from tests.browser import MARKUP, Elements, check_self_contained, covered, needs_chromium, rendered, screenshot
from tests.models.evaluation.scored import scored

CATEGORIES = [f"{MARKUP} {n}" for n in range(3)]


def report(systems, names, items=40):
    measured = scored(pages=500, users=120, noises=np.linspace(1.2, 0.4, len(names)))
    scores = {
        name: each._replace(ctcvr=each.ctr / 2, long_visit=each.ctr / 3, long_visit_seconds=9.0, dwell=each.ctr)
        for name, each in zip(names, measured.values(), strict=True)
    }
    first = scores[names[0]]
    table = pa.table(
        {
            "category": [CATEGORIES[n % 3] if n < items - 1 else "rare" for n in range(items)],
            "published_at": pa.array([None if n % 7 == 0 else 86_400_000 * 10 * n for n in range(items)], pa.int64()),
        }
    )
    slices = [
        by_flag("training", ("seen in training", "unseen in training"), first.item > 30),
        by_category(table, first.item),
        by_item_age(table, first.item, first.timestamp),
        by_count("click history", first.page % 20),
        by_count("position", first.position),
    ]
    measured = evaluation_report(scores, first.item > 30, slices, systems, 1.0)
    for name, model in measured["models"].items():
        model |= {"run": "run", "image_feature": name.partition("-")[0], "seed": 0}
    return finite({"notice": f"simulated {MARKUP}", "split": "test", "pages": 500, **measured})


@pytest.fixture(scope="module")
def two():
    return report({"none": [0], MARKUP: [1]}, ["none", MARKUP])


@pytest.fixture(scope="module")
def seeds():
    return report({"none": [0, 2], "vector": [1, 3]}, ["none-0", "vector-0", "none-1", "vector-1"])


def test_the_page_needs_nothing_else_and_is_made_of_text(two, seeds):
    for text in (render(two), render(seeds)):
        elements = check_self_contained(text)
        assert not elements.of("img")
        assert not re.findall(r"(?:NaN|None|nan\b)", text)
        assert elements.of("html") == [{"lang": "en"}]
        assert text.index("Notice:") < text.index("<h2>")
        charts = elements.of("svg")
        assert len(charts) == 1 + 1 + 4  # by category, calibration, four kinds
        assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
        scopes = [cell.get("scope") for cell in elements.of("th")]
        assert scopes.count("row") + len(elements.of("thead")) == len(elements.of("tr"))


def test_tables_hold_the_figures(two):
    rows = Elements(render(two)).rows
    runs, unlike = (next(row for row in rows if row[0] == MARKUP and len(row) == n) for n in (9, 7))
    every, unseen = two["models"][MARKUP]["all"], two["models"][MARKUP]["unseen_items"]
    metrics = ("auc", "gauc_page_mean", "gauc_user_mean")
    expected = [*(every[name] for name in metrics), unseen["gauc_page_mean"], every["log_loss"], every["copc"]]
    assert [float(cell) for cell in runs[2:]] == pytest.approx([*expected, every["ece"]], abs=6e-5)
    differences = every["differences"]
    assert float(unlike[1]) == pytest.approx(differences["auc"]["difference"], abs=6e-5)
    assert float(unlike[-1]) == pytest.approx(differences["log_loss"]["difference"], abs=6e-5)


def test_every_task_has_a_table_and_a_difference(two):
    text = render(two)
    for task, title in (("ctcvr", "Click and conversion"), ("long_visit", "Click and long visit")):
        section = text[text.index(f"<h2>{title}</h2>") :].partition("</section>")[0]
        rows = Elements(section).rows
        every = two["tasks"][task]["systems"][MARKUP]["all"]
        runs, unlike = (next(row for row in rows if row[0] == MARKUP and len(row) == n) for n in (8, 7))
        assert float(runs[2]) == pytest.approx(every["auc"], abs=6e-5)
        assert float(unlike[1]) == pytest.approx(every["differences"]["auc"]["difference"], abs=6e-5)
        assert f"{title} by item age" in section
    assert "<h2>Dwell time</h2>" in text


def test_categories_are_sorted_by_what_is_added(two):
    text = render(two)
    chart = text[text.index("What it adds, by category") :]
    chart = chart[: chart.index("</svg>")]
    values = [float(value) for value in re.findall(r": (-?\d\.\d{4}) \[", chart)]
    differences = [each["systems"][MARKUP]["differences"]["auc"] for each in two["slices"]["category"]]
    assert values == pytest.approx(sorted((d["difference"] for d in differences), reverse=True), abs=6e-5)
    assert "faint" in chart  # the rare one
    assert chart.count("faint") == 1


def test_one_ranker_alone_is_compared_with_nothing():
    text = render(report({"none": [0]}, ["none"]))
    assert "Differences" not in text
    assert "What it adds" not in text
    assert len(Elements(text).of("svg")) == 1 + 4


def test_seeds_come_first(seeds):
    text = render(seeds)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[:4] == ["Means over runs", "Differences of the means over runs", "Runs", "Differences of runs"]
    row = next(row for row in Elements(text).rows if row[:2] == ["vector", "2"])
    runs = [seeds["models"][name]["all"]["auc"] for name in ("vector-0", "vector-1")]
    assert float(row[2]) == pytest.approx(np.mean(runs), abs=6e-5)


@needs_chromium
def test_a_browser_renders_it(seeds, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(render(seeds))
    built, shown = Elements(file.read_text()), rendered(file)
    for tag in ("section", "svg", "circle", "rect", "tr", "details"):
        assert len(shown.of(tag)) == len(built.of(tag)) > 0
    for width, height in ((1200, 3600), (500, 4800)):
        pixels = screenshot(file, width, height)
        assert covered(pixels, (37, 99, 184)) > 1000  # the second system's dots and lines
        assert covered(pixels, (107, 114, 128)) > 1000  # the first's
        assert covered(pixels, (157, 185, 223)) > 1000  # bars, which let the paper through
