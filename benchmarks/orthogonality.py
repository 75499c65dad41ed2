"""What orthogonality costs as cases pile up: choosing A once, against few or a thousand earlier
adapters, beside one step of a soft penalty that loops over all of them (O3, arXiv 2407.10223) or
has them stacked (O-LoRA, arXiv 2310.14152). Ours pays once a case, the penalties at every step
(forward alone is timed; what is compared is `STEPS` steps, the least that a run takes).

Widths and layers are those of the demo model and of SmolLM2-135M's adapted layers, weights are made
up. Cases are placed one after the other by the product's own code; each has up to four neighbours.
Seconds are the least of a few interleaved rounds.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import report
from workers.adapters import OVERLAP, RANK, AdapterError, AdapterRef, free_rows
from workers.gate import PROTOTYPES, Gate
from workers.identifiers import identifier_digests
from workers.neighbourhoods import Earlier, Neighbourhood, Newcomer, neighbourhood
from workers.summaries import bar

NAME = "orthogonality"
# How many adapted modules read an input of which width.
SHAPES: Mapping[str, Mapping[int, int]] = {
    "demo": {192: 24, 512: 4},
    "smollm2-135m": {576: 60, 1536: 10},
}
COUNTS = (0, 1, 20, 100, 300, 1000)
NEIGHBOURS = 4
REPEATS = 3
FLAT, FASTER, STEPS = 1.5, 20.0, 40
KEY = b"a key for this benchmark alone!!"
FEATURES, QUESTIONS = 384, 96

Placed = list[dict[int, Tensor]]


def measure() -> report.Measured:
    """Seconds and overlaps by shape and by number of earlier cases."""
    figures: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []
    for shape, modules in SHAPES.items():
        found = placing(shape, modules)
        figures[shape] = found
        seconds = found["seconds_choosing_a"]
        flat = seconds["1000"] / max(seconds["100"], 1e-3)
        bars += [
            bar(f"{shape}: 1000 earlier cases cost that of 100", flat, FLAT, flat <= FLAT),
            bar(
                f"{shape}: largest overlap with a neighbour",
                found["largest_cosine_with_neighbours"],
                OVERLAP,
                found["largest_cosine_with_neighbours"] < OVERLAP,
            ),
        ]
        times = found["ours once against O3's loop in 40 steps, 1000 earlier"]["times faster"]
        bars.append(bar(f"{shape}: times faster than O3's loop", times, FASTER, times >= FASTER))
        placed, past = found["cases_placed"], min(modules) // RANK
        bars.append(bar(f"{shape}: cases placed", placed, past, placed > past))
    figures["gates"] = gates()
    return figures, bars


def placing(shape: str, modules: Mapping[int, int]) -> dict[str, Any]:
    """Place max(COUNTS) + 1 cases, and time the choice of A at each of COUNTS (one module of each
    width is placed and timed, and counts as often as the model has it)."""
    capacity = min(modules) // RANK
    draw = random.Random(1)  # noqa: S311
    placed: Placed = []
    edges: list[set[int]] = []
    largest = 0.0
    works: dict[str, Callable[[], object]] = {}
    for case in range(max(COUNTS) + 1):
        edges.append(set(draw.sample(range(case), min(case, draw.randrange(NEIGHBOURS + 1)))))
        near = around(edges[case], case, capacity, draw)
        apart = [int(ref.case_id) for ref in near.apart]
        choose = chooser(placed, apart, modules, seed=case)
        rows = choose(dict.fromkeys(modules, 1))
        if case in COUNTS:
            works[f"ours {case}"] = partial(choose, modules)
            works[f"soft {case}"] = partial(soft_loop, rows, placed[:case], modules)
            works[f"stack {case}"] = partial(stack, rows, stacked(placed, modules), modules)
            report.progress(f"{shape}: {case} earlier cases placed")
        placed.append({width: matrix.float() for width, matrix in rows.items()})
        for other in edges[case]:
            largest = max(largest, cosine(placed[case], placed[other]))
    works["full"] = partial(chooser(placed, list(range(capacity - 1)), modules, seed=1), modules)
    seconds = timed(works)
    return {
        "capacity": capacity,
        "cases_placed": len(placed),
        "largest_cosine_with_neighbours": largest,
        "seconds_choosing_a": {str(n): seconds[f"ours {n}"] for n in COUNTS},
        "seconds_choosing_a_in_a_full_neighbourhood": seconds["full"],
        "seconds_a_step_of_a_soft_penalty_over_all": {str(n): seconds[f"soft {n}"] for n in COUNTS},
        "seconds_a_step_of_a_stacked_penalty": {str(n): seconds[f"stack {n}"] for n in COUNTS},
        **against(seconds),
        "not_neighbours": not_neighbours(placed, edges, draw, min(modules)),
        "full_neighbourhood_is_refused": refused(placed, capacity, modules),
    }


def around(neighbours: set[int], case: int, capacity: int, draw: random.Random) -> Neighbourhood:
    others = [other for other in range(case) if other not in neighbours]
    draw.shuffle(others)  # nearness of those that never act together: any
    refs = [AdapterRef(str(n), f"{n:064x}", f"{n:064x}") for n in range(case)]
    return Neighbourhood(
        tuple(refs[n] for n in sorted(neighbours)), tuple(refs[n] for n in others), capacity
    )


def chooser(
    placed: Placed, apart: Sequence[int], modules: Mapping[int, int], *, seed: int
) -> Callable[[Mapping[int, int]], dict[int, Tensor]]:
    """What chooses the A of every module: by width, as often as there are modules of it."""

    def choose(times: Mapping[int, int]) -> dict[int, Tensor]:
        found = {}
        for width, count in times.items():
            for _ in range(count):
                earlier = [placed[n][width] for n in apart]
                found[width] = free_rows(earlier, rank=RANK, width=width, seed=seed)
        return found

    return choose


def soft_loop(rows: Mapping[int, Tensor], placed: Placed, modules: Mapping[int, int]) -> Tensor:
    """O3's penalty as published: a product for each module and earlier adapter (forward only)."""
    total = torch.zeros(())
    for width, count in modules.items():
        mine = rows[width].float()
        for _ in range(count):
            for earlier in placed:
                total = total + (earlier[width] @ mine.T).square().sum()
    return total


def stacked(placed: Placed, modules: Mapping[int, int]) -> dict[int, Tensor]:
    return {w: torch.cat([each[w] for each in placed] or [torch.zeros(0, w)]) for w in modules}


def stack(
    rows: Mapping[int, Tensor], earlier: Mapping[int, Tensor], modules: Mapping[int, int]
) -> Tensor:
    """O-LoRA's: one product a module with all earlier adapters in one matrix."""
    total = torch.zeros(())
    for width, count in modules.items():
        mine = rows[width].float()
        for _ in range(count):
            total = total + (earlier[width] @ mine.T).abs().sum()
    return total


def against(seconds: Mapping[str, float]) -> dict[str, Any]:
    """What a whole run pays, ours once and the penalties at each of `STEPS` steps."""
    found = {}
    for name, key in (("O3's loop", "soft"), ("O-LoRA's stack", "stack")):
        ours, theirs = seconds["ours 1000"], STEPS * seconds[f"{key} 1000"]
        faster = theirs / ours
        found[f"ours once against {name} in {STEPS} steps, 1000 earlier"] = {
            "ours_seconds": ours, "theirs_seconds": theirs, "times faster": faster,
            "range": [faster, faster],
        }  # fmt: skip
    return found


def cosine(mine: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> float:
    unit = torch.nn.functional.normalize
    return max(
        float((unit(mine[w].double()) @ unit(other[w].double()).T).abs().max()) for w in mine
    )


def not_neighbours(
    placed: Placed, edges: Sequence[set[int]], draw: random.Random, width: int
) -> dict[str, float]:
    """What two cases that are no neighbours share, which a prompt naming both would meet: the share
    of directions in common, tr(P_i P_j) / r; at random, and at best, it is r / width on average."""
    shares: list[float] = []
    while len(shares) < 2000:
        i, j = sorted(draw.sample(range(len(placed)), 2))
        if i not in edges[j]:
            product = placed[i][width].double() @ placed[j][width].double().T
            shares.append(float(product.square().sum()) / RANK)
    return {
        "pairs": len(shares),
        "mean_share": statistics.fmean(shares),
        "share_at_random": RANK / width,
        "exactly_orthogonal": statistics.fmean(share < 1e-9 for share in shares),
        "all_in_common": statistics.fmean(share > 0.99 for share in shares),
    }


def refused(placed: Placed, capacity: int, modules: Mapping[int, int]) -> bool:
    """Whether one case more than the capacity, all neighbours, ends in the error."""
    width = min(modules)
    rows: list[Tensor] = []
    try:
        for seed in range(capacity + 1):
            rows.append(free_rows(rows, rank=RANK, width=width, seed=seed))
    except AdapterError:
        return len(rows) == capacity
    return False


def gates() -> dict[str, float]:
    """Seconds of finding the neighbours among so many stored gates, already in memory."""
    torch.manual_seed(1)

    def made_up(number: int) -> Gate:
        rows = torch.nn.functional.normalize(torch.randn(PROTOTYPES, FEATURES), dim=1)
        digests = identifier_digests([f"Person {number:05d}"], KEY)
        return Gate(digests, "made up", rows, 0.8, 0.9, "")

    earlier = [
        Earlier(AdapterRef(str(n), f"{n:064x}", f"{n:064x}"), made_up(n))
        for n in range(max(COUNTS))
    ]
    member = Newcomer(made_up(99_999), ("who is it",), torch.randn(QUESTIONS, FEATURES))
    look = partial(neighbourhood, [member], key=KEY, capacity=72)
    return timed({str(count): partial(look, earlier[:count]) for count in COUNTS})


def timed(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The least seconds of each work over a few rounds of all of them."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(REPEATS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            spent[name].append(time.perf_counter() - start)
        report.progress(f"round {number + 1} of {REPEATS}")
    return {name: round(min(each), 6) for name, each in spent.items()}


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(AdapterError,)))
