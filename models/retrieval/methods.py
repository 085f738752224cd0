"""All recommenders, by the names that `--method` takes."""

import importlib

from beam_pipelines.format.errors import ConfigurationError, InputError
from models.retrieval.bm3 import Bm3
from models.retrieval.bpr import Bpr
from models.retrieval.dualgnn import DualGnn
from models.retrieval.lattice import Lattice
from models.retrieval.mgcn import Mgcn
from models.retrieval.mmgcn import Mmgcn
from models.retrieval.retriever import Retriever
from models.retrieval.slmrec import SlmRec
from models.retrieval.two_tower.two_tower import TwoTower

METHODS: dict[str, type[Retriever]] = {
    "bpr": Bpr,
    "mmgcn": Mmgcn,
    "dualgnn": DualGnn,
    "lattice": Lattice,
    "slmrec": SlmRec,
    "bm3": Bm3,
    "mgcn": Mgcn,
    "two_tower": TwoTower,
}


def find_method(name: str) -> type[Retriever]:
    """The recommender of a name.

    Args:
        name: one of `METHODS`, or `MODULE:CLASS` of a class that can be imported, derived from `Recommender` or
            another `Retriever`.

    Raises:
        InputError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(f"`method` must be one of {', '.join(METHODS)}, or MODULE:CLASS. Received: {name}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"`method`: {name} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Retriever)):
        raise InputError(f"`method`: {name} is no class derived from Retriever")
    return found
