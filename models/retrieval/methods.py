"""All recommenders, by the names that `--method` takes."""

import importlib

from beam_pipelines.format.errors import ConfigurationError, InputError
from models.retrieval.bm3 import Bm3
from models.retrieval.bpr import Bpr
from models.retrieval.dualgnn import DualGnn
from models.retrieval.lattice import Lattice
from models.retrieval.mgcn import Mgcn
from models.retrieval.mmgcn import Mmgcn
from models.retrieval.recommender import Recommender
from models.retrieval.slmrec import SlmRec

METHODS: dict[str, type[Recommender]] = {
    "bpr": Bpr,
    "mmgcn": Mmgcn,
    "dualgnn": DualGnn,
    "lattice": Lattice,
    "slmrec": SlmRec,
    "bm3": Bm3,
    "mgcn": Mgcn,
}


def find_method(name: str) -> type[Recommender]:
    """The recommender of a name.

    Args:
        name: one of `METHODS`, or `MODULE:CLASS` of a class that can be imported, derived from `Recommender`.

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
    if not (isinstance(found, type) and issubclass(found, Recommender)):
        raise InputError(f"`method`: {name} is no class derived from Recommender")
    return found
