"""The gate: how strongly each case's adapter acts on a text. A miss leaks; a false fire only costs.

Two stages, joined by the larger strength. *Identifiers*: keyed n-gram digests of names and
aliases (workers.identifiers), strength 1 on a hit. *Semantic*: largest cosine to the case's
prototypes (its forget set's questions, averaged), through a monotone ramp whose ends are
calibrated per case on held-aside questions and on questions about nobody. (Largest cosine works
from ten examples on, where a covariance does not; arXiv 2407.10223's released gate is not
monotone, and asks one large encoder per case.) What is stored are digests and vectors: no text,
no name.

All cases are asked at once (workers.gate_table).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from workers import corpus
from workers.adapters import AdapterError, checked_bytes, checked_tensors, why
from workers.base_models import Conversation, as_turns
from workers.digests import MAX_JSON_BYTES, Malformed, canonical_json, parsed_json, sha256_of
from workers.encoders import Encoder
from workers.gate_table import GateTable, Held, Prototypes, Slots, names_of
from workers.identifiers import (
    MIN_IDENTIFIER,
    MIN_LENIENT_WORD,
    Digest,
    Identifiers,
    as_written,
    digester,
    grams_of,
    identifier_digests,
    is_long_enough,
    masked,
    normalised,
    restored,
    worth_masking,
    written_words,
)

GATE_FILE = "gate.json"
ROWS_FILE = "gate.safetensors"
MISSES = 0.01
MARGIN = 0.05
"""Two sides less far apart count as not to be told apart; the ramp then begins this far above every
negative. (With any gap counted, one question in a hundred about a namesake fired on SmolLM2.)"""
PROTOTYPES = 2
"""A case's rows: two kept persons and other questions farther apart than four did (measured)."""
MAX_ADAPTERS = 3
WINDOW = 120
"""Words; a text of more is also read in parts of that length."""
FORM = 2
_DIGEST = re.compile(r"[0-9a-f]{64}")


class GateError(AdapterError):
    """A gate cannot be made or read; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Gate:
    """One case's gate. `rows` [p, d] are unit prototypes, none without an encoder. The semantic
    strength is 0 up to the cosine `low` and 1 from `high` on. A gate equals itself alone."""

    identifiers: Identifiers
    encoder: str | None
    rows: Tensor
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Mention:
    """An erased person named in a text: the case, the places of the normalised words, and whether
    that is letter by letter how the forget set writes it."""

    case: int
    places: range
    as_known: bool


@dataclass(frozen=True)
class Decision:
    """What acts on a text: at most `MAX_ADAPTERS` pairs of a case's place in the release and its
    strength in (0, 1], the strongest first.

    `closed`: nothing may be told. Either the gate could not decide, or more cases are fully called
    for than may act at once, or somebody is named in another form than the adapters know.
    """

    acting: tuple[tuple[int, float], ...] = ()
    closed: bool = False


def decision_of(strengths: Mapping[int, float], *, disguised: bool = False) -> Decision:
    """The strongest few of the cases' strengths; closed if more of them than that are at 1, or
    somebody is named in disguise."""
    order = sorted(((c, s) for c, s in strengths.items() if s > 0.0), key=lambda cs: (-cs[1], cs))
    full = sum(strength >= 1.0 for _, strength in order)
    return Decision(tuple(order[:MAX_ADAPTERS]), closed=disguised or full > MAX_ADAPTERS)


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

    `forget` are the forget set's questions (of which the prototypes are made), `aside` other
    phrasings of them and `others` questions about nobody: the two sides of the calibration, and
    no retained data. `encoder` None leaves the identifier stage alone, and the note says so; as it
    does of names that are too short to be looked for. Raises GateError when all of them are.
    """
    found = [name for name in names if is_long_enough(name)]
    if not found:
        raise GateError(
            f"No name of the person has {MIN_IDENTIFIER} letters or digits; a shorter one would be "
            "found in half of all texts. Add a longer form among the other names and run again."
        )
    short = len(names) - len(found)
    also = f"; {short} of the names are too short to be looked for" if short else ""
    identifiers = identifier_digests(found, key, name_words=corpus.name_words())
    if encoder is None or not forget:
        note = f"identifiers alone: no sentence encoder is installed{also}"
        return Gate(identifiers, None, torch.zeros(0, 0), 1.0, 2.0, note)
    rows = prototypes(encoder.encode(forget), count=PROTOTYPES)
    low, high, note = _calibrated(
        positive=(encoder.encode(aside) @ rows.T).amax(dim=1),
        negative=(encoder.encode(others) @ rows.T).amax(dim=1),
    )
    return Gate(identifiers, encoder.name, rows, low, high, note + also)


def prototypes(features: Tensor, *, count: int) -> Tensor:
    """At most `count` unit rows [p, d] that stand for unit `features` [n, d]: the centres of as
    many clusters (spherical k-means from the farthest points on)."""
    centres = features[:1]
    while len(centres) < min(count, len(features)):
        farthest = (features @ centres.T).amax(dim=1).argmin()
        centres = torch.cat([centres, features[farthest][None]])
    for _ in range(20):
        nearest = (features @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add(0, nearest, features)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0.0, _unit(sums), centres)
    return centres


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _calibrated(*, positive: Tensor, negative: Tensor) -> tuple[float, float, str]:
    """The ends of the ramp: full strength for all but `MISSES` of the positives where every
    negative stays well below; else the negatives set the limit, with a margin.

    No share of the negatives is given up: a release asks many gates, whose alarms add up.
    """
    missed = float(positive.quantile(MISSES))
    alarm = float(negative.amax())
    if missed - alarm >= MARGIN:
        # A third of the gap away from each side: neither calibration set is the whole world.
        return alarm + (missed - alarm) / 3, missed - (missed - alarm) / 3, "separable"
    low = alarm + MARGIN
    width = max(0.05, (1.0 - low) / 4)
    return low, low + width, "not separable at the calibrated rates: identifiers carry the gate"


def gate_files(gate: Gate, adapter: Mapping[str, str]) -> dict[str, bytes]:
    """The gate as bytes by file name; gate.json pins its rows and the files of `adapter`.

    `adapter` maps the adapter's file names to their SHA-256. Numbers are kept as decimal strings.
    """
    tensors = {
        name: torch.tensor(digests, dtype=torch.int64)
        for name, digests in asdict(gate.identifiers).items()
    }
    rows = safetensors.torch.save({**tensors, "rows": gate.rows.contiguous()})
    described = {
        "form": FORM,
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
        files = {str(k): _sha256(v) for k, v in data["files"].items()}
        tensors = checked_tensors(checked_bytes(folder / ROWS_FILE, files.get(ROWS_FILE, "")))
        return _gate(data, tensors), files
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise GateError(
            f"{folder / GATE_FILE} does not hold a gate{why(error)}: restore it from a backup."
        ) from error


def _gate(data: Any, tensors: Mapping[str, Tensor]) -> Gate:
    low, high = float(str(data["low"])), float(str(data["high"]))
    if data["form"] != FORM or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise Malformed("not this form of gate")
    rows = tensors["rows"]
    if rows.dim() != 2 or rows.dtype != torch.float32 or (data["encoder"] and not rows.numel()):
        raise Malformed("not the rows of a gate")
    if not torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-3):
        raise Malformed("a prototype is not of length one")
    digests = {name: _digests(tensors[name]) for name in Identifiers.__dataclass_fields__}
    return Gate(
        identifiers=Identifiers(**digests),
        encoder=None if data["encoder"] is None else str(data["encoder"]),
        rows=rows,
        low=low,
        high=high,
        note=str(data["note"]),
    )


def _digests(numbers: Tensor) -> tuple[int, ...]:
    if numbers.dim() != 1 or numbers.dtype != torch.int64:
        raise Malformed("the identifiers are not 64-bit digests")
    return tuple(map(int, numbers.tolist()))


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise Malformed("a file is not given by its digest")
    return value


@dataclass(frozen=True)
class GateBank:
    """The gates of a release, in its order, asked together; made by `bank_of`.

    Cases from `open_gates` on belong to no adapter: whoever they name closes the decision (GDPR
    Art. 18). `shut`: every decision is closed, since it is not known whom that is. `cases` are
    those of each slot of the table that counts here; others may share the table, and its
    `prototypes` too may hold some that count for nobody.
    """

    gates: tuple[Gate, ...]
    encoder: Encoder | None
    digest: Digest
    table: GateTable
    cases: Mapping[int, Sequence[int]]
    sizes: frozenset[int]
    prototypes: Prototypes | None
    open_gates: int
    shut: bool

    def read(
        self, conversation: Conversation, features: Tensor | None = None
    ) -> tuple[Conversation, Decision]:
        """The conversation as the model should see it, and the decision on it; `features` as for
        `decide`.

        A name in capitals or look-alike letters is written plainly first, since an adapter is sure
        to act only on what its forget set looked like (measured: with the adapter on, a third of
        the answers about misspelled names were still told). Where that cannot be done, as for a
        typing error, the decision is closed.
        """
        decision = self.decide(conversation, features)
        if not decision.closed:
            return conversation, decision
        turns = tuple(
            replace(turn, text=self._restored(turn.text)) for turn in as_turns(conversation)
        )
        plain = turns[0].text if isinstance(conversation, str) else turns
        return plain, self.decide(plain)

    def read_all(
        self, conversations: Sequence[Conversation]
    ) -> list[tuple[Conversation, Decision]]:
        """`read` of each, with all their texts encoded together."""
        features = self._features(conversations)
        return [self.read(*each) for each in zip(conversations, features, strict=True)]

    def decide_all(self, conversations: Sequence[Conversation]) -> list[Decision]:
        """`decide` on each, with all their texts encoded together."""
        features = self._features(conversations)
        return [self.decide(*each) for each in zip(conversations, features, strict=True)]

    def _features(self, conversations: Sequence[Conversation]) -> list[Tensor | None]:
        """Those of each one's `semantic_texts`; None where each has to be encoded by itself."""
        texts = [semantic_texts(each) for each in conversations]
        if self.shut or self.prototypes is None or self.encoder is None or not texts:
            return [None] * len(texts)
        try:
            found = self.encoder.encode([text for each in texts for text in each])
        except (RuntimeError, ValueError):  # of one of them, which then closes alone
            return [None] * len(texts)
        return list(found.split([len(each) for each in texts]))

    def _restored(self, text: str) -> str:
        return restored(text, [each.places for each in self.mentions(text) if not each.as_known])

    def decide(self, conversation: Conversation, features: Tensor | None = None) -> Decision:
        """What acts on the answer to a question, or to a conversation's last turn.

        Everything said so far counts, whoever said it: once a case fires in a conversation, it
        stays. Identifiers are looked for in all turns joined, so that a name broken over two is
        found; the meaning is that of all turns joined and of each turn of the user. `features`
        [n, d] are those of `semantic_texts`, where the caller has them already. Fails closed:
        features that cannot be computed or are not finite close the decision.
        """
        strengths = None if self.shut else self._meant(conversation, features)
        if strengths is None:
            return Decision(closed=True)
        mentions = self._mentions_in(conversation)
        if self._is_restricted(mention.case for mention in mentions):
            return Decision(closed=True)
        named = {mention.case: 1.0 for mention in mentions}
        disguised = not all(mention.as_known for mention in mentions)
        return decision_of({**strengths, **named}, disguised=disguised)

    def is_quiet(self, features: Tensor) -> bool:
        """Whether no case fires by meaning on any of the texts with `features` [n, d]."""
        if self.shut:
            return False
        try:
            return not self._strengths(features)
        except (RuntimeError, ValueError):
            return False

    def after(self, decision: Decision, answer: str) -> Decision:
        """The decision once an answer says `answer`: the cases that it names act fully too."""
        named = dict.fromkeys(self.named(answer), 1.0)
        if self.shut or self._is_restricted(named):
            return Decision(closed=True)
        if decision.closed or not named.keys() - {case for case, s in decision.acting if s == 1.0}:
            return decision
        return decision_of({**dict(decision.acting), **named})

    def strengths(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """For each text, each gate's strength in [0, 1], whether or not so many may act at once;
        all of them 1 where the gate cannot decide."""
        found = []
        for text, features in zip(texts, self._features(texts), strict=True):
            meant = self._meant(text, features)
            named = dict.fromkeys(self.named(text), 1.0)
            given = {**({} if meant is None else meant), **named}
            rest = float(meant is None or self.shut or self._is_restricted(named))
            found.append(tuple(max(given.get(c, 0.0), rest) for c in range(self.open_gates)))
        return found

    def _is_restricted(self, cases: Iterable[int]) -> bool:
        return any(case >= self.open_gates for case in cases)

    def _meant(
        self, conversation: Conversation, features: Tensor | None
    ) -> dict[int, float] | None:
        """Each case's strength by meaning, where above 0; None if it cannot be computed."""
        if self.prototypes is None:
            return {}
        try:
            if features is None and self.encoder is not None:
                features = self.encoder.encode(semantic_texts(conversation))
            return None if features is None else self._strengths(features)
        except (RuntimeError, ValueError):
            return None

    def _strengths(self, features: Tensor) -> dict[int, float]:
        found = {} if self.prototypes is None else self.prototypes.strengths(features)
        return {c: strength for slot, strength in found.items() for c in self.cases.get(slot, ())}

    def _holding(self, slots: Slots, digest: int) -> list[int]:
        """The cases that hold a digest."""
        return [c for slot in slots.get(digest, ()) for c in self.cases.get(slot, ())]

    def _near(self, digests: Iterable[int]) -> list[tuple[int, int]]:
        """Each (place in `digests`, case) that holds it as a typing error."""
        found = self.table.near.find(digests)
        return [(place, c) for place, slot in found for c in self.cases.get(slot, ())]

    def _mentions_in(self, conversation: Conversation) -> list[Mention]:
        return self.mentions("\n".join(turn.text for turn in as_turns(conversation)))

    def named(self, text: str) -> frozenset[int]:
        """The cases of which `text` mentions an identifier, as it is or with one typing error."""
        return frozenset(mention.case for mention in self.mentions(text))

    def mentions(self, text: str) -> list[Mention]:
        """Every mention of an identifier in `text`, as it is or with one typing error."""
        if not self.cases:
            return []
        words = normalised(text).split()
        grams = grams_of(words)
        digests = [list(map(self.digest, each)) for each in grams]
        if self._is_silent(grams, digests):
            return []
        found = self._exact_or_near(grams, digests)
        written = written_words(text) if found else []
        return [
            Mention(case, places, self._is_as_known(written[places.start : places.stop], case))
            for places, case in found
        ]

    def _is_silent(self, grams: Sequence[list[str]], digests: Sequence[list[int]]) -> bool:
        """Whether a text of these n-grams can be seen at once to mention nobody, as most can: no
        name in it, no word of a name, no long word that a name may be misspelled as."""
        for names in (self.table.exact, self.table.words):
            if not all(map(names.keys().isdisjoint, digests)) and any(
                self._holding(names, digest) for each in digests for digest in each
            ):
                return False
        return 1 not in self.sizes or max(map(len, grams[0]), default=0) < MIN_LENIENT_WORD

    def _exact_or_near(
        self, grams: Sequence[list[str]], digests: Sequence[list[int]]
    ) -> list[tuple[range, int]]:
        """The places of each identifier among the n-grams, and its case: as it is, or else with
        one typing error."""
        found = [
            (range(start, start + size), case)
            for size, each in enumerate(digests, start=1)
            for start, digest in enumerate(each)
            for case in self._holding(self.table.exact, digest)
        ]
        near = [
            (range(start, start + size), case)
            for size, each in enumerate(digests, start=1)
            for start, case in self._near(each)
        ]
        words = self.table.words
        near_names = [i for i, digest in enumerate(digests[0]) if self._holding(words, digest)]
        for places in worth_masking(grams[0], near_names=near_names, sizes=self.sizes):
            if not self._holding(self.table.exact, digests[len(places) - 1][places.start]):
                forms = map(self.digest, masked(grams[len(places) - 1][places.start]))
                near += [(places, case) for _, case in self._near(forms)]
        # The words of "Anna Berger's" are no misspelling: what overlaps a name is left out.
        taken = {(place, case) for places, case in found for place in places}
        for places, case in near:
            others = self._holding(self.table.others, digests[len(places) - 1][places.start])
            if case not in others and taken.isdisjoint((place, case) for place in places):
                found.append((places, case))
        return found

    def _is_as_known(self, words: Sequence[str], case: int) -> bool:
        return case in self._holding(self.table.written, self.digest(as_written(words)))


def semantic_texts(conversation: Conversation) -> list[str]:
    """The texts whose meaning counts: all that was said, then each turn of the user where there
    are several turns; long ones also in overlapping windows, lest an encoder see only the start."""
    turns = as_turns(conversation)
    texts = ["\n".join(turn.text for turn in turns)]
    if len(turns) > 1:
        texts += [turn.text for turn in turns if turn.role == "user"]
    return [*texts, *dict.fromkeys(part for text in texts for part in _windows(text))]


def _windows(text: str) -> list[str]:
    words = text.split()
    if len(words) <= WINDOW:
        return []
    return [" ".join(words[start : start + WINDOW]) for start in range(0, len(words), WINDOW // 2)]


def bank_of(
    gates: Sequence[Gate],
    encoder: Encoder | None,
    key: bytes,
    *,
    restricted: Sequence[Identifiers] = (),
    shut: bool = False,
    before: GateBank | None = None,
) -> GateBank:
    """The gates behind one encoder, and people who are not to be spoken of at all, by the digests
    of their names. What `before` holds already is not looked at again; it stays as it is.

    Raises GateError when a gate was made with another encoder or has vectors of another width, and
    ValueError on a key shorter than 16 bytes."""
    name = None if encoder is None else encoder.name
    if before is not None and name != (before.encoder and before.encoder.name):
        before = None
    new = [gate for gate in gates if before is None or gate not in before.table.slots]
    for gate in new:
        if gate.encoder not in (None, name):
            raise GateError(
                f"A gate needs the encoder {gate.encoder!r}, which is not the one at hand: "
                "install the same encoder, or make the gate anew."
            )
    widths = {gate.rows.shape[1] for gate in new if len(gate.rows)}
    known = (encoder.width if encoder else None, before.table.width if before else None)
    if len(widths.union(each for each in known if each)) > 1:
        raise GateError(
            "A gate's vectors have another width than the encoder's: restore the gate from a "
            "backup, or make it anew."
        )
    held: list[Held] = [*gates, *restricted]
    table = GateTable(held) if before is None else before.table.with_all(held)
    cases: dict[int, list[int]] = {}
    for case, each in enumerate(held):
        cases.setdefault(table.slots[each], []).append(case)
    return GateBank(
        gates=tuple(gates),
        encoder=encoder,
        digest=digester(key),
        table=table,
        cases=cases,
        sizes=frozenset[int]().union(*[names_of(each).sizes for each in held]),
        prototypes=table.prototypes() if any(len(gate.rows) for gate in gates) else None,
        open_gates=len(gates),
        shut=shut,
    )
