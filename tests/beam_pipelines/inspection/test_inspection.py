import base64
import io
import re
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.inspection.inspection import inspect_dataset
from tests.beam_pipelines.page_reference import reference_pages
from tests.browser import MARKUP, Elements


def test_the_page_shows_what_happened_and_escapes_everything(odd_dataset, odd_rows, tmp_path):
    file = tmp_path / "new" / "pages.html"
    inspection = inspect_dataset(odd_dataset, pages=1000)
    inspection.write_html(file)
    pages = reference_pages(*odd_rows)[0]
    assert len(inspection.shown) == inspection.total.pages == len(pages)
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
    inspect_dataset(odd_dataset, pages=1000).write_html(tmp_path / "p.html")
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
    inspect_dataset(odd_dataset, pages=0).write_html(tmp_path / "p.html")
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
    def chosen(name, pages, split=None):
        inspect_dataset(odd_dataset, pages=pages, split=split).write_html(tmp_path / name)
        text = (tmp_path / name).read_text()
        return text, re.findall(r'<span class="split">(\w+)</span>.*?page (p\d+)<', text)

    text, shown = chosen("a.html", 9)
    assert chosen("b.html", 9)[0] == text
    assert [split for split, _ in shown] == ["pretrain"] * 3 + ["train"] * 3 + ["test"] * 3
    pages = reference_pages(*odd_rows)[0]
    for _, page_id in shown:
        assert any(row["clicked"] for row in pages[page_id]["candidates"])
        assert any(pages[page_id][name] for name in ("click", "pay", "cart"))
    assert {split for split, _ in chosen("c.html", 20, "test")[1]} == {"test"}
    assert chosen("d.html", 0)[1] == []


def test_wrong_arguments_are_named(odd_dataset, tmp_path):
    with pytest.raises(InputError, match=r"^`pages` must be at least 0"):
        inspect_dataset(odd_dataset, pages=-1)
    with pytest.raises(InputError, match=r"^`split`: .* has no pages in validation"):
        inspect_dataset(odd_dataset, split="validation")
    with pytest.raises(ArtifactError, match="is not a page dataset"):
        inspect_dataset(tmp_path)
