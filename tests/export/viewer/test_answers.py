import numpy as np
import pytest

from beam_pipelines.format.records import encode_page
from export.viewer.answers import Answers, NotThere
from export.viewer.likeness import Likeness, PictureTables
from export.viewer.rankings import Rankings
from export.viewer.stored_pages import PageNumber
from tests.export.toy_ranker import LENGTHS
from tests.export.viewer.shop import HOSTILE, LONG, MARKUP, MOMENT, NO_PICTURE, picture_of

LONG_PAGE, EMPTY_PAGE = PageNumber("test", 0), PageNumber("test", 1)


@pytest.fixture(scope="module")
def bare(shop, ids):
    """Without a ranker, embeddings, clusters, versions and a server."""
    with Rankings("127.0.0.1:1", "ranker", ids, timeout=5) as rankings:
        yield Answers(shop.dataset, rankings, likeness=Likeness(PictureTables()))


def test_about_names_what_there_is(answers, bare):
    about = answers.about()
    assert about["splits"] == {"train": 12, "test": 2}
    # What a server would take for a version, complete or not.
    assert about["choices"] == ["latest", "label canary", "version 11", "version 10", "version 2"]
    assert about["versions"] == {2: {}, 10: {}, 11: {"image_feature": "cluster_id", "is_model": True}}
    assert (about["ranker"], about["vectors"], about["clusters"]) == ("cluster_id", "the centers of clusters", True)
    about = bare.about()
    assert (about["choices"], about["versions"]) == (["latest"], {})
    assert (about["ranker"], about["vectors"], about["clusters"]) == (None, None, False)


def test_a_page_is_what_was_stored(shop, answers):
    page, shown = shop.pages["test"][0], answers.page(LONG_PAGE)
    assert (shown["page_id"], shown["user_id"], shown["query"]) == (f"long {MARKUP}", MARKUP, MARKUP)
    assert (shown["time"], shown["pages"], shown["candidates"]) == (MOMENT, 2, 8)
    for name in ("item", "position", "clicked", "converted", "dwell"):
        assert [candidate[name] for candidate in shown["shown"]] == page[name].tolist()
    for name, length in LONG.items():
        assert shown["histories"][name]["items"] == page[f"{name}_item"].tolist()
        assert shown["histories"][name]["ages"] == (MOMENT - page[f"{name}_time"]).tolist()
        assert len(shown["histories"][name]["ages"]) == length
    assert shown["items"].keys() == {*page["item"].tolist(), *(i for n in LONG for i in page[f"{n}_item"].tolist())}
    for row, (item, title) in enumerate(HOSTILE.items()):
        category = ("rings", "chains", "")[row % 3]
        assert shown["items"][row] == {"id": item, "title": title, "category": category, "picture": row != NO_PICTURE}
    assert answers.page(EMPTY_PAGE)["shown"] == []
    assert answers.explanation(EMPTY_PAGE)["histories"]["pay"]["candidates"] == []


def test_slices_are_those_of_reports(answers, bare):
    slices = answers.page(LONG_PAGE)["slices"]
    assert slices[0] == [
        "training: unseen in training",
        "category: rings",
        "item age: 0-6 days",
        "click history: 512-1023",
        "position: 4-7",
    ]
    assert slices[5][0] == "training: seen in training"
    assert slices[2][1] == "category: (none)"
    assert slices[7][2:] == ["item age: 7-29 days", "click history: 512-1023", "position: 0"]
    assert bare.page(LONG_PAGE)["slices"][0] == slices[0][1:]


def test_steps_that_attract_attention_come_first(shop, answers, ranker_view):
    record = encode_page(shop.pages["test"][0])
    attention = ranker_view.look(record).attention["click"]
    explanation = answers.explanation(LONG_PAGE)
    history = explanation["histories"]["click"]
    assert (history["length"], history["read"], history["attends"]) == (1000, LENGTHS.click, True)
    for n, candidate in enumerate(history["candidates"]):
        of_step = {step["step"]: step for step in candidate["steps"]}
        assert {*range(LENGTHS.click)} <= of_step.keys()  # at most 6 are shown
        for step, found in of_step.items():
            if step < LENGTHS.click:
                assert found["whole"] == pytest.approx(attention.whole[n, step])
                assert found["recent"] == pytest.approx(attention.recent[n, step])
            else:
                assert found["whole"] is found["recent"] is None
        weights = [step["whole"] for step in candidate["steps"] if step["whole"] is not None]
        assert weights == sorted(weights, reverse=True)


def test_matching_steps_are_counted_and_marked(shop, answers):
    page = shop.pages["test"][0]
    cards = answers.page(LONG_PAGE)["items"]
    clusters = [answers.item(row)["cluster"] for row in range(35)]
    explained = answers.explanation(LONG_PAGE)["histories"]
    for name in LONG:
        steps = page[f"{name}_item"].tolist()
        for item, candidate in zip(page["item"].tolist(), explained[name]["candidates"], strict=True):

            def same(step, item=item):
                alike = {"item": step == item}
                alike["cluster"] = clusters[item] is not None and clusters[step] is not None
                alike["cluster"] = alike["cluster"] and clusters[item]["id"] == clusters[step]["id"]
                alike["category"] = cards[item]["category"] == cards[step]["category"] != ""
                return alike

            counts = {what: sum(same(step)[what] for step in steps) for what in ("item", "cluster", "category")}
            assert candidate["counts"] == counts
            for found in candidate["steps"]:
                assert found["same"] == [what for what, is_same in same(steps[found["step"]]).items() if is_same]


def test_without_a_ranker_and_pictures_the_rest_is_there(bare):
    explanation = bare.explanation(LONG_PAGE)
    assert explanation["parts"] is None
    history = explanation["histories"]["click"]
    assert (history["length"], history["attends"]) == (1000, False)
    assert history["candidates"][0]["steps"] == []
    assert history["candidates"][0]["counts"].keys() == {"item", "category"}
    assert "127.0.0.1:1 does not answer for ranker, latest" in bare.scores(LONG_PAGE, "latest")["error"]
    item = bare.item(5)
    assert (item["seen"], item["cluster"], item["neighbours"]) == (None, None, [])
    assert not item["knows_clusters"]


def test_cosines_choose_steps_without_a_ranker(shop, ids):
    vectors = np.random.default_rng(3).normal(size=(35, 4)).astype(np.float32)
    with Rankings("127.0.0.1:1", "ranker", ids, timeout=5) as rankings:
        answers = Answers(shop.dataset, rankings, likeness=Likeness(PictureTables(vectors)))
        candidate = answers.explanation(LONG_PAGE)["histories"]["pay"]["candidates"][0]
        item = answers.item(7)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit[0] @ unit[shop.pages["test"][0]["pay_item"]].T
    assert [step["cosine"] for step in candidate["steps"]] == pytest.approx(sorted(cosines)[:-4:-1], abs=1e-6)
    assert len(item["neighbours"]) == 12
    assert item["neighbours"][0]["cosine"] == pytest.approx(sorted(unit[7] @ unit.T)[-2], abs=1e-6)


def test_an_item_is_counted_and_has_its_cluster(shop, answers):
    item = answers.item(6)
    for split, pages in shop.pages.items():
        clicks = [click for page in pages for click in page["clicked"][page["item"] == 6].tolist()]
        assert item["counts"][split] == {"shown": len(clicks), "clicked": sum(clicks)}
    assert item["details"]["item_id"] == answers.page(LONG_PAGE)["items"][6]["id"]
    clustered = next(found for row in range(5, 35) if (found := answers.item(row))["cluster"])
    assert clustered["cluster"]["size"] == len(clustered["cluster"]["items"]) + 1
    assert not answers.item(0)["cluster"]


def test_a_user_has_pages(shop, answers):
    user = answers.user(0)
    assert (user["user_id"], user["count"]) == (MARKUP, 2)
    assert {page["page_id"] for page in user["pages"]} == {f"long {MARKUP}", ""}
    assert sum(answers.user(row)["count"] for row in range(4)) == 14


def test_items_users_and_pages_are_found(answers):
    assert [found["id"] for found in answers.find("item", "7")["found"]] == ["7"]  # not 007, ring-7, ...
    assert {found["id"] for found in answers.find("item", "RING-2")["found"]} == {
        "ring-2",
        *(f"ring-2{n}" for n in range(6)),
    }
    assert len(answers.find("item", "gold")["found"]) == 30
    assert [found["row"] for found in answers.find("item", "خاتم")["found"]] == [1]
    assert [found["id"] for found in answers.find("user", "ann")["found"]] == ["anna"]
    assert answers.find("page", "long")["found"][0]["split"] == "test"
    assert answers.find("item", "(.*[") == {"found": [], "more": False, "items": {}}
    with pytest.raises(NotThere, match="there are no shops"):
        answers.find("shop", "7")


def test_pictures_are_those_of_the_items(answers):
    assert answers.catalogue.picture(0) == picture_of(0)
    assert answers.catalogue.picture(34) == picture_of(34)
    assert answers.catalogue.picture(NO_PICTURE) is None
    assert answers.catalogue.picture_type == "image/jpeg"


@pytest.mark.parametrize(
    "ask",
    [
        lambda answers: answers.page(PageNumber("test", 2)),
        lambda answers: answers.page(PageNumber("none", 0)),
        lambda answers: answers.explanation(PageNumber("test", 2)),
        lambda answers: answers.scores(PageNumber("test", 2), "latest"),
        lambda answers: answers.scores(LONG_PAGE, "best"),
        lambda answers: answers.user(4),
        lambda answers: answers.item(35),
    ],
)
def test_what_is_not_there_is_told(answers, ask):
    with pytest.raises(NotThere, match=r"there is no|must be latest"):
        ask(answers)
