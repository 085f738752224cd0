import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.images.spelling import PathGroup, SpellingIndex, fold, shared_folders


def found(name, *groups, names=(), roots=("images",)):
    """The path and the difference for a name; all paths if there are several."""
    groups = [group if isinstance(group, PathGroup) else PathGroup(group) for group in groups]
    shared = shared_folders(fold(other) for other in [*names, name]) if names else ()
    matches = SpellingIndex(groups, roots, shared).find(name)
    return (matches[0].path, matches[0].found_by) if len(matches) == 1 else sorted(match.path for match in matches)


@pytest.mark.parametrize(
    ("name", "path", "difference"),
    [
        ("./a/0.png", "a/0.png", "path"),
        ("/a//0.png", "a/0.png", "path"),
        ("a/0.png", "./a/0.png", "path"),
        ("a\\0.png", "a/0.png", "backslashes"),
        (".\\a\\0.png", "a/0.png", "backslashes"),
        ("a/0.png", "a\\0.png", "backslashes"),
        ("a/red%20shoe.png", "a/red shoe.png", "percent encoding"),
        ("a/red shoe.png", "a/red%20shoe.png", "percent encoding"),
        ("a/100%.png ", "a/100%.png", "spaces"),
        (" a/0.png\u00a0", "a/0.png", "spaces"),
        ("a/0.png", "a /0.png", "spaces"),
        (unicodedata.normalize("NFD", "é/ü.png"), unicodedata.normalize("NFC", "é/ü.png"), "unicode form"),
        (unicodedata.normalize("NFC", "é/ü.png"), unicodedata.normalize("NFD", "é/ü.png"), "unicode form"),
        ("a/0.JPG", "a/0.jpg", "letter case"),
        ("A/Ä.jpg", "a/ä.JPG", "letter case"),
        ("A/0.jpg", "a/0.jpg", "letter case"),
        ("a/0.jpeg", "a/0.JPG", "ending"),
        ("a/0.avif", "a/0.png", "ending"),
        ("a/0", "a/0.png", "ending"),
        ("a/1.5", "a/1.5.webp", "ending"),
        ("images/a/0.png", "a/0.png", "folder"),
        ("IMAGES\\A\\0.PNG", "a/0.png", "folder"),
    ],
)
def test_one_file_is_found_by_another_spelling(name, path, difference):
    assert found(name, [path, "a/other.png", "b/0.png"]) == (path, difference)


def test_the_least_difference_counts_and_equal_ones_are_ambiguous():
    paths = ["0.PNG", "0.png", "0.jpg", "b/1.png", "B/1.png", "x"]
    assert found("./0.png", paths) == ("0.png", "path")
    assert found("0.Png", paths) == ["0.PNG", "0.png"]
    assert found("0", paths) == ["0.PNG", "0.jpg", "0.png"]
    assert found("0.webp", paths) == ["0.PNG", "0.jpg", "0.png"]
    assert found("b\\1.png", paths) == ("b/1.png", "backslashes")
    assert found("b\\1.PNG", paths) == ["B/1.png", "b/1.png"]
    assert found("2.png", paths) == found("", paths) == found("/", paths) == found("b", paths) == []


def test_of_equal_paths_that_of_the_first_group_counts():
    (match,) = SpellingIndex([PathGroup(["x"]), PathGroup(["0.png"]), PathGroup(["0.png"])], (), ()).find("./0.png")
    assert (match.group, match.path) == (1, "0.png")


def test_a_folder_that_all_paths_of_a_group_share_may_be_missing():
    shard = ["photos/2024/0.png", "photos/2024/1.png", "__MACOSX/photos/._0.png", "photos/.DS_Store", "readme.txt"]
    for name in ("0.png", "2024/0.png", "2024\\0.PNG"):
        assert found(name, shard) == ("photos/2024/0.png", "folder")
    assert found("photos/2024/0.PNG", shard) == ("photos/2024/0.png", "letter case")
    assert found("Photos/2024/0.png", shard) == ("photos/2024/0.png", "letter case")
    assert found("photos/0.png", shard) == found("2023/0.png", shard) == found("readme", shard) == []
    assert found("0.png", [*shard, "other/0.png"]) == []
    assert found("0.txt", [*shard, "a_long_name_0.txt"]) == []
    assert found("0.png", shard, ["other/0.png"]) == ["other/0.png", "photos/2024/0.png"]


def test_a_folder_that_all_names_share_is_left_out_unless_there_is_one():
    names = ["C:\\shop\\a\\0.png", "C:\\shop\\b\\1.png"]
    assert found(names[0], ["a/0.png", "b/1.png"], names=names) == ("a/0.png", "folder")
    assert found(names[0], ["shop/a/0.png", "shop/b/1.png"], names=names) == ("shop/a/0.png", "folder")
    assert found("x/0.png", ["photos/0.png", "photos/1.png"], names=["x/1.png"]) == ("photos/0.png", "folder")
    assert found("x/0.png", ["0.png", "1.png"], names=["y/1.png"]) == []
    # A shoe without a picture does not get that of a hat.
    assert found("shoes/9.png", ["9.png", "shoes/1.png"], names=["shoes/1.png"]) == []
    assert found("shoes/9.png", ["shoes/1.png"], ["hats/9.png"], names=["shoes/1.png"]) == []
    shards = PathGroup(["1.png"], ("", "shoes")), PathGroup(["9.png"], ("", "hats"))
    assert found("shoes/9.png", *shards, names=["shoes/1.png"]) == []
    assert found("shoes/1.png", *shards, names=["shoes/9.png"]) == ("1.png", "folder")


def test_the_directory_itself_may_be_part_of_a_name():
    roots = ("images", "/data/logs/images")
    for name in ("/data/logs/images/0.png", "images/0.png", "/images/0.png"):
        assert found(name, ["0.png", "x/1.png"], roots=roots) == ("0.png", "folder")
    assert found("/data/logs/0.png", ["0.png", "x/1.png"], roots=roots) == []


@pytest.mark.parametrize(
    ("paths", "folders"),
    [
        (["a/b/0", "a/b/1"], ("a", "b")),
        (["a/b/0", "a/c/0"], ("a",)),
        (["ab/0", "a/0"], ()),
        (["a/0", "0"], ()),
        ([], ()),
    ],
)
def test_shared_folders(paths, folders):
    assert shared_folders(paths) == folders


_MISSPELT = {
    "dot": lambda path: f"./{path}",
    "slashes": lambda path: "/" + path.replace("/", "//"),
    "backslashes": lambda path: path.replace("/", "\\"),
    "upper": str.upper,
    "lower": str.lower,
    "decomposed": lambda path: unicodedata.normalize("NFD", path),
    "spaces": lambda path: f" {path} ",
    "percent": lambda path: path.replace("ä", "%C3%A4"),
    "ending": lambda path: re.sub(r"\.(jpg|png)$", "", path, flags=re.IGNORECASE),
    "folder": lambda path: f"images/{path}",
}
_parts = st.text("ab äÄB1", min_size=1, max_size=3).map(str.strip).filter(bool)
_paths = st.builds(lambda folders, ending: f"{'/'.join(folders)}.{ending}", st.lists(_parts, min_size=1, max_size=3),
    st.sampled_from(["jpg", "JPG", "png"]))  # fmt: skip


_ways = st.lists(st.sampled_from(sorted(_MISSPELT)), max_size=4, unique=True)


@given(st.lists(_paths, min_size=1, max_size=8, unique_by=fold), _ways)
def test_a_misspelt_name_finds_its_picture(paths, ways):
    name = paths[0]
    for way in ways:
        name = _MISSPELT[way](name)
    assert found(name, paths)[0] == paths[0]
    assert fold(fold(name)) == fold(name)
