"""The gate's decision among 1 to 100,000 cases, against loops over the cases and search libraries.

On one thread, about the features of prompts that are there already (an encoder's pass stands beside
it). Whole decisions, names included, up to 10,000 cases; the search by meaning alone against a
numpy loop over the cases, one of scikit-learn's one-class machines, FAISS's exact index and
hnswlib, which run in an environment of their own. At every prompt ours and FAISS must fire the very
cases that double precision fires; what hnswlib misses is counted. The loop of O3's released gate
(RoBERTa-large over 512 places for every case; random weights, which cost the same) is measured with
one to four cases on all threads, and extrapolated.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers, report
from benchmarks.gate import (
    KEY,
    customer,
    decision_times,
    fitted,
    made_up_gates,
    made_up_rows,
    named_prompts,
    unnamed_prompts,
)
from workers.base_models import ModelError, load_base_model
from workers.encoders import HOW_TO_INSTALL, sentence_encoder
from workers.gate import Gate, bank_of
from workers.gate_table import Prototypes, ramp
from workers.identifiers import Identifiers
from workers.summaries import bar

NAME = "search"
COUNTS = (1, 10, 100, 1000, 10_000, 100_000)
NAMED_UP_TO, LARGEST = 10_000, 10_000
UP_TO = {"flat": 100_000, "hnsw": 10_000, "numpy_loop": 10_000, "one_class": 1000}
EXACT = ("flat", "numpy_loop")
PROMPTS, PASSES = 60, 5
LATENCY_MS, LOOP, FLAT, EQUAL = 1.0, 50.0, 1.5, 1e-4
DETECTORS = 4
NOBODY = Identifiers(exact=(), written=(), near=(), words=(), others=(), sizes=())


def measure() -> report.Measured:
    """By number of cases: milliseconds of a decision, and the search against each peer."""
    encoder = sentence_encoder()
    if encoder is None:
        raise ModelError(f"The sentence encoder is not installed. Run: {HOW_TO_INSTALL}")
    people = [customer(index) for index in range(5)]
    base = load_base_model("demo")
    gates = [fitted(base, encoder, person) for person in people]
    draw = random.Random(17)  # noqa: S311
    named = [e.conversation for asked in named_prompts(people, draw).values() for e in asked]
    others = [text for texts in unnamed_prompts(people, draw).values() for text in texts]
    singles = [text for text in named if isinstance(text, str)]
    texts = draw.sample(singles, PROMPTS // 2) + draw.sample(others, PROMPTS // 2)
    started = time.perf_counter()
    features = torch.cat([encoder.encode([text]) for text in texts])
    figures: dict[str, Any] = {
        "prompts": len(texts),
        "encoder ms a prompt, not counted below": (time.perf_counter() - started) / PROMPTS * 1e3,
    }
    figures["O3's loop"] = o3_loop()
    torch.set_num_threads(1)
    everyone = [*gates, *made_up_gates(gates, features, NAMED_UP_TO - len(gates))]
    figures["whole decision, ms"] = {
        str(count): decision_times(everyone[:count], encoder, texts, count)
        for count in COUNTS
        if count <= NAMED_UP_TO
    }
    report.progress("whole decisions measured")
    figures |= searches(gates, features)
    return figures, bars(figures)


def bars(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    at = str(LARGEST)
    p99 = figures["whole decision, ms"][at]["p99"]
    found = [bar(f"p99 of a decision among {at} cases, ms", p99, LATENCY_MS, p99 < LATENCY_MS)]
    for name, limit in (("numpy_loop", LOOP), ("flat", 1 / FLAT)):
        if each := figures["search"].get(name, {}).get(at):
            faster = each["times faster"]
            found.append(bar(f"{name}, {at} cases: times faster", faster, limit, faster >= limit))
    return found


def o3_loop() -> dict[str, Any]:
    """Seconds a prompt of the released gate's loop, by number of detectors, and the straight line
    through them."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1,
    )  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    ids = torch.full((1, 512), 5)
    seconds = {}
    with torch.inference_mode():
        model(ids)
        for count in range(1, DETECTORS + 1):
            started = time.perf_counter()
            for _ in range(count):
                model(ids, output_hidden_states=True)
            seconds[str(count)] = time.perf_counter() - started
            report.progress(f"O3's loop, {count} detectors: {seconds[str(count)]:.1f} s")
    each = seconds[str(DETECTORS)] / DETECTORS
    extrapolated = {str(n): each * n for n in COUNTS if n > DETECTORS}
    return {"seconds": seconds, "seconds, extrapolated and not measured": extrapolated}


def searches(gates: Sequence[Gate], features: Tensor) -> dict[str, Any]:
    """{"search": by peer and number of cases; "could not run": by peer, why}."""
    found: dict[str, Any] = {"search": {name: {} for name in UP_TO}, "could not run": {}}
    plain = [replace(gate, identifiers=NOBODY) for gate in gates]
    rows = made_up_rows(gates, features, max(COUNTS) - len(plain))
    size = len(plain[0].rows)
    made = [
        replace(plain[i % len(plain)], rows=rows[i * size : (i + 1) * size])
        for i in range(max(COUNTS) - len(plain))
    ]
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            peers.started("peer_search.py", threads=1) as peer,
        ):
            for count in COUNTS:
                bank = bank_of([*plain, *made][:count], sentence_encoder(), KEY)
                assert bank.prototypes is not None
                files = written(bank.prototypes, Path(folder))
                expected = [fired(bank.prototypes, own) for own in features]
                for name in (name for name, most in UP_TO.items() if count <= most):
                    built = peer.ask(build=name, **files)["seconds"]
                    against = held(peer, name, bank.prototypes, features, expected)
                    found["search"][name][str(count)] = {**against, "seconds_to_build": built}
                    report.progress(f"{count} cases, {name}: {against['times faster']:.2f}")
    except peers.NotInstalled as error:
        found["could not run"] = dict.fromkeys(UP_TO, str(error))
    return found


def written(prototypes: Prototypes, folder: Path) -> dict[str, str]:
    """What a peer needs, as files."""
    found = {}
    for name, tensor in (
        ("rows", prototypes.rows), ("cases", prototypes.slots), ("low", prototypes.low),
    ):  # fmt: skip
        found[name] = str(folder / f"{name}.npy")
        np.save(found[name], tensor.numpy())
    return found


def fired(prototypes: Prototypes, feature: Tensor) -> dict[int, float]:
    """Each case's strength by every cosine in double precision, where above 0."""
    scores = (prototypes.rows.double() @ feature.double()).tolist()
    found: dict[int, float] = {}
    for case, score, low, high in zip(
        prototypes.slots.tolist(), scores, prototypes.low.tolist(), prototypes.high.tolist(),
        strict=True,
    ):  # fmt: skip
        if score > low:
            found[case] = max(ramp(score, low=low, high=high), found.get(case, 0.0))
    return found


def held(
    peer: peers.Peer,
    name: str,
    prototypes: Prototypes,
    features: Tensor,
    expected: Sequence[Mapping[int, float]],
) -> dict[str, Any]:
    """Seconds a prompt of both, in turn at each prompt, over a few passes; what fired is held
    against `expected`. AssertionError where it must be equal and is not."""
    ours, theirs, same, present, wanted = [], [], 0, 0, 0
    for turn in range(-1, PASSES):
        mine, other = [], []
        for own, truth in zip(features, expected, strict=True):
            given = own.tolist()
            if turn % 2:
                answer = peer.ask(ask=name, feature=given)
            started = time.perf_counter()
            strengths = prototypes.strengths(own[None])
            mine.append(time.perf_counter() - started)
            if not turn % 2:
                answer = peer.ask(ask=name, feature=given)
            other.append(answer["seconds"])
            assert strengths.keys() == truth.keys(), "ours fires other cases"
            assert all(abs(strengths[case] - truth[case]) < EQUAL for case in truth)
            if name in EXACT:
                assert set(answer["cases"]) == truth.keys(), f"{name} fires other cases"
                assert answer["complete"]
            if turn == 0:
                same += set(answer["cases"]) == truth.keys()
                present += len(truth.keys() & set(answer["cases"]))
                wanted += len(truth)
        if turn >= 0:
            ours.append(statistics.fmean(mine))
            theirs.append(statistics.fmean(other))
    recall = {} if name == "one_class" else {"recall": present / wanted if wanted else 1.0}
    return report.compared(ours, theirs, prompts_decided_alike=same, **recall)


if __name__ == "__main__":
    sys.exit(report.run(NAME, str(__doc__), measure, cannot_run=(ModelError,)))
