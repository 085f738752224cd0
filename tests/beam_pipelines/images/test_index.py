"""Pictures through whole builds: what is stored, what an item gets, what the next build takes over."""

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from beam_pipelines import BuildOptions, build_dataset, pipeline
from beam_pipelines.exchange import encode_in_blocks
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import File, Manifest
from beam_pipelines.images.index import index_images
from beam_pipelines.images.transforms import SHARD_INDEX
from beam_pipelines.shell.progress import shown_progress
from models.data.dataset import Dataset
from models.data.picture_store import PictureStore
from tests.beam_pipelines.images.test_normalisation import bomb, encoded

START = 1_767_225_600_000
TOP, BOTTOM = (210, 40, 40), (30, 60, 190)


def plain(colour, format="JPEG", size=(30, 40)):
    return encoded(Image.new("RGB", size, colour), format)


def write_logs(directory, image_of_item, files, zips=()):
    """Logs with a page per item. `files` and the `zips` hold name -> content."""
    images = directory / "images"
    images.mkdir(parents=True)
    for name, content in files.items():
        (images / name).write_bytes(content)
    for shard, members in dict(zips).items():
        with zipfile.ZipFile(images / shard, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    rows = [
        {
            "page_id": f"p{n}",
            "user_id": "u",
            "item_id": item,
            "timestamp": START + n,
            "position": 0,
            "clicked": True,
            "split": ["pretrain", "train", "test"][n % 3],
        }
        for n, item in enumerate(sorted(image_of_item))
    ]
    pq.write_table(pa.Table.from_pylist(rows), directory / "impressions.parquet")
    items = pa.table({"item_id": list(image_of_item), "image": list(image_of_item.values())})
    for column in ("category", "title"):
        items = items.append_column(column, pa.array([""] * len(items)))
    pq.write_table(items, directory / "items.parquet")
    return directory


def run(logs, output, previous=None, **options):
    build_dataset(logs, output, BuildOptions(**{"max_bad_fraction": 1, **options}), previous=previous)
    return output


def fails(message, logs, output, previous=None, **options):
    before = sorted(output.parent.iterdir())
    with pytest.raises(InputError, match=message) as error:
        run(logs, output, previous, **options)
    assert "\n" not in str(error.value)
    assert sorted(output.parent.iterdir()) == before


def index_of(dataset):
    """Item ID to its row of the picture index."""
    ids = pq.read_table(dataset / "items/items.parquet")["item_id"].to_pylist()
    index = pq.read_table(dataset / Manifest.read(dataset).images.index.path).to_pylist()
    return dict(zip(ids, index, strict=True))


def stored(dataset):
    """Item ID to the stored bytes of its picture, for items that have one."""
    shards = Manifest.read(dataset).images.shards
    readers = [ArrayRecordReader(str(dataset / shard.path)) for shard in shards]
    rows = {item: row for item, row in index_of(dataset).items() if row["sha256"]}
    return {item: readers[row["shard"]].read([row["index"]])[0] for item, row in rows.items()}


def content_of(dataset):
    """Every file but the manifest."""
    files = {path.relative_to(dataset).as_posix(): path for path in dataset.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "manifest.json"}


# Bad pictures

BAD = {
    "truncated.jpg": (encoded(Image.effect_noise((99, 99), 90), "JPEG")[:-600], "undecodable"),
    "truncated.png": (encoded(Image.effect_noise((99, 99), 90), "PNG")[:-600], "undecodable"),
    "empty.jpg": (b"", "empty"),
    "html.jpg": (b"<!DOCTYPE html><html>404 Not Found</html>", "not an image but HTML"),
    "scan.tif": (plain("green", "TIFF"), "unsupported TIFF"),
    "tiff.jpg": (plain("green", "TIFF"), "unsupported TIFF"),
    "unknown.jpg": (random.Random(0).randbytes(5000), "not an image"),
    "bomb.png": (bomb(), "too many pixels"),
    "nowhere.jpg": (None, "missing"),
}


@pytest.fixture(scope="module")
def bad_logs(tmp_path_factory):
    image_of_item = {f"bad {name}": name for name in BAD} | {f"good {n}": f"{n}.jpg" for n in range(11)}
    files = {name: content for name, (content, _) in BAD.items() if content is not None}
    files |= {f"{n}.jpg": plain((n * 20, 0, 0)) for n in range(11)}
    return write_logs(tmp_path_factory.mktemp("bad") / "logs", image_of_item, files)


@pytest.fixture(scope="module")
def bad_dataset(bad_logs):
    return run(bad_logs, bad_logs.parent / "dataset")


@pytest.mark.parametrize("name", BAD)
def test_an_item_with_a_bad_picture_is_kept_without_one(bad_dataset, name):
    index = index_of(bad_dataset)
    assert index[f"bad {name}"] == {"shard": -1, "index": -1, "sha256": ""}
    reasons = [reason for _, reason in BAD.values()]
    images = Manifest.read(bad_dataset).images
    assert images.missing[BAD[name][1]] == reasons.count(BAD[name][1])
    assert images.missing.keys() == set(reasons)
    assert images.items_with_image == images.stored == 11
    assert sorted(stored(bad_dataset)) == sorted(f"good {n}" for n in range(11))
    assert PictureStore(Dataset(bad_dataset), (8, 8)).pictures == 11


def test_too_many_bad_pictures_publish_nothing(bad_logs, tmp_path):
    with pytest.raises(InputError) as error:
        run(bad_logs, tmp_path / "d", max_bad_fraction=0.44)
    message = str(error.value)
    assert message.startswith("9 of 20 items with a picture are bad (2 undecodable: 'truncated.jpg' (")
    for part in (
        "; 2 unsupported TIFF: 'scan.tif', 'tiff.jpg', convert to JPEG, PNG or WebP",
        "1 not an image but HTML: 'html.jpg', a failed download; fetch them again",
        "1 too many pixels: 'bomb.png'",
        "1 missing: 'nowhere.jpg'",
        f"); `max_bad_fraction` allows 0.44. {bad_logs / 'images'} has 19 loose pictures, e.g. '0.jpg'",
    ):
        assert part in message
    assert list(tmp_path.iterdir()) == []
    run(bad_logs, tmp_path / "d", max_bad_fraction=0.45)


def index(directory, written, *names):
    """The index of items that name these pictures."""
    kept = pa.array([""] * len(names))
    return index_images(
        directory, written, pa.array(names), "jpeg", 1.0, source=directory, kept=kept, counters=Counter(), told=[]
    )


def test_what_workers_did_not_say_is_not_taken_for_bad_pictures(tmp_path):
    with pytest.raises(InputError, match="nothing is known of the pictures of 1 items"):
        index(tmp_path, [], "a.jpg", "")


def test_a_shard_that_was_written_twice_counts_once_if_it_is_the_same(tmp_path):
    def block(detail):
        columns = [["a.jpg"], [""], [detail], [""], [-1], ["missing"]]
        (data,) = encode_in_blocks(pa.record_batch(columns, SHARD_INDEX.with_metadata({"reused": "0"})))
        return data.to_pybytes()

    assert index(tmp_path, [(0, 0, block("here"))] * 2, "a.jpg").missing["missing"] == 1
    with pytest.raises(InputError, match="pictures of shard 0 were written twice, and differently"):
        index(tmp_path, [(0, 0, block("here")), (0, 0, block("there"))], "a.jpg")


def test_a_decompression_bomb_leaves_the_memory_of_a_build_flat(tmp_path):
    """388 KB that would be 400 MB as pixels and 1.2 GB as RGB."""
    for name, content in (("calm", plain("red", "PNG")), ("bomb", bomb())):
        write_logs(tmp_path / name, {"a": "a.png", "b": "b.png"}, {"a.png": plain("blue"), "b.png": content})
    code = """
import resource, sys
from beam_pipelines import BuildOptions, build_dataset
for name in ("calm", "bomb"):
    build_dataset(f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/{name} dataset", BuildOptions(max_bad_fraction=0.5))
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Manifest.read(tmp_path / "bomb dataset").images.missing == {"too many pixels": 1}
    calm, with_bomb = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    assert with_bomb - calm < 50_000  # KB


# Every kind of picture


def two_halves(top=TOP, bottom=BOTTOM, mode="RGB", size=(32, 48)):
    image = Image.new(mode, size, bottom)
    image.paste(top, (0, 0, size[0], size[1] // 2))
    return image


def turned(orientation):
    """The picture as a camera held differently stores it, with the tag that says so."""
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    image = two_halves()
    image.paste((20, 200, 20), (0, 0, 16, 24))  # the upper left corner
    for step in undo[orientation]:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95, subsampling=0)


def transparent_below():
    image = two_halves().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 24, 32, 48))
    return image


def sixteen_bit():
    rows = np.repeat([60 << 8 | 17, 200 << 8 | 99], 24)
    return Image.fromarray(np.tile(rows[:, None], (1, 32)).astype(np.uint16))


def animation(format):
    return encoded(two_halves(), format, save_all=True, append_images=[Image.new("RGB", (32, 48), "white")] * 2)


GREY_HALVES = ((60, 60, 60), (200, 200, 200))
KINDS = {
    "jpeg": (encoded(two_halves(), "JPEG"), TOP, BOTTOM),
    "progressive": (encoded(two_halves(), "JPEG", progressive=True), TOP, BOTTOM),
    "cmyk": (encoded(two_halves().convert("CMYK"), "JPEG"), TOP, BOTTOM),
    "grey": (encoded(two_halves(60, 200, "L"), "JPEG"), *GREY_HALVES),
    "grey png": (encoded(two_halves(60, 200, "L")), *GREY_HALVES),
    "16 bits": (encoded(sixteen_bit()), *GREY_HALVES),
    "rgba": (encoded(transparent_below()), TOP, (255, 255, 255)),
    "palette": (encoded(two_halves().convert("P", palette=Image.Palette.ADAPTIVE)), TOP, BOTTOM),
    "gif": (encoded(two_halves(), "GIF"), TOP, BOTTOM),
    "animated gif": (animation("GIF"), TOP, BOTTOM),
    "webp": (encoded(two_halves(), "WEBP"), TOP, BOTTOM),
    "animated webp": (animation("WEBP"), TOP, BOTTOM),
    "transparent webp": (encoded(transparent_below(), "WEBP"), TOP, (255, 255, 255)),
    "bmp": (encoded(two_halves(), "BMP"), TOP, BOTTOM),
}


@pytest.fixture(scope="module")
def kinds_logs(tmp_path_factory):
    files = {kind: content for kind, (content, *_) in KINDS.items()} | {f"exif {n}": turned(n) for n in range(2, 9)}
    return write_logs(tmp_path_factory.mktemp("kinds") / "logs", {name: name for name in files}, files)


@pytest.fixture(scope="module", params=["jpeg", "webp"])
def kinds(request, kinds_logs):
    """Item ID to its picture as the encoder gets it, from a store of either format."""
    dataset = run(kinds_logs, kinds_logs.parent / request.param, image_format=request.param)
    store = PictureStore(Dataset(dataset), (48, 32))
    pictures = store.read(np.maximum(store.picture_of_item, 0)).numpy()
    assert pictures.dtype == np.uint8
    assert pictures.shape[1:] == (48, 32, 3)
    assert Image.open(io.BytesIO(stored(dataset)["jpeg"])).format == request.param.upper()
    return dict(zip(index_of(dataset), pictures, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_read_as_rgb(kinds, kind):
    _, top, bottom = KINDS[kind]
    np.testing.assert_allclose(kinds[kind][4:20, 4:28].mean((0, 1)), top, atol=8)
    np.testing.assert_allclose(kinds[kind][28:44, 4:28].mean((0, 1)), bottom, atol=8)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_every_orientation_is_read_upright(kinds, orientation):
    picture = kinds[f"exif {orientation}"]
    np.testing.assert_allclose(picture[4:20, 2:12].mean((0, 1)), (20, 200, 20), atol=12)
    np.testing.assert_allclose(picture[4:20, 20:30].mean((0, 1)), TOP, atol=12)
    np.testing.assert_allclose(picture[28:44, 4:28].mean((0, 1)), BOTTOM, atol=12)


# Content, not names


def test_one_picture_under_two_names_is_stored_once(tmp_path):
    """In a file and in two zip shards; of different pictures of one name, that of the first shard counts."""
    red, blue = plain("red"), plain("blue")
    zips = {"0.zip": {"z.jpg": red, "name.jpg": blue}, "1.zip": {"name.jpg": red}}
    image_of_item = {"a": "a.jpg", "b": "a.jpg", "c": "z.jpg", "d": "name.jpg"}
    dataset = run(write_logs(tmp_path / "logs", image_of_item, {"a.jpg": red}, zips), tmp_path / "d")
    index = index_of(dataset)
    assert index["a"] == index["b"] == index["c"] != index["d"]
    assert {row["sha256"] for row in index.values()} == {hashlib.sha256(data).hexdigest() for data in (red, blue)}
    images = Manifest.read(dataset).images
    assert (images.stored, images.items_with_image) == (2, 4)
    assert [shard.records for shard in images.shards] == [2]


def test_a_changed_picture_has_another_content_hash(tmp_path):
    names = {f"{n}": f"{n}.jpg" for n in range(3)}
    files = {name: plain((n * 90, 0, 0)) for n, name in enumerate(names.values())}
    before = run(write_logs(tmp_path / "1", names, files), tmp_path / "before")
    files["1.jpg"] = plain("green")
    after = run(write_logs(tmp_path / "2", names, files), tmp_path / "after", before)
    old, new = index_of(before), index_of(after)
    assert [old[item]["sha256"] == new[item]["sha256"] for item in names] == [True, False, True]
    assert new["1"]["sha256"] == hashlib.sha256(files["1.jpg"]).hexdigest()
    assert stored(after)["1"] != stored(before)["1"]
    assert Manifest.read(after).items.ids_sha256 == Manifest.read(before).items.ids_sha256
    assert Manifest.read(after).images.index.sha256 != Manifest.read(before).images.index.sha256


# Daily builds


def day(directory, items, changed=()):
    """Logs with pictures of some items; two in a row share theirs."""
    names = {f"{n:02d}": f"{n}.jpg" for n in items}
    colours = {n: (n // 2 * 20, 100 if n in changed else 0, 0) for n in items}
    return write_logs(directory, names, {f"{n}.jpg": plain(colours[n]) for n in items})


def test_with_a_previous_dataset_the_result_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "IMAGES_PER_SHARD", 3)
    previous = run(day(tmp_path / "1", range(14)), tmp_path / "previous")
    logs = day(tmp_path / "2", range(20), changed=[5])
    fresh = run(logs, tmp_path / "fresh")
    daily = run(logs, tmp_path / "daily", previous)
    assert len(Manifest.read(fresh).images.shards) > 2
    assert content_of(daily) == content_of(fresh)
    assert Manifest.read(daily).images == Manifest.read(fresh).images
    assert [Manifest.read(path).counters["images.reused"] for path in (fresh, daily)] == [0, 7]
    assert Manifest.read(daily).images.stored == 7 + 1 + 3


def mark(dataset):
    """Puts other bytes in place of a dataset's pictures, known to its manifest: copies of them can be told."""
    (shard,) = Manifest.read(dataset).images.shards
    writer = ArrayRecordWriter(str(dataset / shard.path), "group_size:1,uncompressed")
    for n in range(shard.records):
        writer.write(b"copy %d" % n)
    writer.close()
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["images"]["shards"] = [File.of(dataset, shard.path, shard.records).model_dump()]
    (dataset / "manifest.json").write_text(json.dumps(manifest))


def test_known_pictures_are_copied_and_not_decoded(tmp_path):
    previous = run(day(tmp_path / "1", range(6)), tmp_path / "previous")
    mark(previous)
    daily = run(day(tmp_path / "2", range(8), changed=[3]), tmp_path / "daily", previous)
    found, before = stored(daily), stored(previous)
    copied = {item for item, data in found.items() if data.startswith(b"copy")}
    assert copied == {"00", "01", "02", "04", "05"}
    assert all(found[item] == before[item] for item in copied)
    assert Manifest.read(daily).counters["images.reused"] == 3


def test_an_item_that_is_only_in_the_previous_dataset_keeps_its_picture(tmp_path):
    previous = run(day(tmp_path / "1", range(6)), tmp_path / "1st")
    second = run(day(tmp_path / "2", range(2, 8), changed=[2, 3]), tmp_path / "2nd", previous)
    third = run(day(tmp_path / "3", [9]), tmp_path / "3rd", second)
    assert list(index_of(third)) == [f"{n:02d}" for n in (*range(8), 9)]
    assert {item: stored(second)[item] for item in ("00", "01", "04")} == {
        item: stored(previous)[item] for item in ("00", "01", "04")
    }
    assert stored(second)["02"] != stored(previous)["02"]
    assert stored(third) == stored(second) | {"09": stored(third)["09"]}
    images = Manifest.read(third).images
    assert (images.stored, images.items_with_image, images.missing) == (5, 9, {})
    assert Manifest.read(third).counters["images.reused"] == 4


def test_an_item_without_a_picture_stays_without(tmp_path):
    logs = write_logs(tmp_path / "1", {"a": "", "b": "b.jpg"}, {"b.jpg": plain("red")})
    previous = run(logs, tmp_path / "previous")
    daily = run(write_logs(tmp_path / "2", {"c": "", "b": ""}, {}), tmp_path / "daily", previous)
    assert Manifest.read(daily).images is None
    more = write_logs(tmp_path / "3", {"c": "c.jpg"}, {"c.jpg": plain("blue")})
    daily = run(more, tmp_path / "more", previous)
    assert Manifest.read(daily).images.missing == {"none in the previous dataset": 1}
    assert sorted(stored(daily)) == ["b", "c"]


def test_pictures_of_another_form_are_made_again_or_asked_for(tmp_path):
    previous = run(day(tmp_path / "1", range(6)), tmp_path / "previous")
    mark(previous)
    logs = day(tmp_path / "2", range(6))
    for n, options in enumerate(({"image_side": 20}, {"image_format": "webp"})):
        daily = run(logs, tmp_path / f"daily {n}", previous, **options)
        assert Manifest.read(daily).counters["images.reused"] == 0
        assert content_of(daily) == content_of(run(logs, tmp_path / f"fresh {n}", **options))
        message = r"^`previous`: .* pass `image_side` 256 `image_format` jpeg to keep them"
        fails(message, day(tmp_path / f"3 {n}", range(5)), tmp_path / "no", previous, **options)


@pytest.mark.parametrize("what", ["shard", "index"])
def test_a_damaged_previous_dataset_is_refused(tmp_path, what):
    previous = run(day(tmp_path / "1", range(4)), tmp_path / "previous")
    images = Manifest.read(previous).images
    path = previous / (images.index if what == "index" else images.shards[0]).path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    fails(f"{path} is not the file", day(tmp_path / "2", range(4)), tmp_path / "d", previous)


# Where pictures come from


def test_pictures_are_read_from_file_uris(tmp_path):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "ä.jpg").write_bytes(plain("red"))
    uris = {"a": (elsewhere / "ä.jpg").as_uri(), "b": f"file://{elsewhere}/ä.jpg", "c": f"file://{elsewhere}/no.jpg"}
    logs = write_logs(tmp_path / "logs", uris, {})
    (logs / "images").rmdir()
    dataset = run(logs, tmp_path / "d")
    assert sorted(stored(dataset)) == ["a", "b"]
    assert index_of(dataset)["a"]["sha256"] == hashlib.sha256(plain("red")).hexdigest()
    assert Manifest.read(dataset).images.missing == {"missing": 1}


def test_a_uri_that_nothing_can_read_is_an_error(tmp_path):
    logs = write_logs(tmp_path / "logs", {"a": "a.jpg", "b": "nosuch://bucket/b.jpg"}, {"a.jpg": plain("red")})
    fails("items.image: 'nosuch://bucket/b.jpg' cannot be read here: Unsupported filesystem", logs, tmp_path / "d")


@pytest.mark.parametrize("damage", ["cut", "directory", "not a zip file"])
def test_a_damaged_zip_shard_is_named(tmp_path, damage):
    logs = write_logs(tmp_path / "logs", {"a": "a.jpg"}, {}, {"0.zip": {"a.jpg": plain("red")}, "1.zip": {"x": b"x"}})
    path = logs / "images" / "1.zip"
    content = path.read_bytes()
    directory = content.index(b"PK\1\2")
    path.write_bytes(
        {
            "cut": content[:-30],
            "directory": content[:directory] + b"\0\0\0\0" + content[directory + 4 :],
            "not a zip file": b"<html>",
        }[damage]
    )
    fails(rf"{path} is not a (whole )?zip file", logs, tmp_path / "d")


# Names and files that differ, and what is told of it


def balance(dataset):
    """The names that the logs have, and the sum of what became of them."""
    manifest = Manifest.read(dataset)
    counters = manifest.counters
    became = manifest.images.stored - counters["images.only_in_previous"] + counters["images.same_content"]
    return counters["images.named"], became + sum(
        count for name, count in counters.items() if name.startswith("images.refused.")
    )


def found_by(dataset):
    counters = Manifest.read(dataset).counters
    return {name.removeprefix("images.found_by."): n for name, n in counters.items() if name.startswith("images.found")}


@pytest.mark.parametrize(
    ("names", "archive", "difference"),
    [
        ("images/{}.png", "", "folder"),
        ("D:\\shop\\{}.PNG", "", "folder"),
        ("./{}.png", "images/all.zip", "path"),
        ("{}.png", "images/IMAGES.ZIP", ""),
        ("{}.JPG", "images/all.tar", "ending"),
        ("{}.png", "images.tar", ""),
    ],
)
def test_pictures_are_found_by_names_of_other_systems(tmp_path, capsys, names, archive, difference):
    pictures = {f"{n}.png": plain((n * 60, 0, 0), "PNG") for n in range(3)}
    logs = write_logs(tmp_path / "logs", {f"{n}": names.format(n) for n in range(3)}, {} if archive else pictures)
    if archive.lower().endswith(".zip"):
        with zipfile.ZipFile(logs / archive, "w") as shard:
            for name, content in pictures.items():
                shard.writestr(name, content)
    elif archive:
        with tarfile.open(logs / archive, "w") as shard:
            for name, content in pictures.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    with shown_progress():
        dataset = run(logs, tmp_path / "d")
    assert [row["sha256"] for row in index_of(dataset).values()] == [
        hashlib.sha256(content).hexdigest() for content in pictures.values()
    ]
    assert found_by(dataset) == ({difference: 3} if difference else {})
    line = f"(3 by {difference}: {names.format(0)!r} is '{f'{Path(archive).name}/' if archive else ''}0.png')"
    assert (line in capsys.readouterr().out) == (difference != "")


def test_names_that_find_nothing_are_shown_with_what_is_there(tmp_path):
    names = {"a": "red/0.png", "b": "blue/0.png", "c": ""}
    logs = write_logs(tmp_path / "logs", names, {"old.rar": b""}, {"all.zip": {"photos/0.png": plain("red", "PNG")}})
    fails(
        r"2 of 2 items with a picture are bad \(2 missing: 'blue/0.png', 'red/0.png'\); `max_bad_fraction` allows 0.1. "
        rf"{logs}/images has 0 loose pictures, and 1 shard \(all.zip holds e.g. 'photos/0.png'\); not read "
        "there: 'old.rar' .*; files of these names are there, but in other folders$",
        logs, tmp_path / "d", max_bad_fraction=0.1,
    )  # fmt: skip


def test_every_name_of_a_picture_is_accounted_for(tmp_path, capsys):
    red, blue = plain("red"), plain("blue")
    names = ["0.jpg", "./0.jpg", "1.jpg", "same.jpg", "Two.JPG", "x.jpg", "bad.jpg", "9.jpg", "9.jpg", ""]
    files = {"0.jpg": red, "1.jpg": blue, "two.jpg": b"", "TWO.jpg": b"", "X.jpg": blue, "bad.jpg": b""}
    logs = write_logs(tmp_path / "logs", {f"{n}": name for n, name in enumerate(names)}, files,
        {"1.zip": {"same.jpg": red}, "2.zip": {"same.jpg": blue}})  # fmt: skip
    previous = write_logs(tmp_path / "previous logs", {"old": "old.jpg"}, {"old.jpg": plain("green")})
    with shown_progress():
        dataset = run(logs, tmp_path / "d", run(previous, tmp_path / "previous"))
    manifest = Manifest.read(dataset)
    assert found_by(dataset) == {"first shard": 1, "letter case": 1, "path": 1}
    refused = {"ambiguous": 1, "empty": 1, "missing": 1}
    assert {f"images.refused.{reason}": n for reason, n in refused.items()}.items() <= manifest.counters.items()
    assert manifest.images.missing == {"ambiguous": 1, "empty": 1, "missing": 2, "no image named": 1}
    assert (manifest.images.stored, manifest.images.items_with_image) == (3, 6)
    assert balance(dataset) == (8, 8)
    assert "pictures: 4 of 9 items get none (2 missing: '9.jpg'; 1 ambiguous: 'Two.JPG' ('TWO.jpg' or 'two.jpg')" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("uri", ["https://cdn.example.com/0.png", "data:image/png;base64,iVBO"])
def test_pictures_that_cannot_be_fetched_stop_a_build_before_it_reads_one(tmp_path, uri, capfd):
    logs = write_logs(tmp_path / "logs", {"a": "a.jpg", "b": uri}, {"a.jpg": b"not read"})
    fails(f"items.image: '{uri}' cannot be read here: .*copy the pictures into {logs}/images", logs, tmp_path / "d")
    assert "Traceback" not in capfd.readouterr().err
