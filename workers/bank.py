"""All adapters of a release side by side, each row of a batch with strengths of its own.

PEFT keeps one scaling an adapter for all rows. Here every adapted linear layer computes, for the
row b of a batch, W x_b + sum_i s_bi (alpha / r) B_i A_i x_b: the A of the adapters that act in the
batch are one matrix, their B another, and between the two each row is multiplied by its strengths.
That is PEFT's exact concatenation ("cat"), with as many products as for one adapter. The layers are
shells around the base's own weights; the base stays as it is.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from workers.adapters import AdapterError, AdapterFiles, StoredAdapter, check_fits
from workers.base_models import BaseModel
from workers.experts import named_in
from workers.guarded import same_weights

Strengths = Mapping[str, float]
"""Of a row: adapters by name, each above 0."""
MOST_BYTES = 512 * 2**20
"""Weights of adapters kept in memory, where nobody says how many."""


@dataclass(frozen=True)
class _Adapter:
    """An adapter in memory, by the paths of its layers: A [r, in] and (alpha / r) B^T [r, out]."""

    rank: int
    down: dict[str, Tensor]
    up: dict[str, Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(each.nbytes for each in (*self.down.values(), *self.up.values()))


class Resident:
    """The adapters around one base that are in memory: read, and checked against their digests,
    when they are first needed, and let go of when `most_bytes` are exceeded, those first that were
    not needed for longest. The banks of releases that follow one another share it.

    Whoever got an adapter keeps it, so beyond `most_bytes` there is only what acts in a batch.
    """

    def __init__(self, base: BaseModel, most_bytes: int) -> None:
        self.base, self.most_bytes, self.bytes = base, most_bytes, 0
        self._held: OrderedDict[str, _Adapter] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, files: AdapterFiles) -> _Adapter:
        """Raises AdapterError as `AdapterFiles.read`, for an adapter that does not fit the base, or
        sits on one expert of a mixture: there a layer does not see whole rows."""
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name]
        found = _in_memory(self.base, files.read())
        with self._lock:
            if name not in self._held:  # else another thread read it meanwhile
                self._held[name] = found
                self.bytes += found.size
            while self.bytes > self.most_bytes:
                self.bytes -= self._held.popitem(last=False)[1].size
        return found


def _in_memory(base: BaseModel, stored: StoredAdapter) -> _Adapter:
    if named_in(stored.weights):
        raise AdapterError(
            "an adapter on a single expert cannot be served in a batch: "
            "train the case's adapter on the layers that all rows pass."
        )
    check_fits(base, stored)
    scaling = stored.config.lora_alpha / stored.config.r
    found = _Adapter(stored.config.r, {}, {})
    for key, tensor in stored.weights.items():
        path, half = key.removeprefix("base_model.model.").rsplit(".lora_", 1)
        weight = tensor.to(base.model.get_submodule(path).weight.device)
        if half.startswith("A"):
            found.down[path] = weight
        else:
            found.up[path] = (weight.T * scaling).contiguous()
    return found


@dataclass
class Acting:
    """What the layers read: for the rows of the batch in work, the columns [R, rows' adapters] by
    `scales` [n, R], of the adapters `names`. None: the plain weights."""

    names: tuple[str, ...] = ()
    adapters: tuple[_Adapter, ...] = ()
    scales: Tensor | None = None


class BankedLinear(torch.nn.Module):
    """A linear layer with the adapters of all cases beside it; x is [n, t, in]."""

    def __init__(self, plain: torch.nn.Linear, path: str, acting: Acting) -> None:
        super().__init__()
        self.plain, self.path, self.acting = plain, path, acting
        self._joined: tuple[tuple[str, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.plain(x)
        scales = self.acting.scales
        if scales is None:
            return out
        down, up = self._of_those_acting()
        inner = linear(x.to(down.dtype), down).mul_(scales[:, None])
        if out.dtype != up.dtype:
            return out + (inner @ up).to(out.dtype)
        return out.view(-1, out.shape[-1]).addmm_(inner.view(-1, len(up)), up).view(out.shape)

    def _of_those_acting(self) -> tuple[Tensor, Tensor]:
        """A [R, in] and B^T [R, out] of the adapters in work, joined; kept until others act.
        Adapters that do not reach this layer, as others do, are zero here."""
        names, weight = self.acting.names, self.plain.weight
        if self._joined is None or self._joined[0] != names:
            halves = []
            for half, width in (("down", weight.shape[1]), ("up", weight.shape[0])):
                parts = []
                for each in self.acting.adapters:
                    own: Tensor | None = getattr(each, half).get(self.path)
                    parts.append(torch.zeros(each.rank, width) if own is None else own)
                halves.append(torch.cat([part.to(weight.device) for part in parts]))
            self._joined = names, halves[0], halves[1]
        return self._joined[1:]


class AdapterBank:
    """A second set of layers around the base's weights, with adapters by name on them."""

    def __init__(
        self,
        base: BaseModel,
        adapters: Mapping[str, AdapterFiles],
        *,
        most_bytes: int = MOST_BYTES,
        before: "AdapterBank | None" = None,
    ) -> None:
        """One adapter of each config is read at once, which tells what all of that config are like;
        the others when they act first. `before` is a bank around the same base: what it has in
        memory stays there. Raises AdapterError as `Resident.get`. `lowest` is the lowest adapted
        layer, or one above all."""
        self.files, self.acting = adapters, Acting()
        self.resident: Resident = (
            before.resident if before is not None else Resident(base, most_bytes)
        )
        self._like: dict[str, _Like] = {} if before is None else {**before._like}
        for name, files in adapters.items():
            if files.config_sha256 not in self._like:
                self._like[files.config_sha256] = _Like.of(self.resident.get(name, files))
        configs = {files.config_sha256 for files in adapters.values()}
        self.ranks = {
            name: self._like[files.config_sha256].rank for name, files in adapters.items()
        }
        number = int(base.model.config.num_hidden_layers)
        self.lowest = min((self._like[each].lowest for each in configs), default=number)
        self.model: Any = same_weights(base.model) if adapters else base.model
        for path in sorted({path for each in configs for path in self._like[each].paths}):
            parent, _, last = path.rpartition(".")
            shell = BankedLinear(self.model.get_submodule(path), path, self.acting)
            setattr(self.model.get_submodule(parent), last, shell)

    def read_ahead(self) -> None:
        """Read what nobody has needed yet, while there is room: then a damaged file is known before
        somebody asks, and no caller can find out by time whom another one asked about. Raises
        AdapterError as `Resident.get`."""
        for name, files in self.files.items():
            size = self._like[files.config_sha256].size
            if self.resident.bytes + size > self.resident.most_bytes:
                return
            self.resident.get(name, files)

    def act(self, rows: Sequence[Strengths]) -> bool:
        """From now on the model acts on a batch with these strengths, row by row. False if no
        adapter acts on any row: then the plain model serves them. Raises AdapterError as
        `Resident.get`."""
        names = tuple(sorted({name for row in rows for name in row}))
        self.acting.scales = None
        if names != self.acting.names:
            held = [self.resident.get(name, self.files[name]) for name in names]
            self.acting.names, self.acting.adapters = names, tuple(held)
        if not names:
            return False
        columns = [[row.get(name, 0.0)] * self.ranks[name] for row in rows for name in names]
        flat = [value for column in columns for value in column]
        device = next(self.model.parameters()).device
        self.acting.scales = torch.tensor(flat, device=device).view(len(rows), -1)
        return True


@dataclass(frozen=True)
class _Like:
    """What adapters of one config have in common, since each fits the same base."""

    rank: int
    size: int
    lowest: int
    paths: frozenset[str]

    @staticmethod
    def of(adapter: _Adapter) -> "_Like":
        paths = frozenset(adapter.down)
        return _Like(adapter.rank, adapter.size, min(map(_layer_of, paths)), paths)


def _layer_of(path: str) -> int:
    """The decoder layer that a module sits in, counted from 0."""
    numbers = (part for part in path.split(".") if part.isdigit())
    return int(next(numbers, 0))
