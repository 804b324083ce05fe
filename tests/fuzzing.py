"""Files from elsewhere, made by chance; `PROMPTVISION_FUZZ=2000` tries that many of each kind."""

import json
import os
from datetime import timedelta

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from promptvision.data.card import Card
from promptvision.errors import InputError

MANY = int(os.environ.get("PROMPTVISION_FUZZ", "40"))
fuzzed = settings(
    max_examples=MANY,
    deadline=timedelta(seconds=10),
    derandomize="PROMPTVISION_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
WORDS = [
    "RUNS",
    "GRID",
    "SEEDS",
    "EVAL",
    "CONFIG",
    "PROTOCOL",
    "METHOD",
    "NAME",
    "OPTIONS",
    "DATASET",
    "SHOTS",
    "_BASE_",
]
WORDS += [
    "title",
    "reader",
    "names",
    "classes",
    "counts",
    "domains",
    "template",
    "folders",
    "coop_split",
    "train",
    "<<",
]
WORDS += ["position", "identity", "state", "vtab", "c.yaml", "OPTIM", "LR", "SEED", "CACHE_DIR", "download", "hub"]
words = st.sampled_from(WORDS) | st.text(max_size=8)
plain = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5), max_leaves=20
)
mappings = st.dictionaries(words, values, max_size=6)


def changed(inner, path, value):
    """A mapping or list with the value at some place in it replaced."""
    if not isinstance(inner, dict | list) or not inner or not path:
        return value
    keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    key, copy = keys[path[0] % len(keys)], inner.copy()
    copy[key] = changed(inner[key], path[1:], value)
    return copy


edits = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4)
cuts = st.none() | st.integers(0, 1 << 20)


def damaged(content, changes, length):
    """Some bytes set to others, and perhaps the end cut off."""
    found = bytearray(content)
    for place, value in changes:
        found[place % len(found)] = value
    return bytes(found[: length % len(found)] if length is not None else found)


def refused(path, read):
    """Return whether `read(path)` refuses the file, which it may do only with an InputError that names it."""
    try:
        read(path)
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error), error
        return True
    return False


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


CARD = Card("own", "t", "s", "l", "get it", "coop_split", "a {}.")


class NotNamed(Exception):
    """A dataset's error about images that are missing names the folder."""


def whole(read):
    def other(path):
        try:
            read(path)
        except InputError as error:
            if path.name not in str(error) and "dataset" in str(error):
                raise NotNamed from error
            raise

    return other


tensors = st.sampled_from([torch.zeros(2, 3), torch.zeros(()), torch.zeros(9), torch.zeros(2, 3, dtype=torch.int64)])
tensors |= st.just(torch.zeros(1).expand(1 << 40)) | st.just(torch.eye(3).to_sparse())
json_texts = st.binary(max_size=40) | values.map(json.dumps).map(str.encode)
json_texts |= st.sampled_from(
    [b"[" * 9000, b"1" + b"0" * 5000, b'"\xc3"', b'"\\ud800"', b'"\\u0000"', b"1e999", b"-Infinity"]
)
