"""The H&M competition's files as a log directory: in a folder, or in the one zip that Kaggle gives.

The source has purchases but no impressions: what a customer saw and left is unknown. `BasketPages` builds pages around
the real baskets with sampled articles, and every report on these logs says so. Two more consequences of the source:

- Time is a day. Everything of a day carries its first millisecond, so the day's own purchases are never strictly before
  a page of that day.
- Items have no publication time and no price: both are known only through purchases, later ones included.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.datasets.basket_pages import BasketPages, Candidates, Purchases
from beam_pipelines.datasets.log_writer import LogSummary, log_writer
from beam_pipelines.datasets.source_files import Pictures, SourceFiles
from beam_pipelines.datasets.source_tables import Layout, SourceTable, TableFile, find_layout, say_unread
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import warn

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
_EVENTS = 1_000_000  # of a part
LAYOUT = Layout(
    "the H&M competition",
    {
        "articles": TableFile(
            "articles.csv",
            pa.schema(
                [
                    pa.field("article_id", pa.string(), nullable=False),
                    pa.field("prod_name", pa.string()),
                    pa.field("product_type_name", pa.string()),
                    *(pa.field(column, pa.string()) for column in _ATTRIBUTES.values()),
                ]
            ),
        ),
        "customers": TableFile(
            "customers.csv",
            pa.schema(
                [
                    pa.field("customer_id", pa.string(), nullable=False),
                    pa.field("FN", pa.float64()),
                    pa.field("Active", pa.float64()),
                    pa.field("club_member_status", pa.string()),
                    pa.field("fashion_news_frequency", pa.string()),
                    pa.field("age", pa.float64()),
                ]
            ),
        ),
        "transactions_train": TableFile(
            "transactions_train.csv",
            pa.schema(
                [
                    pa.field("t_dat", pa.date32(), nullable=False),
                    pa.field("customer_id", pa.string(), nullable=False),
                    pa.field("article_id", pa.string(), nullable=False),
                ]
            ),
        ),
    },
)


def read_purchases(transactions: SourceTable, articles: pa.Table) -> tuple[Purchases, list[str], dict[str, int]]:
    """Reads the distinct purchases. IDs become numbers at once: as strings, they would not fit into memory.

    Args:
        transactions: the table to read.
        articles: the catalogue, whose rows number the articles.

    Returns:
        The purchases, the customers' IDs by number, and what was left out.

    Raises:
        InputError: the table cannot be used, or none of its articles is in the catalogue.
    """
    customers: dict[str, int] = {}
    parts: list[np.ndarray] = []
    for batch in transactions.batches():
        _check_article_ids(transactions, batch["article_id"])
        article = pc.index_in(batch["article_id"], articles["article_id"])
        batch, article = batch.filter(article.is_valid()), article.drop_null()
        encoded = batch["customer_id"].dictionary_encode()
        number = [customers.setdefault(customer, len(customers)) for customer in encoded.dictionary.to_pylist()]
        day = batch["t_dat"].cast(pa.int32()).to_numpy()
        customer = np.array(number, np.int32)[encoded.indices.to_numpy()]
        parts.append(np.stack([day, customer, article.to_numpy()]))
    day, customer, article = np.concatenate(parts, axis=1).astype(np.int64)
    if not len(day):
        raise InputError(f"{transactions.name} has no purchase of an article in articles.csv")
    first = day.min()
    key = np.unique(((day - first) * len(customers) + customer) * len(articles) + article)
    page, article_of = np.divmod(key, len(articles))
    days, customer_of = np.divmod(page, len(customers))
    counters = {
        "purchases of articles that the catalogue lacks, left out": transactions.rows - len(day),
        "further pieces of one article in a basket, counted once": len(day) - len(key),
    }
    return Purchases(days + first, customer_of, article_of), list(customers), counters


def _check_article_ids(table: SourceTable, ids: pa.Array) -> None:
    """Refuses IDs that a program has taken for numbers.

    Raises:
        InputError: an ID has not ten digits.
    """
    whole = pc.match_substring_regex(ids, r"^\d{10}$")
    if not pc.all(whole).as_py():
        wrong = ids.filter(pc.invert(whole))[0].as_py()
        raise InputError(
            f"{table.name}: article_id {wrong!r} has not 10 digits as the competition's have, the first of them 0; a "
            "program that reads them as numbers loses it"
        )


def to_impressions(candidates: Candidates, user_id: pa.Array, article_id: pa.Array) -> pa.Table:
    """Writes candidates under the names of the input contract.

    Args:
        candidates: of some pages.
        user_id, article_id: the IDs, by number.
    """
    users = user_id.take(pa.array(candidates.customer))
    days = pa.array(candidates.day.astype("datetime64[D]").astype(str))
    return pa.table(
        {
            "page_id": pc.binary_join_element_wise(users, days, "-"),
            "user_id": users,
            "item_id": article_id.take(pa.array(candidates.article)),
            "timestamp": candidates.day * _DAY,
            "position": candidates.position,
            "clicked": candidates.clicked,
            "converted": candidates.clicked,
        }
    )


def to_events(purchases: Purchases, user_id: pa.Array, article_id: pa.Array) -> Iterator[pa.Table]:
    """Writes purchases under the names of the input contract, part by part; see `to_impressions`."""
    for first in range(0, len(purchases.day), _EVENTS):
        day, customer, article = (column[first : first + _EVENTS] for column in purchases)
        yield pa.table(
            {
                "user_id": user_id.take(pa.array(customer)),
                "item_id": article_id.take(pa.array(article)),
                "timestamp": day * _DAY,
                "event": np.full(len(day), "pay"),
            }
        )


def to_items(articles: pa.Table, pictures: Pictures) -> pa.Table:
    """Names the articles' columns as the input contract does."""
    image = [pictures.paths.get(article) for article in articles["article_id"].to_pylist()]
    return pa.table(
        {
            "item_id": articles["article_id"],
            "category": articles["product_type_name"],
            "title": articles["prod_name"],
            "image": pa.array(image, pa.string()),
            **{f"cat_{name}": articles[column] for name, column in _ATTRIBUTES.items()},
            **{f"label_{name}": articles[column] for name, column in _ATTRIBUTES.items()},
        }
    )


def to_users(customers: pa.Table) -> pa.Table:
    """Names the customers' columns as the input contract does."""
    news = customers["fashion_news_frequency"]
    return pa.table(
        {
            "user_id": customers["customer_id"],
            "stat_age": customers["age"],
            "stat_fashion_news": pc.fill_null(customers["FN"], 0.0),  # the source writes 1 or nothing
            "stat_active": pc.fill_null(customers["Active"], 0.0),
            "cat_club_member_status": customers["club_member_status"],
            "cat_fashion_news_frequency": pc.if_else(pc.equal(news, "None"), "NONE", news),  # the source writes both
        }
    )


def write_hm_logs(
    source: Path, output: Location | str, *, page_size: int = 20, seed: int = 0, overwrite: bool = False
) -> LogSummary:
    """Writes a log directory from the competition's files.

    Args:
        source: folder or zip with articles, customers and transactions_train (.csv, .csv.gz or .csv.zip) and images/
            (files or zip shards). A zip becomes a shard of the logs' pictures, as it is. Without images/, which is
            nearly all that the download weighs, articles have no pictures.
        output: log directory to make. Pictures are linked there, or copied if it lies on another file system.
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
    with SourceFiles(source, "downloading the competition's data") as files:
        _, folder, tables = find_layout(files, (LAYOUT,))
        pictures = files.pictures(folder)
        if not pictures.paths:
            warn(f"no images/ beside {tables['articles'].name}: no article has a picture")
        say_unread(files, folder, list(tables.values()))
        with (
            whole_directory(as_location(output), overwrite=overwrite, inputs=[source]) as directory,
            log_writer(directory, NOTICE) as writer,
        ):
            articles, customers = tables["articles"].read(), tables["customers"].read()
            _check_article_ids(tables["articles"], articles["article_id"])
            items = to_items(articles, pictures)
            if pictures.paths and items["image"].null_count == len(items):
                raise InputError(
                    f"`source`: no picture has the name of an article: pictures are called as "
                    f"{next(iter(pictures.paths))}.jpg, articles as {articles['article_id'][0]}"
                )
            writer.append("items", items)
            writer.append("users", to_users(customers))
            purchases, customer_ids, counters = read_purchases(tables["transactions_train"], articles)
            user_id, article_id = pa.array(customer_ids), articles["article_id"].combine_chunks()
            for part in to_events(purchases, user_id, article_id):
                writer.append("events", part)
            product_type = articles["product_type_name"].fill_null("").combine_chunks().dictionary_encode().indices
            builder = BasketPages(product_type.to_numpy().astype(np.int64), page_size, np.random.default_rng(seed))
            pages = impressions = clicks = 0
            for candidates in builder.build(purchases):
                writer.append("impressions", to_impressions(candidates, user_id, article_id))
                pages = int(candidates.page[-1]) + 1
                impressions += len(candidates.page)
                clicks += int(candidates.clicked.sum())
            pictures.link(directory / "images")
    return LogSummary(
        pages=pages,
        impressions=impressions,
        clicks=clicks,
        events=len(purchases.day),
        users=len(customer_ids),
        items=len(articles),
        counters={
            **{f"rows of {table.name}": table.rows for table in tables.values()},
            **counters,
            **builder.counters,
            "articles without a picture": items["image"].null_count,
            "pictures of articles that the catalogue lacks": len(pictures.paths)
            - pc.count_distinct(items["image"]).as_py(),
            "buyers that customers lacks": len(user_id) - pc.sum(pc.is_in(user_id, customers["customer_id"])).as_py(),
        },
    )
