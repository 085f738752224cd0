"""Logs that went wrong for others, each with the outcome that is right. They are kept beside the repository."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from beam_pipelines import build
from beam_pipelines.datasets import kuairand
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.format.page_reader import decode_page, read_records
from beam_pipelines.shell.command import CommandError

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "data"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the cases in {CASES}")


class Outcome(NamedTuple):
    """What a build ended with: an error of one line, or a dataset and what was printed."""

    error: str
    manifest: Manifest | None
    sums: dict[str, float]
    printed: str

    def used(self, table: str) -> int:
        """Rows of a table that were not rejected."""
        rejected = sum(count for name, count in self.counters.items() if name.startswith(f"rejected.{table}."))
        return self.counters[f"rows.{table}"] - rejected

    @property
    def counters(self) -> dict[str, int]:
        return self.manifest.counters

    @property
    def days(self) -> set[str]:
        """Names of the splits: logs of three windows that keep their days have all."""
        return set(self.manifest.splits)


def build_case(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Outcome:
    output = tmp_path / "d"
    split = "2024-01-01T00:02,2024-01-01T00:04" if name == "time_in_float32" else "2024-01-03,2024-01-05"
    words = ["--logs", str(CASES / name / "logs"), "--output", str(output), "--split-by-time", split, *options]
    try:
        closing = build.main(words)
    except (InputError, CommandError) as error:
        assert not output.exists()
        assert "Traceback" not in capsys.readouterr().err
        return Outcome(str(error), None, {}, "")
    manifest = Manifest.read(output)
    sums = dict.fromkeys(("clicked", "converted", "dwell", "candidates"), 0.0)
    for split in manifest.splits.values():
        for shard in split.shards:
            for page in map(decode_page, read_records(output / shard.path)):
                sums["candidates"] += len(page["item"])
                for label in ("clicked", "converted", "dwell"):
                    sums[label] += float(page[label].sum())
    return Outcome("", manifest, sums, capsys.readouterr().out + closing)


def whole(out: Outcome) -> bool:
    """All 54 impressions with their 18 clicks on 18 pages of three windows, and all 18 events."""
    return (
        not out.error
        and (out.used("impressions"), out.used("events")) == (54, 18)
        and (out.sums["candidates"], out.sums["clicked"]) == (54, 18)
        and [split.pages for split in out.manifest.splits.values()] == [6, 6, 6]
    )


def says(*patterns: str) -> Callable[[Outcome], bool]:
    return lambda out: "\n" not in out.error and all(re.search(pattern, out.error) for pattern in patterns)


def lost_lines(most: int) -> Callable[[Outcome], bool]:
    """At most so many of 120 impressions are lost, and they are counted."""
    return lambda out: (
        not out.error and out.counters["rows.impressions"] == 120 and out.used("impressions") >= 120 - most
    )


RIGHT: dict[str, Callable[[Outcome], Any]] = {
    "bad_byte_in_malformed_row": lambda out: sum(v for k, v in out.counters.items() if "rejected.imp" in k) == 1,
    "bigquery_utc": whole,
    "compact_date_yymmddhh": whole,
    "compact_date_yyyymmdd": lambda out: out.sums["candidates"] == 54 and out.days == {"pretrain", "train", "test"},
    "event_names": says("click, pay, cart, cart_remove", "purchase|order|view|buy"),
    "events_in_seconds_advice": lambda out: whole(out) and out.counters["history.pay.steps"] == 45,
    "folder_skips_files": whole,
    "folder_temporary": whole,
    "hive_key_column": lambda out: not out.error and out.used("events") == 36,
    "https_pictures": says("https://", "images/|install|copy"),
    "ids_leading_zero": says(r"'10\d'", r"'010\d'", "zeros"),
    "items_two_rows": lambda out: out.manifest.images.items_with_image == 6,
    "json_array": says("object", "line"),
    "jsonl_late_key": lambda out: out.sums["converted"] == 8,
    "null_marker_user": lambda out: (
        "missing user_id" in out.error or out.counters["rejected.impressions.missing user_id"]
    ),
    "page_id_reused": lambda out: "page" in out.error or out.sums["clicked"] == 18,
    "parquet_uuid_ids": whole,
    "pictures_wrong_prefix": lambda out: "images" in out.error or out.manifest.images.items_with_image == 6,
    "published_at_other_unit": lambda out: whole(out) and out.manifest.columns["items.published_at"].read == 6,
    "repeated_header": lambda out: whole(out) and not out.counters["items.only_in_logs"],
    "s3_without_boto3": says("s3://", "credentials|aws|bucket"),
    "stat_as_text": says(r"stat_(price|weight)", r"\$9\.99|10,50"),
    "stray_quote": lost_lines(1),
    "stray_quote_pair": lost_lines(2),
    "time_in_float32": says("timestamp", "float"),
    "utf16_csv": says("impressions.csv|events.csv|items.csv", "UTF-8"),
    "zip_dot_slash": lambda out: out.manifest.images.items_with_image == 6,
}


@needs_cases
@pytest.mark.parametrize("name", RIGHT)
def test_the_outcome_is_right(name, tmp_path, capsys):
    out = build_case(name, tmp_path, capsys)
    assert RIGHT[name](out), out


@needs_cases
def test_a_unit_that_fits_one_table_only_is_no_success(tmp_path, capsys):
    out = build_case("events_in_seconds_advice", tmp_path, capsys, "--timestamp-unit", "milliseconds")
    assert re.search("events.*seconds", out.error), out


@needs_cases
def test_the_publishers_own_files_are_read(tmp_path):
    source = CASES / "kuairand_official_files" / "KuaiRand-Pure" / "data"
    kuairand.main(["--source", str(source), "--output", str(tmp_path / "logs")])
    assert (tmp_path / "logs" / "impressions.parquet").is_file()


@needs_cases
def test_every_case_is_known():
    assert {path.name for path in CASES.iterdir() if path.is_dir()} == {*RIGHT, "kuairand_official_files"}
