"""The H&M competition's files as a log directory.

The source has purchases but no impressions: what a customer saw and left is unknown. `BasketPages` builds pages around
the real baskets with sampled articles, and every report on these logs says so. Two more consequences of the source:

- Time is a day. Everything of a day carries its first millisecond, so the day's own purchases are never strictly before
  a page of that day.
- Items have no publication time and no price: both are known only through purchases, later ones included.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.datasets.basket_pages import BasketPages, Candidates, Purchases
from beam_pipelines.datasets.log_writer import LogSummary, write_logs
from beam_pipelines.datasets.source_files import find_images, find_tables, link_files, read_table, require_source
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_directory

NOTICE = (
    "sampled negatives: the source has purchases but no impressions; a page is a customer's real basket of a day "
    "(clicked) filled up with sampled articles that were as popular before"
)
_DAY = 86_400_000  # milliseconds
_ATTRIBUTES = {
    "colour": "colour_group_name",
    "graphical_appearance": "graphical_appearance_name",
    "product_group": "product_group_name",
    "garment_group": "garment_group_name",
    "section": "section_name",
    "index": "index_name",
}
"""Of articles, by name: written for rankers to read, `cat_*`, and for embeddings to be judged by, `label_*`."""
_TABLES: dict[str, pa.Schema] = {
    "transactions_train": pa.schema({"t_dat": pa.date32(), "customer_id": pa.string(), "article_id": pa.string()}),
    "articles": pa.schema(
        {
            "article_id": pa.string(),
            "prod_name": pa.string(),
            "product_type_name": pa.string(),
            "colour_group_name": pa.string(),
            "graphical_appearance_name": pa.string(),
            "product_group_name": pa.string(),
            "garment_group_name": pa.string(),
            "section_name": pa.string(),
            "index_name": pa.string(),
        }
    ),
    "customers": pa.schema(
        {
            "customer_id": pa.string(),
            "FN": pa.float64(),
            "Active": pa.float64(),
            "club_member_status": pa.string(),
            "fashion_news_frequency": pa.string(),
            "age": pa.float64(),
        }
    ),
}


def build_pages(
    transactions: pa.Table, articles: pa.Table, page_size: int, seed: int
) -> tuple[Candidates, Purchases, list[str], dict[str, int]]:
    """Builds the pages of all baskets.

    Returns:
        The candidates (articles are rows of `articles`), the distinct purchases, the customers' IDs by number, and
        everything counted.
    """
    article = pc.index_in(transactions["article_id"], articles["article_id"]).combine_chunks()
    known = article.is_valid()
    customer = transactions["customer_id"].combine_chunks().filter(known).dictionary_encode()
    rows = np.stack(
        [
            transactions["t_dat"].combine_chunks().filter(known).cast(pa.int32()).to_numpy(zero_copy_only=False),
            customer.indices.to_numpy(zero_copy_only=False),
            article.filter(known).to_numpy(zero_copy_only=False),
        ]
    ).astype(np.int64)
    if not rows.size:
        raise InputError("transactions_train has no purchase of an article in articles")
    purchases = Purchases(*_distinct(rows))
    product_type = articles["product_type_name"].combine_chunks().fill_null("").dictionary_encode().indices.to_numpy()
    builder = BasketPages(product_type.astype(np.int64), page_size, np.random.default_rng(seed))
    candidates = builder.build(purchases)
    counters = {
        "purchases of articles that the catalogue lacks, left out": len(article) - rows.shape[1],
        "further pieces of one article in a basket, counted once": rows.shape[1] - len(purchases.day),
        **builder.counters,
    }
    return candidates, purchases, customer.dictionary.to_pylist(), counters


def _distinct(rows: np.ndarray) -> np.ndarray:
    """The distinct columns, sorted by the first row, then the second, then the third."""
    rows = rows[:, np.lexsort(rows[::-1])]
    return rows[:, np.append(True, (np.diff(rows) != 0).any(axis=0))]


def to_tables(
    candidates: Candidates,
    purchases: Purchases,
    customer_ids: list[str],
    articles: pa.Table,
    customers: pa.Table,
    images: Mapping[str, str],
) -> dict[str, pa.Table]:
    """Writes everything under the names of the input contract."""
    user_id = pa.array(customer_ids)
    article_id = articles["article_id"].combine_chunks()
    users = user_id.take(pa.array(candidates.customer))
    days = pa.array(candidates.day.astype("datetime64[D]").astype(str))
    return {
        "impressions": pa.table(
            {
                "page_id": pc.binary_join_element_wise(users, days, "-"),
                "user_id": users,
                "item_id": article_id.take(pa.array(candidates.article)),
                "timestamp": candidates.day * _DAY,
                "position": candidates.position,
                "clicked": candidates.clicked,
                "converted": candidates.clicked,
            }
        ),
        "events": pa.table(
            {
                "user_id": user_id.take(pa.array(purchases.customer)),
                "item_id": article_id.take(pa.array(purchases.article)),
                "timestamp": purchases.day * _DAY,
                "event": np.full(len(purchases.day), "pay"),
            }
        ),
        "items": pa.table(
            {
                "item_id": article_id,
                "category": articles["product_type_name"],
                "title": articles["prod_name"],
                "image": [images.get(article, "") for article in article_id.to_pylist()],
                **{f"cat_{name}": articles[column] for name, column in _ATTRIBUTES.items()},
                **{f"label_{name}": articles[column] for name, column in _ATTRIBUTES.items()},
            }
        ),
        "users": pa.table(
            {
                "user_id": customers["customer_id"],
                "stat_age": customers["age"],
                "stat_fashion_news": pc.fill_null(customers["FN"], 0.0),  # the source writes 1 or nothing
                "stat_active": pc.fill_null(customers["Active"], 0.0),
                "cat_club_member_status": customers["club_member_status"],
                "cat_fashion_news_frequency": customers["fashion_news_frequency"],
            }
        ),
    }


def write_hm_logs(
    source: Path, output: Path, *, page_size: int = 20, seed: int = 0, overwrite: bool = False
) -> LogSummary:
    """Writes a log directory from the competition's files.

    Args:
        source: folder with transactions_train, articles and customers (.csv or .csv.gz) and images/ (files or .zip).
        output: log directory to make.
        page_size: candidates per page.
        seed: of the sampling.
        overwrite: whether an existing output is replaced.

    Raises:
        InputError: an argument or a file of the source cannot be used.
    """
    if page_size < 2:
        raise InputError(f"`page_size` must be at least 2. Received: {page_size}")
    if seed < 0:
        raise InputError(f"`seed` must not be negative. Received: {seed}")
    require_source(source, "downloading the competition's data")
    folder = require_source(source / "images", "unpacking the competition's images")
    files = find_tables(source, _TABLES)

    with whole_directory(output, overwrite=overwrite, inputs=[source]) as directory:
        images, image_files = find_images(folder)
        transactions, articles, customers = (read_table(files[name], schema) for name, schema in _TABLES.items())
        candidates, purchases, customer_ids, counters = build_pages(transactions, articles, page_size, seed)
        tables = to_tables(candidates, purchases, customer_ids, articles, customers, images)
        write_logs(directory, tables, NOTICE)
        link_files(image_files, folder, directory / "images")
    counters["articles without a picture"] = pc.sum(pc.equal(tables["items"]["image"], "")).as_py()
    return LogSummary(
        pages=int(candidates.page[-1]) + 1,
        impressions=len(candidates.page),
        clicks=int(candidates.clicked.sum()),
        events=len(purchases.day),
        users=len(customer_ids),
        items=len(articles),
        counters=counters,
    )
