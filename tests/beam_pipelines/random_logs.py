"""Random logs that use most of the input contract, and pictures for them."""

import io
import random
import zipfile

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01
SPLIT = ("2026-01-08", "2026-01-16")


def picture(colour, format="JPEG", size=(30, 40)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format)
    return out.getvalue()


def random_logs(seed=0, pages=120, users=12, items=20):
    rng = random.Random(seed)
    impressions, events = [], []
    for page in range(pages):
        user, time = f"u{rng.randrange(users):02d}", START + rng.randrange(17 * DAY)
        for position in range(rng.randrange(1, 6)):
            impressions.append(
                {
                    "page_id": f"p{page:04d}",
                    "user_id": user,
                    "item_id": f"{rng.randrange(items):03d}",
                    "timestamp": time + rng.randrange(3),
                    "position": position,
                    "clicked": rng.random() < 0.4,
                    "converted": rng.random() < 0.1,
                    "dwell_seconds": rng.choice([0.0, 2.5]),
                    "query": rng.choice(["", "rot", "blau"]),
                }
            )
    for _ in range(300):
        impression = rng.choice(impressions)
        time = rng.choice([impression["timestamp"], START + rng.randrange(17 * DAY)])
        kind = rng.choice(["click", "pay", "cart", "cart_remove"])
        item = f"{rng.randrange(items + 2):03d}"  # two of them are in no items table
        events.append({"user_id": impression["user_id"], "item_id": item, "timestamp": time, "event": kind})
    return impressions, events


def items_table(items=20):
    return {
        "item_id": [f"{n:03d}" for n in reversed(range(items))],
        "category": ["c"] * items,
        "title": [None] * items,
        "image": ["" if n == 0 else f"{n % 7}.jpg" for n in reversed(range(items))],
        "published_at": [START] * items,
        "stat_price": [None] + [1.5] * (items - 1),
        "cat_size": ["s"] * items,
        "label_style": ["x"] * items,
    }


def write_logs(directory, impressions, events, items=None, folder_of=1):
    """Writes logs; with `folder_of` > 1 the large tables are split into that many files."""
    (directory / "images").mkdir(parents=True)
    for name, rows in (("impressions", impressions), ("events", events)):
        if folder_of == 1:
            pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}.parquet", row_group_size=100)
        else:
            (directory / name).mkdir()
            for n in range(folder_of):
                pa.csv.write_csv(pa.Table.from_pylist(rows[n::folder_of]), directory / name / f"{n}.csv")
    pq.write_table(pa.table(items or items_table()), directory / "items.parquet")
    with zipfile.ZipFile(directory / "images" / "0.zip", "w") as archive:
        for n in range(4):
            archive.writestr(f"{n}.jpg", picture((n * 60, 0, 0)))
    for n in range(4, 7):
        (directory / "images" / f"{n}.jpg").write_bytes(picture((0, 0, n * 30)))
    (directory / "logs.json").write_text('{"notice": "made up"}')
    return directory
