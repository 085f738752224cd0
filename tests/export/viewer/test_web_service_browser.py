"""The viewer's page in Chromium."""

import time

import numpy as np
import pytest

from export.viewer.answers import Answers
from export.viewer.likeness import Likeness, PictureTables
from export.viewer.rankings import Rankings
from tests.browser import MARKUP, Browser, needs_chromium
from tests.export.viewer.shop import HOSTILE, LONG, serving

pytestmark = needs_chromium

LONG_PAGE = "#/page/test/0"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A window of a desktop; what pages complain of fails every test."""
    with Browser(tmp_path_factory.mktemp("desktop"), 1280, 900) as browser:
        yield browser


@pytest.fixture
def page(browser, port):
    """Goes to a place in the viewer and waits until all of it is there."""

    def go(place, port=port):
        browser.open("about:blank")
        browser.open(f"http://127.0.0.1:{port}/{place}")
        arrived(browser, place)
        return browser

    yield go
    assert browser.problems == []


def arrived(browser, place):
    browser.wait(f"document.documentElement.dataset.rendered == '{place}'")
    if place.startswith("#/page/"):
        browser.wait(f"document.documentElement.dataset.explained == '{place}'")
        browser.wait("!document.querySelector('.columns').innerText.includes('Waiting')")


def texts(browser, selector):
    return browser.evaluate(f"[...document.querySelectorAll({selector!r})].map((each) => each.textContent)")


def test_a_page_is_shown_as_it_was_and_as_it_is_ranked(page):
    browser = page("#/page/train/0")
    shown = browser.evaluate("fetch('/api/pages/train/0').then((answer) => answer.json())")
    scores = browser.evaluate("fetch('/api/scores/train/0/latest').then((answer) => answer.json())")
    titles = [shown["items"][str(candidate["item"])]["title"] for candidate in shown["shown"]]
    assert texts(browser, "[data-column='0'] .candidate .title") == titles
    order = np.argsort(-np.array(scores["outputs"]["ctr"]), kind="stable")
    assert texts(browser, "[data-column='1'] .candidate .title") == [titles[n] for n in order]
    assert texts(browser, ".columns h3") == ["As shown", "A: latest (version 11)"]
    first = browser.evaluate("document.querySelector('[data-column=\"1\"] .score').firstChild.textContent")
    assert first == f"{max(scores['outputs']['ctr']):.4f}"
    clicked = [title for title, candidate in zip(titles, shown["shown"], strict=True) if candidate["clicked"]]
    assert texts(browser, "[data-column='0'] li:has(.clicked) .title") == clicked
    assert browser.evaluate("document.title") == "Page page-0 \N{EN DASH} page viewer"


def test_two_versions_stand_side_by_side(page):
    browser = page("#/page/train/0")
    browser.evaluate(
        "(() => { const b = document.querySelector('[name=b]'); b.value = 'version 11';"
        " b.dispatchEvent(new Event('change')); })()"
    )
    browser.wait("document.querySelectorAll('.columns ol').length == 3")
    assert texts(browser, "[data-column='1'] .candidate .title") == texts(
        browser, "[data-column='2'] .candidate .title"
    )
    assert texts(browser, ".details thead th") == ["", "--model", "A", "B"]
    assert "is not this run" not in browser.evaluate("document.querySelector('.details').innerText")
    browser.evaluate("sessionStorage.clear()")


def test_hostile_texts_are_texts(page):
    browser = page(LONG_PAGE)
    assert browser.evaluate("document.querySelector('h1').textContent") == f"Page long {MARKUP}"
    wanted = {title or item for item, title in HOSTILE.items()}
    assert wanted <= set(texts(browser, "[data-column='0'] .candidate .title"))
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("[...document.images].every((image) => image.src.startsWith(location.origin))")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for place in ("#/item/0", "#/item/3", "#/user/0", "#/find/item/e", "#/find/page/%3Cscript%3E%25"):
        page(place)
        assert browser.evaluate("document.querySelectorAll('script').length") == 1
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_missing_picture_says_so(page):
    browser = page(LONG_PAGE)
    assert texts(browser, "[data-column='0'] .picture.none") == ["no picture"]
    browser.evaluate("document.images[0].src = '/viewer.css'")
    browser.wait("document.querySelectorAll('.columns .picture.none').length == 2")
    assert "picture cannot be read" in texts(browser, ".columns .picture.none")


def test_keys_walk_through_pages_and_candidates(page):
    browser = page("#/page/train/0")
    chosen = "Number(document.querySelector('.columns [aria-pressed=true]')?.dataset.candidate)"
    start = browser.evaluate(chosen)
    count = browser.evaluate("document.querySelectorAll('[data-column=\"0\"] li').length")
    browser.press("k" if start else "j")
    moved = start - 1 if start else 1
    assert browser.evaluate(chosen) == moved
    assert browser.evaluate("document.activeElement.dataset.candidate") == str(moved)
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for _ in range(count):
        browser.press("j")
    assert browser.evaluate(chosen) == count - 1
    browser.press("n")
    arrived(browser, "#/page/train/1")
    browser.press("p")
    arrived(browser, "#/page/train/0")
    browser.press("p")
    assert browser.evaluate("location.hash") == "#/page/train/0"
    browser.press("i")
    arrived(browser, browser.wait("location.hash.startsWith('#/item/') && location.hash"))
    browser.evaluate("history.back()")
    arrived(browser, "#/page/train/0")
    browser.press("u")
    arrived(browser, browser.wait("location.hash.startsWith('#/user/') && location.hash"))
    browser.press("r")
    browser.wait("location.hash.startsWith('#/page/')")


def test_the_search_is_reached_and_leads_on_by_keyboard(page):
    browser = page("#/page/train/0")
    browser.press("/")
    assert browser.evaluate("document.activeElement.name") == "text"
    browser.type("page-11")
    browser.press("Enter")
    arrived(
        browser,
        browser.wait("location.hash.startsWith('#/page/train/') && location.hash != '#/page/train/0' && location.hash"),
    )
    assert browser.evaluate("document.querySelector('h1').textContent") == "Page page-11"
    browser.press("?")
    assert browser.evaluate("document.querySelector('dialog').open")
    browser.press("Escape")
    assert not browser.evaluate("document.querySelector('dialog').open")


def test_all_of_it_is_reached_by_tab_and_named(page):
    browser = page(LONG_PAGE)
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate("document.activeElement.matches('.history a')"):
            break
    assert browser.evaluate("document.activeElement.matches('.history a')")
    assert browser.evaluate(
        "['header', 'main', '[role=search]', '[role=status]'].every((s) => document.querySelector(s))"
    )
    unnamed = """[...document.querySelectorAll('button, a, input, select, section')].filter((each) =>
        !(each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length)).length"""
    assert browser.evaluate(unnamed) == 0
    assert browser.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")


def test_attended_steps_are_marked_in_the_history(page):
    browser = page(LONG_PAGE)
    shares = browser.evaluate(
        "[...document.querySelectorAll('[data-history=click] .weight')].map((w) => w.textContent)"
    )
    assert len(shares) == 5
    assert sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=0.5)
    assert "1,000 steps, the newest 5 of them read" in browser.evaluate("document.querySelector('.details').innerText")


def test_long_histories_are_there_at_once(page, browser, port):
    """All 1,000 steps on demand; pictures that nobody sees are not loaded."""
    browser.open("about:blank")
    start = time.monotonic()
    browser.open(f"http://127.0.0.1:{port}/{LONG_PAGE}")
    browser.wait(f"document.documentElement.dataset.rendered == '{LONG_PAGE}'")
    rendered = time.monotonic() - start
    arrived(browser, LONG_PAGE)
    all_there = time.monotonic() - start
    timing = "performance.getEntriesByType('resource').find((each) => each.name.endsWith('/api/pages/test/0')).duration"
    response = browser.evaluate(timing) / 1000
    print(f"{sum(LONG.values())} steps: response {response:.3f} s, rendered {rendered:.2f} s, all {all_there:.2f} s")
    assert max(response, rendered) < 3  # a tenth of it where nothing else runs
    assert browser.evaluate("document.querySelectorAll('[data-history=click] li').length") == 60
    browser.evaluate("[...document.querySelectorAll('button')].find((b) => b.textContent == 'Show all 1,000').click()")
    assert browser.evaluate("document.querySelectorAll('[data-history=click] li').length") == 1000
    assert browser.evaluate("document.activeElement.closest('li').dataset.step") == "60"
    assert browser.evaluate("[...document.images].every((image) => image.loading == 'lazy')")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_one_order_at_a_time_and_nothing_sideways(tmp_path, port, dark):
    with Browser(tmp_path / "phone", 360, 740, dark=dark) as phone:
        for place in (LONG_PAGE, "#/page/train/0", "#/item/0", "#/user/0", "#/find/item/gold"):
            phone.open("about:blank")
            phone.open(f"http://127.0.0.1:{port}/{place}")
            arrived(phone, place)
            assert phone.evaluate("document.documentElement.scrollWidth") == 360
            assert (
                phone.evaluate(
                    "[...document.querySelectorAll('main *')].filter((each) => !each.closest('.scroll')"
                    " && each.getBoundingClientRect().right > 360.5).length"
                )
                == 0
            )
        phone.open(f"http://127.0.0.1:{port}/#/page/train/0")
        arrived(phone, "#/page/train/0")
        seen = "[...document.querySelectorAll('.columns section')].map((each) => each.offsetParent != null)"
        assert phone.evaluate(seen) == [True, False]
        phone.evaluate("document.querySelectorAll('.choice button')[1].click()")
        assert phone.evaluate(seen) == [False, True]
        ground = phone.screenshot(tmp_path / "phone.png")[:, 2].mean()
        assert (ground < 60) == dark
        assert phone.problems == []


def test_without_a_server_the_rest_works(page, shop, ids):
    with Rankings("127.0.0.1:1", "ranker", ids, timeout=5) as rankings:
        answers = Answers(shop.dataset, rankings, likeness=Likeness(PictureTables()))
        with serving(answers) as port:
            browser = page("#/page/train/0", port)
            assert (
                "127.0.0.1:1 does not answer for ranker, latest: UNAVAILABLE" in texts(browser, ".columns .problem")[0]
            )
            details = browser.evaluate("document.querySelector('.details').innerText")
            assert "start the viewer with --model RUN" in details
            assert "start the viewer with --embeddings" in details
            assert len(texts(browser, "[data-column='0'] .candidate")) > 1
            browser.press("n")
            arrived(browser, "#/page/train/1")
            browser = page("#/item/7", port)
            assert "start the viewer with --clusters" in browser.evaluate("document.body.innerText")
            browser = page("#/page/test/1", port)
            assert texts(browser, ".details h2") == ["No candidates"]


def test_what_is_not_there_is_said(page, browser):
    page("#/page/train/0")
    browser.evaluate("location.hash = '#/page/train/999'")
    browser.wait("document.querySelector('h1').textContent == 'Not there'")
    assert "there is no page 999 in train" in browser.evaluate("document.body.innerText")
    (problem,) = browser.problems  # of the request itself, which Chromium writes on the console
    assert "404" in problem
    browser.problems.clear()
