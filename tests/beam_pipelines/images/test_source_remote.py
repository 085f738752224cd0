"""Pictures by URI: what is found and read is what a local copy gives, by few requests."""

import io
import tarfile
import uuid
import zipfile

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import as_location
from beam_pipelines.images import shards, uris
from beam_pipelines.images.picture_check import find_pictures
from beam_pipelines.images.refusals import BadImageError
from beam_pipelines.images.source import ImageSource, check_images, folders_of
from tests.beam_pipelines.remote import copied, count_requests

NAMES = (
    "0.JPG", "./1.JPG", "2.jpg", "empty.jpg", ".hidden/0.jpg", "large.jpg", "stored0.jpg", "STORED1.jpg", "tar2.jpg",
    "link.jpg", "sub/b/packed1.jpg", "sub\\b\\packed0.jpg", "packed2.jpg", "beside0.jpg", "nowhere.jpg",
    "images/0.JPG", "../secret.jpg", "bad.jpg",
)  # fmt: skip


def zipped(path, names, method):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, name.encode() * 500)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    for module in (shards, uris):
        monkeypatch.setattr(module, "MAX_BYTES", 9000)
    monkeypatch.setattr("beam_pipelines.images.source.MAX_BYTES", 9000)
    images = tmp_path / "logs" / "Images"
    (images / "sub").mkdir(parents=True)
    (images / ".hidden").mkdir()
    for n in range(3):
        (images / f"{n}.JPG").write_bytes(b"%d" % n * 100)
    (images / "empty.jpg").write_bytes(b"")
    (images / "large.jpg").write_bytes(bytes(9001))
    (images / ".hidden" / "0.jpg").write_bytes(b"hidden")
    zipped(images / "stored.zip", [f"stored{n}.jpg" for n in range(3)] + ["bad.jpg"], zipfile.ZIP_STORED)
    damaged = (images / "stored.zip").read_bytes().replace(b"bad.jpg" * 500, b"BAD.jpg" * 500)
    (images / "stored.zip").write_bytes(damaged)
    zipped(images / "sub" / "b.zip", [f"packed{n}.jpg" for n in range(3)], zipfile.ZIP_DEFLATED)
    zipped(images.parent / "images.zip", ["beside0.jpg"], zipfile.ZIP_LZMA)
    with tarfile.open(images / "a.tar", "w") as tar:
        for n in range(3):
            info = tarfile.TarInfo(f"./tar{n}.jpg")
            info.size = 600
            tar.addfile(info, io.BytesIO(b"%d" % n * 600))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "tar1.jpg"
        tar.addfile(link)
    return images


def remote_copy(pictures):
    return copied(pictures.parent, f"memory://{uuid.uuid4().hex}/logs") / "images"


def looked_for(images):
    source = ImageSource(images, folders_of(NAMES))
    found = []
    for name in NAMES:
        try:
            place = source.find(name)
            found.append((name, place.path, place.found_by, source.read(place)))
        except BadImageError as error:
            found.append((name, error.reason, error.detail))
    described = source.describe(["nowhere.jpg"])
    source.close()
    return found, described.replace(str(images.parent), "")


def test_pictures_at_a_uri_are_found_and_read_like_local_ones(pictures):
    remote = remote_copy(pictures)
    local = pictures.with_name("images")
    assert looked_for(remote) == looked_for(local)
    found = {name: rest for name, *rest in looked_for(remote)[0]}
    assert found["packed2.jpg"] == ["b.zip/packed2.jpg", "", b"packed2.jpg" * 500]
    assert [name for name, rest in found.items() if len(rest) == 2] == [
        "large.jpg", "nowhere.jpg", "../secret.jpg", "bad.jpg"
    ]  # fmt: skip
    names = dict.fromkeys(NAMES, 1)
    told = [str(find_pictures(images, names)).replace(str(images.parent), "") for images in (remote, local)]
    assert told[0] == told[1]


def test_what_spoils_all_pictures_is_said_before_one_is_read(pictures):
    remote = remote_copy(pictures)
    (remote.parent / "Images" / "cut.zip").write_bytes((pictures / "stored.zip").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"^memory://.*/Images/cut\.zip is not a whole zip file"):
        check_images(remote, NAMES)
    (empty := as_location(f"memory://{uuid.uuid4().hex}/logs")).mkdir(parents=True)
    with pytest.raises(InputError, match=r"names 1 picture such as '0\.JPG', but there is no directory memory://"):
        check_images(empty / "images", ["0.JPG"])


def test_names_cost_no_request_and_a_picture_costs_one(pictures, monkeypatch):
    remote = remote_copy(pictures)
    counts = count_requests(monkeypatch)
    source = ImageSource(remote, folders_of(NAMES))
    source.describe([])
    opened = counts.total()
    assert opened <= 2 + 3 * 4  # listings, and for each shard its size, its end, and what its directory says
    places = [source.find(name) for name in NAMES[:-4]]
    assert counts.total() == opened
    for place in places:
        before = counts.total()
        if place.path not in ("empty.jpg", "large.jpg"):
            source.read(place)
            assert counts.total() == before + 1, place.path


def test_an_s3_is_looked_through_like_a_local_copy(pictures, s3_server):
    remote = copied(pictures.parent, f"{s3_server}/pictures/logs") / "images"
    assert looked_for(remote) == looked_for(pictures.with_name("images"))
