"""Damaged logs end as the undamaged ones, as an error, or as a dataset that accounts for what it lost.

`make test` tries every damage once or twice, `make test-random` fifty times at random; both print how many ended how.
"""

import hashlib
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.format.page_reader import decode_page, read_records
from tests.beam_pipelines.log_damage import FORMS, LOSSES, write_good_logs
from tests.beam_pipelines.random_logs import SPLIT

OPTIONS = BuildOptions(split_by_time=SPLIT, page_buckets=2)


class Built(NamedTuple):
    """A dataset: its manifest, digests of what readers see, and what it says of shoppers, items and pictures.

    Free text is no fact: a stray quote may be part of it.
    """

    manifest: Manifest
    digests: dict[str, str]
    facts: set[tuple]

    def __repr__(self) -> str:
        return f"{len(self.facts)} facts"

    @classmethod
    def of(cls, dataset: Path) -> "Built":
        manifest = Manifest.read(dataset)
        digests = {
            path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(dataset.rglob("*"))
            if path.is_file() and path.name != "manifest.json" and path.parent.name != "dead_letters"
        }
        items = pq.read_table(dataset / manifest.items.file.path).to_pylist()
        users = pq.read_table(dataset / manifest.users.file.path).to_pylist()
        pictures = [""] * len(items)
        if manifest.images is not None:
            pictures = pq.read_table(dataset / manifest.images.index.path)["sha256"].to_pylist()
        facts = {("user", row["user_id"], row.get("stat_age")) for row in users}
        for row, picture in zip(items, pictures, strict=True):
            facts |= {("item", row["item_id"]), ("picture", row["item_id"], picture)}
            facts |= {(name, row["item_id"], row.get(name)) for name in ("published_at", "stat_price")}
        for split in manifest.splits.values():
            for shard in split.shards:
                for page in map(decode_page, read_records(dataset / shard.path)):
                    page_id = page["page_id"][0].decode()
                    facts.add(("page", page_id, users[page["user"][0]]["user_id"], int(page["timestamp"][0])))
                    labels = zip(page["item"], *(page[name].tolist() for name in ("clicked", "dwell")), strict=True)
                    facts |= {("shown", page_id, items[item]["item_id"], *said) for item, *said in labels}
        return cls(manifest, digests, {fact for fact in facts if fact[-1] == fact[-1]})  # NaN is no fact


def losses(manifest: Manifest, good: Manifest) -> Counter[str]:
    """What a manifest says was lost, met twice or not there, where the good one says nothing of it."""
    found = Counter(manifest.counters)
    found = Counter({name: count for name, count in found.items() if name.startswith(("rejected.", "pages.split"))})
    for name in ("impressions", "events", "items", "users"):
        for repeated in ("duplicate", "conflicting"):
            found[f"{name}.{repeated}"] += manifest.counters.get(f"{name}.{repeated}", 0)
    for name, join in manifest.joins.items():
        found[f"{name} not joined"] += join.rows - join.joined
    for name, before in good.columns.items():
        values = manifest.columns.get(name)
        found[f"{name} gone"] += before.read - (values.read if values is not None else 0)
    for reason, count in (manifest.images.missing if manifest.images else {"none": 99}).items():
        found[f"picture: {reason}"] += count
    return +found


def rejected_rows(manifest: Manifest, table: str) -> int:
    return sum(count for name, count in manifest.counters.items() if name.startswith(f"rejected.{table}."))


def check_accounts(name: str, found: Built, good: Built) -> None:
    """Every row is used or rejected, and no fact is missing without a word."""
    manifest = found.manifest
    in_files: Counter[str] = Counter()
    for source in manifest.sources:
        in_files[source.path.split("/")[0].split(".")[0].lower()] += source.rows
    for table in ("impressions", "events", "items", "users"):
        assert f"rows.{table}" in manifest.counters, f"{name}: where is {table}?"
        assert in_files[table] == manifest.counters[f"rows.{table}"], name
    used = manifest.counters["rows.impressions"] - rejected_rows(manifest, "impressions")
    shown = sum(fact[0] == "shown" for fact in found.facts)
    assert shown + manifest.counters["impressions.duplicate"] + manifest.counters["impressions.conflicting"] >= used, (
        name
    )
    lost = losses(manifest, good.manifest)
    missing = good.facts - found.facts
    assert len(missing) <= 5 * lost.total(), f"{name}: of {sorted(missing, key=str)[:9]} is only said: {dict(lost)}"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Good logs and their dataset."""
    work = tmp_path_factory.mktemp("damage")
    logs = write_good_logs(work / "logs")
    build_dataset(logs, work / "dataset", OPTIONS)
    built = Built.of(work / "dataset")
    assert not losses(built.manifest, built.manifest)
    return logs, built


@pytest.fixture(scope="module")
def outcomes():
    """Counts the outcomes, and prints them at the end."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\n{counts.total()} damages: {dict(counts)}")


def tries(number):
    """Draws so many examples, or many more where they are random."""
    return settings(max_examples=number if settings.default.derandomize else 50)


@pytest.mark.parametrize("damage", FORMS, ids=lambda damage: damage.__name__)
@tries(1)
@given(seed=st.integers(0, 2**32 - 1))
def test_logs_in_another_form_have_no_fourth_outcome(good, outcomes, damage, seed):
    check_outcome(good, outcomes, damage, seed)


@pytest.mark.parametrize("damage", LOSSES, ids=lambda damage: damage.__name__)
@tries(2)
@given(seed=st.integers(0, 2**32 - 1))
def test_logs_that_say_something_else_have_no_fourth_outcome(good, outcomes, damage, seed):
    check_outcome(good, outcomes, damage, seed)


def check_outcome(good, outcomes, damage, seed):
    logs, undamaged = good
    name = f"{damage.__name__}, seed {seed}"
    with tempfile.TemporaryDirectory() as work:
        damaged, output = Path(work) / "logs", Path(work) / "dataset"
        shutil.copytree(logs, damaged)
        damage(random.Random(name), damaged)
        before = sorted(path.name for path in Path(work).iterdir())
        message = ""
        try:
            build_dataset(damaged, output, OPTIONS)
        except InputError as error:
            message = str(error)
        if message:
            outcomes["an error"] += 1
            assert len(message.splitlines()) == 1, name
            assert sorted(path.name for path in Path(work).iterdir()) == before, name
            return
        found = Built.of(output)
        if found.digests == undamaged.digests:
            outcomes["the same bytes"] += 1
        else:
            outcomes["less, accounted for"] += 1
            check_accounts(name, found, undamaged)
