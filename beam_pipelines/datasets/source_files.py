"""Reads the files of a public data set: tables as CSV, plain or gzipped, and pictures, loose or in zip shards."""

import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from beam_pipelines.format.errors import InputError


def require_source(folder: Path, made_by: str) -> Path:
    """Returns the folder if it is one.

    Raises:
        InputError: it is not there; the message says what makes it.
    """
    if not folder.is_dir():
        raise InputError(f"`source`: no directory {folder}; {made_by} makes it")
    return folder


def find_tables(source: Path, schemas: Mapping[str, pa.Schema]) -> dict[str, Path]:
    """Finds `NAME.csv` or `NAME.csv.gz` of every table and checks its columns, without reading it.

    Raises:
        InputError: a table or a column is missing, or a file cannot be read.
    """
    files = {}
    for table, schema in schemas.items():
        found = [path for path in (source / f"{table}.csv", source / f"{table}.csv.gz") if path.is_file()]
        if not found:
            raise InputError(f"`source`: no {table}.csv or {table}.csv.gz in {source}")
        files[table] = found[0]
        try:
            with pa.csv.open_csv(found[0]) as reader:
                names = reader.schema.names
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{found[0]} cannot be read: {str(error).splitlines()[0]}") from error
        if missing := [column for column in schema.names if column not in names]:
            raise InputError(f"{found[0]}: no column {missing[0]!r} (columns: {', '.join(names)})")
    return files


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Reads the columns of a schema. IDs that it calls strings stay strings, so that leading zeros survive.

    Raises:
        InputError: the file is damaged or has no rows, a value is not of its type, or one is missing that the schema
            says is there.
    """
    options = pa.csv.ConvertOptions(
        include_columns=schema.names, column_types=dict(zip(schema.names, schema.types, strict=True)),
        null_values=[""], strings_can_be_null=True
    )  # fmt: skip
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    try:
        table = pa.csv.read_csv(path, convert_options=options, parse_options=parse)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not table.num_rows:
        raise InputError(f"{path} has no rows")
    for field in schema:
        if not field.nullable and (absent := table[field.name].null_count):
            raise InputError(f"{path}: column {field.name!r} is empty in {absent} of {table.num_rows} rows")
    return table.combine_chunks()


def find_images(folder: Path) -> tuple[dict[str, str], list[Path]]:
    """Finds the pictures of a folder, loose or in zip shards.

    Returns:
        Item ID (the file's name without its ending) to the picture's path inside the folder or shard, and the files to
        hand on.

    Raises:
        InputError: there is no picture, or a shard is damaged.
    """
    images: dict[str, str] = {}
    files = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".zip" and path.parent == folder:
            try:
                with zipfile.ZipFile(path) as shard:
                    names = shard.namelist()
            except zipfile.BadZipFile as error:
                raise InputError(f"{path} cannot be read: {error}") from error
        elif path.suffix == ".jpg":
            names = [path.relative_to(folder).as_posix()]
        else:
            continue
        files.append(path)
        images.update({Path(name).stem: name for name in names if name.endswith(".jpg")})
    if not images:
        raise InputError(f"`source`: no .jpg and no .zip with any in {folder}")
    return images, files


def link_files(files: Sequence[Path], source: Path, target: Path) -> None:
    """Puts files into another folder under their relative paths: hard links where possible, copies elsewhere."""
    for file in files:
        path = target / file.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.resolve(), path)
        except OSError:  # another file system, or not ours to link
            shutil.copyfile(file, path)
