"""The gate: how strongly each case's adapter acts on a text. A miss leaks; a false fire only costs.

Two stages, joined by the larger strength. *Identifiers*: keyed n-gram digests of names and
aliases (workers.identifiers), strength 1 on a hit. *Semantic*: largest cosine to the forget set's
questions after subtracting a background mean, through a monotone ramp whose ends are calibrated
per case on held-aside questions and on questions about nobody. (Largest cosine works from ten
examples on, where a covariance does not; arXiv 2407.10223's released gate is not monotone.)
What is stored are digests and vectors: no text, no name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from workers.adapters import AdapterError, checked_bytes, checked_tensors, why
from workers.digests import MAX_JSON_BYTES, canonical_json, parsed_json, sha256_of
from workers.encoders import Encoder
from workers.identifiers import identifier_digests, mentioned

GATE_FILE = "gate.json"
ROWS_FILE = "gate.safetensors"
FALSE_FIRES = 0.005
MISSES = 0.01
FORM = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")


class GateError(AdapterError):
    """A gate cannot be made or read; the message says what to do."""


@dataclass(frozen=True)
class Gate:
    """One case's gate. `rows` [p, d] unit prototypes, `background` [d]; both empty without an
    encoder. The semantic strength is 0 up to the cosine `low` and 1 from `high` on."""

    identifiers: tuple[str, ...]
    encoder: str | None
    rows: Tensor
    background: Tensor
    low: float
    high: float
    note: str

    def semantic(self, features: Tensor) -> Tensor:
        """Strengths [n] of features [n, d]: a smooth step, never falling as the cosine grows."""
        return ramp(cosines(features, self.rows, self.background), low=self.low, high=self.high)

    def names(self, digests: frozenset[str]) -> bool:
        """Whether one of the case's identifiers is among the keyed digests of a text."""
        return not digests.isdisjoint(self.identifiers)


def cosines(features: Tensor, rows: Tensor, background: Tensor) -> Tensor:
    """Largest cosine [n] of centred features [n, d] to the prototypes [p, d]."""
    unit = torch.nn.functional.normalize(features - background, dim=1)
    return (unit @ rows.T).max(dim=1).values


def ramp(scores: Tensor, *, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high`, a smooth step between; monotone, and in [0, 1]."""
    x = ((scores - low) / (high - low)).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def fit_gate(
    *,
    names: Sequence[str],
    key: bytes,
    encoder: Encoder | None,
    forget: Sequence[str],
    aside: Sequence[str],
    others: Sequence[str],
) -> Gate:
    """A gate for one case.

    `forget` are the forget set's questions (prototypes), `aside` other phrasings of them and
    `others` questions about nobody: the two sides of the calibration. `encoder` None leaves the
    identifier stage alone, and the gate's note says so.
    """
    digests = identifier_digests(names, key)
    if encoder is None or not forget:
        nothing = torch.zeros(0)
        note = "identifiers alone: no sentence encoder is installed"
        return Gate(digests, None, nothing[None, :0], nothing, 1.0, 2.0, note)
    negatives = encoder.encode(others)
    background = negatives.mean(dim=0)
    rows = torch.nn.functional.normalize(encoder.encode(forget) - background, dim=1)
    low, high, note = _calibrated(
        positive=cosines(encoder.encode(aside), rows, background),
        negative=cosines(negatives, rows, background),
    )
    return Gate(digests, encoder.name, rows, background, low, high, note)


def _calibrated(*, positive: Tensor, negative: Tensor) -> tuple[float, float, str]:
    """The ends of the ramp: full strength for all but `MISSES` of the positives where that leaves
    no more than `FALSE_FIRES` of the negatives any strength; else the negatives set the limit."""
    missed = float(positive.quantile(MISSES))
    alarm = float(negative.quantile(1 - FALSE_FIRES))
    if missed > alarm:
        # A third of the gap away from each side: neither calibration set is the whole world.
        return alarm + (missed - alarm) / 3, missed - (missed - alarm) / 3, "separable"
    width = max(0.05, (1.0 - alarm) / 4)
    return alarm, alarm + width, "not separable at the calibrated rates: identifiers carry the gate"


def gate_files(gate: Gate, adapter: Mapping[str, str]) -> dict[str, bytes]:
    """The gate as bytes by file name; gate.json pins its rows and the files of `adapter`.

    `adapter` maps the adapter's file names to their SHA-256. Numbers are kept as decimal strings.
    """
    tensors = {"rows": gate.rows.contiguous(), "background": gate.background.contiguous()}
    rows = safetensors.torch.save(tensors)
    described = {
        "form": FORM,
        "identifiers": list(gate.identifiers),
        "encoder": gate.encoder,
        "low": repr(gate.low),
        "high": repr(gate.high),
        "note": gate.note,
        "files": {**adapter, ROWS_FILE: sha256_of(rows)},
    }
    return {GATE_FILE: canonical_json(described), ROWS_FILE: rows}


def read_gate(folder: Path, sha256: str) -> tuple[Gate, dict[str, str]]:
    """The gate in `folder` and the digests that it pins, if gate.json has this SHA-256.

    Raises GateError or AdapterError naming the file that is missing, differs or cannot be read.
    """
    described = checked_bytes(folder / GATE_FILE, sha256, at_most=MAX_JSON_BYTES)
    try:
        data = parsed_json(described)
        files = {str(k): _digest(v) for k, v in data["files"].items()}
        tensors = checked_tensors(checked_bytes(folder / ROWS_FILE, files.get(ROWS_FILE, "")))
        return _gate(data, tensors), files
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise GateError(
            f"{folder / GATE_FILE} does not hold a gate{why(error)}: restore it from a backup."
        ) from error


def _gate(data: Any, tensors: Mapping[str, Tensor]) -> Gate:
    low, high = float(str(data["low"])), float(str(data["high"]))
    if data["form"] != FORM or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError("not this form of gate")
    rows, background = tensors["rows"], tensors["background"]
    if (
        rows.dim() != 2
        or background.shape != rows.shape[1:]
        or (data["encoder"] and not rows.numel())
    ):
        raise ValueError("the prototypes and their background do not go together")
    if rows.numel() and not torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-3):
        raise ValueError("a prototype is not of length one")
    return Gate(
        identifiers=tuple(_digest(each) for each in data["identifiers"]),
        encoder=None if data["encoder"] is None else str(data["encoder"]),
        rows=rows,
        background=background,
        low=low,
        high=high,
        note=str(data["note"]),
    )


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("an identifier or a file is not given by its digest")
    return value


@dataclass(frozen=True)
class GateBank:
    """The gates of a release, in its order, asked together."""

    gates: tuple[Gate, ...]
    encoder: Encoder | None
    key: bytes

    def strengths(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """For each text, each gate's strength in [0, 1].

        Fails closed: where the features cannot be computed or are not finite, every adapter acts
        at full strength, since a miss would leak.
        """
        if not self.gates or not texts:
            return [() for _ in texts]
        semantic = self._semantic(texts)
        named = [self.named(text) for text in texts]
        return [
            tuple(1.0 if hit else float(s) for hit, s in zip(hits, row, strict=True))
            for hits, row in zip(named, semantic.tolist(), strict=True)
        ]

    def named(self, text: str) -> tuple[bool, ...]:
        """For each gate, whether `text` mentions one of its identifiers."""
        digests = mentioned(text, self.key)
        return tuple(gate.names(digests) for gate in self.gates)

    def _semantic(self, texts: Sequence[str]) -> Tensor:
        strengths = torch.zeros(len(texts), len(self.gates))
        if self.encoder is None:
            return strengths
        try:
            features = self.encoder.encode(texts)
        except (RuntimeError, ValueError):
            return torch.ones_like(strengths)
        for i, gate in enumerate(self.gates):
            if gate.encoder is not None:
                strengths[:, i] = gate.semantic(features)
        return strengths.nan_to_num(nan=1.0)


def bank_of(gates: Sequence[Gate], encoder: Encoder | None, key: bytes) -> GateBank:
    """The gates behind one encoder. Raises GateError when a gate was made with another one."""
    for gate in gates:
        if gate.encoder is not None and (encoder is None or encoder.name != gate.encoder):
            raise GateError(
                f"A gate needs the encoder {gate.encoder!r}, which is not the one at hand: "
                "install the same encoder, or make the gate anew."
            )
    return GateBank(tuple(gates), encoder, key)
