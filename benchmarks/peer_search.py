"""Search libraries, in the peers' own interpreter (benchmarks.peers): a JSON line in, one out.

{"build": name, "rows": file, "cases": file, "low": file} makes an index and answers the seconds
that took; {"ask": name, "feature": [...]} answers the seconds of one search, decision included
(which cases have a row above its threshold), and those cases. `k` rows are looked at by those that
return the nearest; "complete" says whether all above were among them.
"""

import json
import sys
import time
from collections.abc import Callable

import faiss
import hnswlib
import numpy as np
from sklearn.svm import OneClassSVM

NEAREST = 64
Asked = Callable[[np.ndarray], tuple[set[int], bool]]


def flat(rows: np.ndarray, cases: np.ndarray, low: np.ndarray) -> Asked:
    """FAISS's exact search by inner product."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return nearest(lambda q, k: index.search(q, k), cases, low)


def hnsw(rows: np.ndarray, cases: np.ndarray, low: np.ndarray) -> Asked:
    """hnswlib's approximate search, with its usual sizes and a generous search."""
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), ef_construction=200, M=16)
    index.add_items(rows)
    index.set_ef(2 * NEAREST)
    index.set_num_threads(1)

    def search(q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, apart = index.knn_query(q, k=k)
        return 1.0 - apart, ids.astype(np.int64)

    return nearest(search, cases, low)


def nearest(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    cases: np.ndarray,
    low: np.ndarray,
) -> Asked:
    k = min(NEAREST, len(cases))

    def ask(q: np.ndarray) -> tuple[set[int], bool]:
        scores, ids = search(q[None], k)
        fired = scores[0] > low[ids[0]]
        return set(cases[ids[0][fired]].tolist()), k == len(cases) or not bool(fired[-1])

    return ask


def numpy_loop(rows: np.ndarray, cases: np.ndarray, low: np.ndarray) -> Asked:
    """One small product for each case, as a detector a person would be asked."""
    own = [(case, rows[cases == case], float(low[cases == case][0])) for case in np.unique(cases)]

    def ask(q: np.ndarray) -> tuple[set[int], bool]:
        return {int(case) for case, each, least in own if float((each @ q).max()) > least}, True

    return ask


def one_class(rows: np.ndarray, cases: np.ndarray, low: np.ndarray) -> Asked:
    """scikit-learn's one-class machine for each case, as O3 has one (on these rows: its answers
    are others than ours, only its time is looked at)."""
    own = [(case, OneClassSVM(gamma="scale").fit(rows[cases == case])) for case in np.unique(cases)]

    def ask(q: np.ndarray) -> tuple[set[int], bool]:
        return {int(c) for c, each in own if float(each.decision_function(q[None])[0]) > 0}, True

    return ask


WAYS = {"flat": flat, "hnsw": hnsw, "numpy_loop": numpy_loop, "one_class": one_class}


def main() -> None:
    built: dict[str, Asked] = {}
    for line in sys.stdin:
        given = json.loads(line)
        started = time.perf_counter()
        if name := given.get("build"):
            files = (np.load(given[each], allow_pickle=False) for each in ("rows", "cases", "low"))
            built[name] = WAYS[name](*files)
            found: dict[str, object] = {"seconds": time.perf_counter() - started}
        else:
            q = np.array(given["feature"], dtype=np.float32)
            started = time.perf_counter()
            fired, complete = built[given["ask"]](q)
            seconds = time.perf_counter() - started
            found = {"seconds": seconds, "cases": sorted(fired), "complete": complete}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
