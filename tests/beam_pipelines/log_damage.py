"""Good logs, and 41 ways in which logs come damaged.

Each damage changes a log directory in place. All that it chooses comes from the `Random` it is given.
"""

import bz2
import csv
import gzip
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.beam_pipelines.random_logs import DAY, START, picture

HOUR = 3_600_000
Rows = list[dict[str, str]]


def write_good_logs(directory: Path) -> Path:
    """Two weeks of five shoppers: 24 pages of three impressions, 20 events, 12 items with pictures, all users."""
    rng = random.Random(0)
    items = [f"{n:04d}" for n in range(100, 112)]
    users = [f"U{n}" for n in range(5)]
    impressions: Rows = []
    for page in range(24):
        shown = START + page * DAY * 2 // 3
        clicked = rng.randrange(4)
        for position, item in enumerate(rng.sample(items, 3)):
            impressions.append(
                {
                    "page_id": f"page-{page:03d}",
                    "user_id": users[page % 5],
                    "item_id": item,
                    "timestamp": str(shown),
                    "position": str(position),
                    "clicked": str(int(position == clicked)),
                    "dwell_seconds": f"{rng.randrange(100) / 4}" if position == clicked else "",
                    "query": rng.choice(["red shoes", "blue dress, long", 'a "nice" one', ""]),
                }
            )
    events = [
        {
            "user_id": rng.choice(users),
            "item_id": rng.choice(items),
            "timestamp": str(START + rng.randrange(15 * 24) * HOUR),
            "event": ["pay", "cart", "click", "cart_remove"][n % 4],
        }
        for n in range(20)
    ]
    catalogue = [
        {
            "item_id": item,
            "category": f"c{n % 3}",
            "title": f"Thing {n}",
            "image": f"{n}.jpg",
            "published_at": str(START - (n + 1) * DAY),
            "stat_price": f"{n + 1}.5",
        }
        for n, item in enumerate(items)
    ]
    directory.mkdir(parents=True)
    write(directory / "impressions.csv", impressions)
    write(directory / "events.csv", events)
    write(directory / "items.csv", catalogue)
    write(directory / "users.csv", [{"user_id": user, "stat_age": str(20 + n)} for n, user in enumerate(users)])
    (directory / "images").mkdir()
    with zipfile.ZipFile(directory / "images" / "0.zip", "w") as archive:
        for n in range(6):
            archive.writestr(f"{n}.jpg", picture((n * 40, 0, 0)))
    for n in range(6, 12):
        (directory / "images" / f"{n}.jpg").write_bytes(picture((0, 0, n * 20)))
    return directory


def read(path: Path) -> Rows:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def a_table(rng: random.Random, logs: Path) -> Path:
    return logs / rng.choice(["impressions.csv", "events.csv", "items.csv"])


def edit_lines(path: Path, edit: Callable[[list[bytes]], None]) -> None:
    """Edits the lines of a file, the header (line 0) among them, without their ends."""
    lines = path.read_bytes().split(b"\n")[:-1]
    edit(lines)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def edit_some(
    rng: random.Random, path: Path, edit: Callable[[dict[str, str]], object], share: float | None = None
) -> None:
    """Edits some rows of a table: a few, half or all of them."""
    rows = read(path)
    share = rng.choice([0.04, 0.5, 1.0]) if share is None else share
    for row in rng.sample(rows, max(1, round(share * len(rows)))):
        edit(row)
    write(path, rows)


def set_value(column: str, value: Callable[[str], str]) -> Callable[[dict[str, str]], object]:
    return lambda row: row.update({column: value(row[column])})


# Files.


def upper_case_name(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    path.rename(path.with_suffix(".CSV"))


def folder_of_files(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    rows = read(path)
    path.unlink()
    (logs / path.stem).mkdir()
    parts = rng.randrange(2, 5)
    for n in range(parts):
        name = rng.choice(["part-{}.csv", "PART-{}.CSV", "part-{}.csv"]).format(n)
        write(logs / path.stem / name, rows[n::parts])


def compressed(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    codec, compress = rng.choice([("gz", gzip.compress), ("bz2", bz2.compress), ("zst", _zstd)])
    path.with_name(f"{path.name}.{codec}").write_bytes(compress(path.read_bytes()))
    path.unlink()


def _zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def json_lines(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    rows = read(path)
    form = rng.choice(["lines", "lines", "array", "pretty"])
    if form == "lines":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = json.dumps(rows, indent=None if form == "array" else 1)
    path.with_suffix(rng.choice([".jsonl", ".json", ".ndjson"])).write_text(text)
    path.unlink()


def parquet(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    columns = pa.Table.from_pylist(read(path))
    kind = rng.choice(
        [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    )
    arrays = [pa.array(column.to_pylist(), pa.string()) for column in columns.columns]
    arrays = [array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind) for array in arrays]
    pq.write_table(pa.table(arrays, names=columns.column_names), path.with_suffix(".parquet"))
    path.unlink()


def no_data_beside(rng: random.Random, logs: Path) -> None:
    folder_of_files(rng, logs)
    [folder] = [path for path in logs.iterdir() if path.is_dir() and path.name != "images"]
    other = folder / rng.choice(["_temporary/0", ".ipynb_checkpoints", "_delta_log", ".hidden"])
    other.mkdir(parents=True)
    shutil.copy(next(path for path in sorted(folder.iterdir()) if path.is_file()), other)
    (folder / "_SUCCESS").touch()


def strange_file(rng: random.Random, logs: Path) -> None:
    folder_of_files(rng, logs)
    [folder] = [path for path in logs.iterdir() if path.is_dir() and path.name != "images"]
    first = next(path for path in sorted(folder.iterdir()))
    shutil.copy(first, folder / rng.choice(["notes.xlsx", "part-9.avro", "copy.csv.bak", "part-00009"]))


def links(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    away = logs.parent / f"away-{path.name}"
    path.rename(away)
    path.symlink_to(away)


def delivered_twice(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    content = path.read_bytes()
    path.unlink()
    (logs / path.stem).mkdir()
    for name in ("a.csv", "b.csv"):
        (logs / path.stem / name).write_bytes(content)


def cut(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) // 2, len(content))])


def cut_and_compressed(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    content = gzip.compress(path.read_bytes())
    path.with_name(f"{path.name}.gz").write_bytes(content[: rng.randrange(len(content) // 2, len(content))])
    path.unlink()


def partition_folders(rng: random.Random, logs: Path) -> None:
    name, column = rng.choice(
        [("events", "event"), ("items", "category"), ("impressions", "clicked"), ("users", "stat_age")]
    )
    rows = read(logs / f"{name}.csv")
    (logs / f"{name}.csv").unlink()
    for value in sorted({row[column] for row in rows}):
        folder = logs / name / f"{column}={value}"
        folder.mkdir(parents=True)
        write(
            folder / "part-0.csv",
            [{k: v for k, v in row.items() if k != column} for row in rows if row[column] == value],
        )


# Lines and bytes.


def shuffled(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    rows = read(path)
    rng.shuffle(rows)
    write(path, rows)


def header_again(rng: random.Random, logs: Path) -> None:
    edit_lines(a_table(rng, logs), lambda lines: lines.insert(rng.randrange(2, len(lines)), lines[0]))


def blank_lines(rng: random.Random, logs: Path) -> None:
    edit_lines(a_table(rng, logs), lambda lines: lines.insert(rng.randrange(1, len(lines)), b""))


def line_ends(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    path.write_bytes(path.read_bytes().replace(b"\n", rng.choice([b"\r\n", b"\r"])))


def no_last_line_end(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))


def byte_order_mark(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def encoding(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    path.write_bytes(path.read_text().encode(rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32"])))


def bad_byte(rng: random.Random, logs: Path) -> None:
    def edit(lines: list[bytes]) -> None:
        n = rng.randrange(1, len(lines))
        at = rng.randrange(len(lines[n]) + 1)
        lines[n] = lines[n][:at] + rng.choice([b"\xe9", b"\xff", b"\x00", b"\xc3"]) + lines[n][at:]

    edit_lines(a_table(rng, logs), edit)


def latin_1(rng: random.Random, logs: Path) -> None:
    path = logs / "items.csv"
    rows = read(path)
    for row in rows:
        row["title"] += " für Café"
    write(path, rows)
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))


def stray_quotes(rng: random.Random, logs: Path) -> None:
    def edit(lines: list[bytes]) -> None:
        for _ in range(rng.randrange(1, 3)):
            n = rng.randrange(1, len(lines))
            fields = lines[n].split(b",")
            at = rng.randrange(len(fields))
            fields[at] = rng.choice([b'"' + fields[at], fields[at] + b'"', b'5" ' + fields[at]])
            lines[n] = b",".join(fields)

    edit_lines(a_table(rng, logs), edit)


def more_or_fewer_fields(rng: random.Random, logs: Path) -> None:
    def edit(lines: list[bytes]) -> None:
        n = rng.randrange(1, len(lines))
        lines[n] = lines[n] + b",more" if rng.random() < 0.5 else lines[n].rpartition(b",")[0]

    edit_lines(a_table(rng, logs), edit)


def delimiter(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    rows = read(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=rng.choice(";\t|"))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


# Columns.


def column_names(rng: random.Random, logs: Path) -> None:
    change = rng.choice([bytes.upper, bytes.title, lambda name: b" " + name, lambda name: b'"' + name + b'"'])
    edit_lines(a_table(rng, logs), lambda lines: lines.__setitem__(0, b",".join(map(change, lines[0].split(b",")))))


def column_missing(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    rows = read(path)
    column = rng.choice(list(rows[0]))
    write(path, [{k: v for k, v in row.items() if k != column} for row in rows])


def column_twice(rng: random.Random, logs: Path) -> None:
    def edit(lines: list[bytes]) -> None:
        at = rng.randrange(lines[0].count(b",") + 1)
        lines[0] += b"," + lines[0].split(b",")[at]
        lines[1:] = [line + b",0" for line in lines[1:]]

    edit_lines(a_table(rng, logs), edit)


def columns_in_other_order(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    rows = read(path)
    order = rng.sample(list(rows[0]), len(rows[0]))
    write(path, [{column: row[column] for column in order} for row in rows])


def unknown_column(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    write(path, [{**row, "something": "x"} for row in read(path)])


# Values.


def other_ids(rng: random.Random, logs: Path) -> None:
    name, column = rng.choice(
        [("impressions", "item_id"), ("events", "item_id"), ("items", "item_id"), ("users", "user_id")]
    )
    change = rng.choice(
        [
            lambda v: v.lstrip("0U"),
            lambda v: v + ".0",
            lambda v: f" {v}",
            lambda v: f"{v} ",
            str.lower,
            lambda v: f"x{v}",
        ]
    )
    edit_some(rng, logs / f"{name}.csv", set_value(column, change))


def missing_markers(rng: random.Random, logs: Path) -> None:
    path = a_table(rng, logs)
    column = rng.choice(list(read(path)[0]))
    markers = ["\\N", "NULL", "null", "nan", "None", ""]
    marker = rng.choice(markers if column in ("title", "category", "query") else [*markers, "-", "N/A", "NA"])
    edit_some(rng, path, set_value(column, lambda _: marker))


def other_times(rng: random.Random, logs: Path) -> None:
    name, column = rng.choice(
        [("impressions", "timestamp"), ("events", "timestamp"), ("items", "published_at"), ("impressions", "timestamp")]
    )
    form = rng.choice(list(TIME_FORMS.values()))
    edit_some(rng, logs / f"{name}.csv", set_value(column, lambda v: form(int(v))))


def _written(pattern: str) -> Callable[[int], str]:
    import datetime

    return lambda ms: datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).strftime(pattern)


TIME_FORMS: dict[str, Callable[[int], str]] = {
    "seconds": lambda ms: str(ms // 1000),
    "seconds with a point": lambda ms: f"{ms / 1000:.3f}",
    "microseconds": lambda ms: str(ms * 1000),
    "nanoseconds": lambda ms: str(ms * 1_000_000),
    "minutes": lambda ms: str(ms // 60_000),
    "iso": _written("%Y-%m-%dT%H:%M:%SZ"),
    "BigQuery": _written("%Y-%m-%d %H:%M:%S UTC"),
    "hour": _written("%y%m%d%H"),
    "14 digits": _written("%Y%m%d%H%M%S"),
    "American": _written("%m/%d/%Y %H:%M"),
    "German": _written("%d.%m.%Y %H:%M"),
    "negative": lambda ms: str(-ms),
    "zero": lambda ms: "0",
    "far": lambda ms: str(ms * 2),
    "rounded": lambda ms: f"{ms:.6e}",
    "words": lambda ms: "yesterday",
}


def odd_numbers(rng: random.Random, logs: Path) -> None:
    name, column = rng.choice(
        [("items", "stat_price"), ("impressions", "position"), ("impressions", "dwell_seconds"), ("users", "stat_age")]
    )
    change = rng.choice(
        [
            lambda v: f"${v}",
            lambda v: v.replace(".", ",") + ",5" * ("." not in v),
            lambda v: v and f"{v}e0",
            lambda v: v and f" {v}",
            lambda v: "1e999",
            lambda v: "1.7976931348623157e308",
            lambda v: "inf",
            lambda v: "x",
        ]
    )
    edit_some(rng, logs / f"{name}.csv", set_value(column, change))


def odd_words(rng: random.Random, logs: Path) -> None:
    name, column, values = rng.choice(
        [
            ("impressions", "clicked", ["yes", "true", "TRUE", "t", "2", "1.0", "on"]),
            ("events", "event", ["purchase", "PAY", "view", "Pay "]),
        ]
    )
    value = rng.choice(values)
    edit_some(rng, logs / f"{name}.csv", lambda row: row.update({column: value}) if row[column] not in ("0",) else None)


def page_id_again(rng: random.Random, logs: Path) -> None:
    edit_some(rng, logs / "impressions.csv", set_value("page_id", lambda v: rng.choice(["home", "page-000", v[:6]])))


def other_rows_of_items(rng: random.Random, logs: Path) -> None:
    rows = read(logs / "items.csv")
    more = [dict(row) for row in rng.sample(rows, rng.choice([1, len(rows)]))]
    column = rng.choice(["title", "image", "stat_price", "category"])
    for row in more:
        row[column] = rng.choice(["", "1"])
    write(logs / "items.csv", more + rows if rng.random() < 0.5 else rows + more)


def items_gone(rng: random.Random, logs: Path) -> None:
    rows = read(logs / "items.csv")
    write(logs / "items.csv", rng.sample(rows, rng.choice([1, 6, 11])))


# Pictures.


def other_picture_names(rng: random.Random, logs: Path) -> None:
    change = rng.choice(
        [
            lambda v: f"./{v}",
            lambda v: f"images/{v}",
            lambda v: f"images\\{v}",
            lambda v: v.upper(),
            lambda v: f"/srv/shop/{v}",
            lambda v: f"https://shop.example/{v}",
            lambda v: f"s3://bucket/{v}",
            lambda v: f"{v} ",
            lambda v: v.replace(".jpg", ".webp"),
        ]
    )
    edit_some(rng, logs / "items.csv", set_value("image", change))


def damaged_pictures(rng: random.Random, logs: Path) -> None:
    for n in rng.sample(range(6, 12), rng.choice([1, 6])):
        path = logs / "images" / f"{n}.jpg"
        content = path.read_bytes()
        path.write_bytes(rng.choice([b"", content[:100], b"<html>", b"GIF89a", content[:2] + bytes(50)]))


def pictures_gone(rng: random.Random, logs: Path) -> None:
    for n in rng.sample(range(6, 12), rng.choice([1, 6])):
        (logs / "images" / f"{n}.jpg").unlink()


def repacked_pictures(rng: random.Random, logs: Path) -> None:
    path = logs / "images" / "0.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path.unlink()
    form = rng.choice(["folder in it", "upper case", "loose", "cut"])
    if form == "loose":
        for name, content in members.items():
            (logs / "images" / name).write_bytes(content)
        return
    path = path.with_name("0.ZIP") if form == "upper case" else path
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"photos/{name}" if form == "folder in it" else name, content)
    if form == "cut":
        path.write_bytes(path.read_bytes()[:-40])


FORMS: tuple[Callable[[random.Random, Path], None], ...] = (
    upper_case_name,
    folder_of_files,
    compressed,
    parquet,
    no_data_beside,
    links,
    delivered_twice,
    partition_folders,
    shuffled,
    header_again,
    blank_lines,
    line_ends,
    no_last_line_end,
    byte_order_mark,
    column_names,
    columns_in_other_order,
    unknown_column,
    other_rows_of_items,
    repacked_pictures,
)
"""They change how the logs are written, and hardly what they say: most end as the same bytes."""

LOSSES: tuple[Callable[[random.Random, Path], None], ...] = (
    json_lines,
    strange_file,
    cut,
    cut_and_compressed,
    encoding,
    bad_byte,
    latin_1,
    stray_quotes,
    more_or_fewer_fields,
    delimiter,
    column_missing,
    column_twice,
    other_ids,
    missing_markers,
    other_times,
    odd_numbers,
    odd_words,
    page_id_again,
    items_gone,
    other_picture_names,
    damaged_pictures,
    pictures_gone,
)
"""They change what the logs say."""
