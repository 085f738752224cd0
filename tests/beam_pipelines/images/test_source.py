import hashlib
import os
import threading
import time
import zipfile

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.images import shards
from beam_pipelines.images import source as images
from beam_pipelines.images.refusals import BadImageError
from beam_pipelines.images.source import ImageSource, check_images, folders_of


def write(root, files):
    """Files by path; of a zip file the members."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            with zipfile.ZipFile(path, "w") as archive:
                for member, data in content.items():
                    archive.writestr(member, data)
        else:
            path.write_bytes(content)
    return root


def read(source, name):
    place = source.find(name)
    return source.read(place), place.found_by


def refused(source, name):
    with pytest.raises(BadImageError) as error:
        source.read(source.find(name))
    return error.value.reason


def test_the_source_reads_files_and_zip_shards_and_nothing_else(tmp_path, monkeypatch):
    root = write(tmp_path / "images", {
        "sub/a.jpg": b"file",
        "../secret": b"secret",
        "1.zip": {"z/b.jpg": b"first", "same.jpg": b"same", "folder/": b""},
        "2.zip": {"z/b.jpg": b"second", "same.jpg": b"same"},
    })  # fmt: skip
    with zipfile.ZipFile(root / "3.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.jpg", bytes(2000))
    for module in (images, shards):
        monkeypatch.setattr(module, "MAX_BYTES", 1000)
    (root / "large.jpg").write_bytes(bytes(1001))
    source = ImageSource(root)
    assert read(source, "sub/a.jpg") == (b"file", "")
    assert read(source, "z/b.jpg") == (b"first", "first shard")
    assert read(source, "same.jpg") == (b"same", "")
    assert read(source, "./sub/a.jpg") == (b"file", "path")
    for name, reason in [
        ("sub", "missing"),
        ("folder/", "missing"),
        ("nowhere.jpg", "missing"),
        ("x" * 300, "missing"),
        ("\0", "missing"),
        ("../secret", "outside images/"),
        (str(tmp_path / "secret"), "outside images/"),
        ("large.jpg", "too many bytes"),
        ("huge.jpg", "too many bytes"),
    ]:
        assert refused(source, name) == reason, name
    source.close()


LOOSE = {"0.png": b"0", "Red Shoe.PNG": b"red", "a/1.png": b"1", "a/2.jpg": b"2", "a/2.png": b"3"}


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "in a zip file"])
def test_other_spellings_are_found_among_files_as_in_shards(tmp_path, packed):
    """And an exact name always wins."""
    source = ImageSource(write(tmp_path / "images", {"all.zip": LOOSE} if packed else LOOSE))
    assert [read(source, name) for name in LOOSE] == [(content, "") for content in LOOSE.values()]
    for name, content, found_by in [
        ("./0.png", b"0", "path"),
        ("/0.png", b"0", "path"),
        ("images/0.png", b"0", "folder"),
        ("IMAGES\\red%20shoe.png", b"red", "folder"),
        ("red shoe.png", b"red", "letter case"),
        ("a\\1.png", b"1", "backslashes"),
        ("a/1.webp", b"1", "ending"),
        (str(tmp_path / "images" / "a" / "1.png"), b"1", "folder"),
    ]:
        assert read(source, name) == (content, found_by), name
    with pytest.raises(BadImageError, match="ambiguous") as error:
        source.find("a/2")
    inside = "all.zip/" if packed else ""
    assert error.value.detail == f"'{inside}a/2.jpg' or '{inside}a/2.png'"
    assert refused(source, "1.png") == "missing"
    assert refused(source, "/elsewhere/0.png") == "outside images/"


def test_leading_folders_that_all_names_share(tmp_path):
    root = write(tmp_path / "images", {"0.png": b"0", "x.zip": {"photos/1.png": b"1"}})
    names = ["shop/0.png", "shop/1.png", "file:///tmp/2.png"]
    source = ImageSource(root, folders_of(names))
    assert [read(source, name) for name in names[:2]] == [(b"0", "folder"), (b"1", "folder")]
    assert refused(ImageSource(root), names[0]) == "missing"


def test_files_are_listed_only_if_a_name_does_not_lead_to_one(tmp_path, monkeypatch):
    source = ImageSource(write(tmp_path / "images", LOOSE))
    monkeypatch.setattr(os, "walk", lambda *_, **__: pytest.fail("files are listed"))
    assert read(source, "a/1.png") == (b"1", "")
    monkeypatch.undo()
    assert refused(source, "a/9.png") == "missing"


def test_shards_in_folders_beside_the_directory_and_of_other_letter_case(tmp_path):
    write(tmp_path, {
        "images.zip": {"beside.png": b"beside"},
        "Images/A.ZIP": {"upper.png": b"upper"},
        "Images/2024/b.zip": {"nested.png": b"nested", "3.png": b"3"},
        "Images/c.zip": {"3.png": b"other"},
        "Images/._c.zip": b"left by macOS",
    })  # fmt: skip
    check_images(tmp_path / "images", ["upper.png"])
    source = ImageSource(tmp_path / "images")
    for name in ("beside", "upper", "nested"):
        assert read(source, f"{name}.png") == (name.encode(), "")
    for name in ("2024/3.png", "2024/b/3.png", "b\\3.png"):
        assert read(source, name) == (b"3", "folder")
    assert read(source, "c/3.png") == (b"other", "folder")
    source.close()


def test_links_are_followed_and_circles_are_not(tmp_path, monkeypatch):
    write(tmp_path / "photos", {"a/0.png": b"0"})
    (tmp_path / "images").symlink_to("photos")
    (tmp_path / "photos" / "a" / "again").symlink_to("..")
    source = ImageSource(tmp_path / "images")
    assert read(source, "a/0.png") == (b"0", "")
    looked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda *args, **options: looked.append(args) or stat(*args, **options))
    assert read(source, "A/0.PNG") == (b"0", "letter case")
    assert len(looked) < 10
    assert read(source, str(tmp_path / "photos" / "a" / "0.jpg")) == (b"0", "folder")


def test_threads_list_the_files_once(tmp_path, monkeypatch):
    source = ImageSource(write(tmp_path / "images", LOOSE))
    walks, walk = [], os.walk

    def slow(*args, **options):
        walks.append(args)
        time.sleep(0.05)
        return walk(*args, **options)

    monkeypatch.setattr(os, "walk", slow)
    threads = [threading.Thread(target=source.find, args=("A/1.png",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(walks) == 1


def test_where_pictures_were_looked_for_is_told(tmp_path):
    files = {"b.PNG": b"", "a.png": b"", "x/old.rar": b"", "all.tar.gz": b"", "z.7z": b"", "list.txt": b""}
    root = write(tmp_path / "images", {**files, "all.zip": {"photos/0.png": b""}, "empty.zip": {}})
    assert ImageSource(root).describe(["9.png"]) == (
        f"{root} has 2 loose pictures, e.g. 'a.png', and 2 shards (all.zip holds e.g. 'photos/0.png'); not read there: "
        "'all.tar.gz', 'list.txt' and 2 more (shards are zip and plain tar files)"
    )
    assert ImageSource(tmp_path / "none").describe([]) == f"{tmp_path / 'none'} has 0 loose pictures"


@pytest.mark.parametrize(
    ("name", "path", "cause"),
    [
        ("red/0.png", "blue/0.PNG", "files of these names are there, but in other folders"),
        ("0012.jpg", "12.jpg", "leading zeros or a .0"),
        ("12.jpg", "0012.jpg", "leading zeros or a .0"),
        ("12.0", "a/12.jpg", "leading zeros or a .0"),
        ("12.jpg", "13.jpg", ""),
    ],
)
def test_the_likely_cause_is_told(tmp_path, name, path, cause):
    described = ImageSource(write(tmp_path / "images", {path: b""})).describe([name])
    assert cause in described if cause else described.endswith(f"e.g. {path!r}")


def test_what_would_spoil_every_picture_is_found_before_anything_is_read(tmp_path):
    root = tmp_path / "images"
    check_images(root, ["file:///0.png"])
    with pytest.raises(InputError, match=r"names 1 picture such as '0.png', but there is no directory .*/images;"):
        check_images(root, ["0.png"])
    root.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"/images leads nowhere"):
        check_images(root, ["0.png"])
    root.unlink()
    write(root, {"a.zip": {"0.png": b""}, "b.ZIP": b"<html>"})
    with pytest.raises(InputError, match=r"b\.ZIP is not a zip file, but HTML"):
        check_images(root, ["0.png"])
    with pytest.raises(InputError, match=r"'https://a/0\.png' cannot be read here: nothing is fetched from the web"):
        check_images(root, ["0.png", "https://a/0.png"])


def test_a_file_uri_is_read_from_where_it_points_to(tmp_path):
    path = write(tmp_path, {"else where/ä.jpg": b"there"}) / "else where" / "ä.jpg"
    source = ImageSource(tmp_path / "images")
    for uri in (path.as_uri(), f"file:{path}", f"FILE://localhost{path}", f" file://{path}"):
        assert read(source, uri) == (b"there", "")
    os.mkfifo(tmp_path / "pipe")
    for nothing in ("no.jpg", "else where", "pipe", "pipe/no.jpg"):
        assert refused(source, (tmp_path / nothing).as_uri()) == "missing"


def test_a_picture_is_known_by_its_content():
    assert images.content_hash(b"x") == hashlib.sha256(b"x").hexdigest()
