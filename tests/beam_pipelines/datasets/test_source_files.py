import gzip
import tarfile
import zipfile

import pytest

from beam_pipelines.datasets.source_files import SourceFiles
from beam_pipelines.format.errors import InputError

FILES = {
    "set/data/a.csv": b"x\n1\n",
    "set/data/b.csv.gz": gzip.compress(b"x\n2\n"),
    "set/README.txt": b"read",
    "set/data/images/010/0101.jpg": b"jpeg",
    "__MACOSX/set/data/._a.csv": b"mac",
    "set/.DS_Store": b"mac",
}


def make(path, files=None):
    """The same files in a folder, a zip or a tar, after the ending of `path`."""
    files = files or FILES
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    folder = path.with_name(f"{path.name}.files") if path.suffix else path
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if path.suffix:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, arcname=".")
    return path


@pytest.fixture(params=["folder", "it.zip", "it.tar.gz", "it.tgz"])
def source(request, tmp_path):
    with SourceFiles(make(tmp_path / request.param), "downloading it") as files:
        yield files


def test_files_are_found_in_whichever_folder_and_unpacked(source):
    content = {}
    for name in ("a.csv", "b.csv"):
        ((folder, path),) = source.find(name).items()
        assert folder.endswith("set/data")
        with source.open(path) as stream:
            content[name] = stream.read()
    assert content == {"a.csv": b"x\n1\n", "b.csv": b"x\n2\n"}
    assert source.find("c.csv") == {}
    assert [name.removeprefix("./") for name in source.names] == [
        "set/README.txt",
        "set/data/a.csv",
        "set/data/b.csv.gz",
    ]


def test_a_file_that_is_zipped_alone_is_unpacked_and_the_unpacked_one_comes_first(tmp_path):
    make(tmp_path / "a.csv.zip", {"a.csv": b"x\n3\n"})
    with SourceFiles(tmp_path, "downloading it") as files:
        with files.open(files.find("a.csv")[""]) as stream:
            assert stream.read() == b"x\n3\n"
        make(tmp_path / "a.csv.zip", {"a.csv": b"x\n3\n", "b.csv": b""})
        with pytest.raises(zipfile.BadZipFile, match="2 files"):
            files.open(files.find("a.csv")[""])
    (tmp_path / "a.csv").write_bytes(b"")
    with SourceFiles(tmp_path, "downloading it") as files:
        assert files.find("a.csv") == {"": "a.csv"}


def test_pictures_of_a_folder_and_of_a_zip(tmp_path):
    with SourceFiles(make(tmp_path / "folder"), "downloading it") as files:
        pictures = files.pictures("set/data")
        assert pictures.paths == {"0101": "010/0101.jpg"}
        pictures.link(tmp_path / "target")
        assert (tmp_path / "target/010/0101.jpg").read_bytes() == b"jpeg"
        assert files.pictures("set").paths == {}
    archive = make(tmp_path / "it.zip")
    with SourceFiles(archive, "downloading it") as files:
        pictures = files.pictures("set/data")
        assert pictures.paths == {"0101": "set/data/images/010/0101.jpg"}
        pictures.link(tmp_path / "target")
        assert (tmp_path / "target/it.zip").samefile(archive)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere", None, r"no directory or archive .*nowhere; downloading it makes it"),
        ("it.csv", b"", r"it.csv is no directory and no .zip, .tar, .tar.gz, .tgz file"),
        ("it.zip", b"PK\3\4 cut", "it.zip cannot be read: File is not a zip file"),
        ("it.tar.gz", gzip.compress(b"no tar" * 1000)[:40], "it.tar.gz cannot be read: "),
    ],
)
def test_what_is_no_source(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^`source`: .*{message}"):
        SourceFiles(tmp_path / name, "downloading it")


def test_pictures_in_a_tar_must_be_unpacked(tmp_path):
    with (
        SourceFiles(make(tmp_path / "it.tar.gz"), "downloading it") as files,
        pytest.raises(InputError, match=r"not read out of it\.tar\.gz; unpack it"),
    ):
        files.pictures("./set/data")
