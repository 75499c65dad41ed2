"""JSON of any shape, for property tests of what reads it."""

from functools import partial
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]


def json_values(
    leaves: Strategy,
    keys: Strategy,
    *,
    longest: int | None = None,
    most_keys: int | None = None,
    max_leaves: int = 100,
) -> Strategy:
    """`leaves`, and lists of at most `longest` and objects of at most `most_keys` around them.

    What goes around them is a partial and no lambda: hypothesis reads a lambda's source from its
    file when a test begins, and where the file was edited since it was imported, it takes another
    line for the lambda and warns that it never recurses.
    """
    around = partial(_around, keys=keys, longest=longest, most_keys=most_keys)
    return st.recursive(leaves, around, max_leaves=max_leaves)


def _around(
    inner: Strategy, *, keys: Strategy, longest: int | None, most_keys: int | None
) -> Strategy:
    return st.lists(inner, max_size=longest) | st.dictionaries(keys, inner, max_size=most_keys)
