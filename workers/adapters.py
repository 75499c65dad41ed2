"""One LoRA adapter per case: orthogonal to earlier ones by construction, stored by digest.

After InfLoRA (arXiv 2404.00228): the rows of every A matrix are drawn in the null space of the
A of the earlier adapters that it is given (workers.neighbourhoods chooses them) and stay frozen;
only B is trained. A_i A_j^T = 0 therefore holds exactly (to rounding), needs no penalty, and
earlier adapters are never touched. A soft penalty with a trained A is an option. PEFT is used as
it is.

Files are read as if somebody had made them up: bounded, checked against their digest, one reading
only, and of the very form that is written here, since PEFT's other settings can rewrite the base
model's weights or name a Python module to import.
"""

import errno
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from workers.base_models import BaseModel
from workers.digests import MAX_JSON_BYTES, Malformed, bounded_bytes, parsed_json, sha256_of

RANK = 8
ALPHA = 16
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
IN_TRAINING = "case"  # a name that no torch module has as an attribute
OVERLAP = 1e-6  # what rounding to float32 leaves stays below this
MAX_BYTES = 2 * 2**30
LARGEST = 1e6
Form = tuple[int, frozenset[str], frozenset[int], frozenset[tuple[str, tuple[int, ...]]]]
"""An adapter's rank, modules and layers, and the names and shapes of its weights."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LAYER = re.compile(r".*\.[^.]*\.(\d+)\.")  # where PEFT finds a layer's number in a module's path
_KEY = re.compile(r"base_model\.model\.((?:\w+\.)+\w+)\.lora_([AB])\.weight")


class AdapterError(RuntimeError):
    """An adapter cannot be made, stored or read; the message says what to do."""


@dataclass(frozen=True)
class AdapterRef:
    """Where a case's adapter and gate lie under an adapters root: by their digests alone."""

    case_id: str
    adapter_sha256: str
    gate_sha256: str

    def folder(self, root: Path) -> Path:
        """The folder of this adapter under `root`."""
        for digest in (self.adapter_sha256, self.gate_sha256):
            if not _DIGEST.fullmatch(digest):
                raise AdapterError("An adapter's digests must be 64 hexadecimal digits each.")
        return root / f"{self.adapter_sha256[:32]}-{self.gate_sha256[:32]}"


def free_rows(earlier: Sequence[Tensor], *, rank: int, width: int, seed: int) -> Tensor:
    """`rank` orthonormal rows [rank, width], float64, orthogonal to every row of `earlier`.

    `earlier` holds A matrices [r_i, width]. Raises AdapterError when fewer than `rank` directions
    are free, that is after about width / rank adapters (more where earlier ones share directions).
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    taken = torch.cat([drawn[:0], *(matrix.to(torch.float64) for matrix in earlier)])
    if len(taken) + rank > width:  # there is room only if the earlier rows depend on one another
        _, values, rows = torch.linalg.svd(taken, full_matrices=False)
        taken = rows[values > values[0] * 1e-9]
        if len(taken) + rank > width:
            raise AdapterError(
                f"No free directions are left: {len(taken)} of {width} are taken by adapters that "
                "can act on the same prompts. Let earlier cases of this neighbourhood share one "
                "cluster adapter (manage.py consolidate_release --cluster), or consolidate them "
                "into new weights, or use a lower rank; then run again."
            )
    return torch.linalg.qr(torch.cat([taken, drawn]).T).Q.T[len(taken) :].contiguous()


def adapted_linears(
    model: torch.nn.Module, *, modules: Collection[str], layers: Collection[int]
) -> dict[str, torch.nn.Linear]:
    """The linear layers of a bare model that an adapter goes on, by path."""
    found = {}
    for name, module in model.named_modules():
        path = name.removesuffix(".base_layer")  # where PEFT keeps it while an adapter is on
        layer = _LAYER.match(path)
        adapted = layer and int(layer.group(1)) in layers and path.rsplit(".", 1)[-1] in modules
        if adapted and isinstance(module, torch.nn.Linear):
            found[path] = module
    return found


def adapted_from(base: BaseModel, lowest_layer: int) -> BaseModel:
    """The same model with adapters from decoder layer `lowest_layer` (counted from 0) upwards.

    Fewer layers train faster and leave more of the model as it was; more reach what is stored
    further down. Raises AdapterError when there is no such layer.
    """
    layers = int(base.model.config.num_hidden_layers)
    if not 0 <= lowest_layer < layers:
        raise AdapterError(
            f"{base.name!r} has the layers 0 to {layers - 1}: give a lowest layer among them."
        )
    return replace(base, lowest_layer=lowest_layer)


def layers_of(base: BaseModel) -> range:
    """The decoder layers that adapters go on: from the base model's lowest one upwards."""
    return range(base.lowest_layer, int(base.model.config.num_hidden_layers))


def capacity(base: BaseModel, *, rank: int = RANK) -> int:
    """How many adapters of `rank` can be orthogonal to one another: the narrowest adapted input
    divided by the rank. Raises AdapterError when there is nothing to adapt."""
    linears = adapted_linears(base.model, modules=base.target_modules, layers=layers_of(base))
    if not linears:
        raise AdapterError(
            f"{base.name!r} has no linear layers from layer {base.lowest_layer} upwards that an "
            "adapter could go on: give a lower lowest layer."
        )
    return min(linear.in_features for linear in linears.values()) // rank


def attach_adapter(
    base: BaseModel,
    *,
    earlier: Sequence[Mapping[str, Tensor]],
    seed: int,
    rank: int = RANK,
    alpha: int = ALPHA,
) -> PeftModel:
    """The base model with one fresh adapter: A in the free directions and frozen, B zero.

    `earlier` are the weights of the adapters that it is to be orthogonal to. Undo with
    `detach_adapter`. Raises AdapterError when no free directions are left.
    """
    config = _config(
        rank=rank, alpha=alpha, modules=list(base.target_modules), layers=list(layers_of(base))
    )
    model = wrap(base, config, IN_TRAINING)
    try:
        _place_in_free_directions(model, earlier, seed=seed, rank=rank)
    except BaseException:  # whatever it was: the base model must not stay wrapped
        model.unload()
        raise
    return model


def _config(*, rank: int, alpha: int, modules: list[str], layers: list[int]) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=modules,
        layers_to_transform=layers,
        task_type="CAUSAL_LM",
    )


def wrap(base: BaseModel, config: LoraConfig, name: str) -> PeftModel:
    """The base model with a new adapter called `name`, in eval mode."""
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers for this under its old name; nothing here depends on it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return get_peft_model(base.model, config, adapter_name=name).eval()


def _place_in_free_directions(
    model: PeftModel, earlier: Sequence[Mapping[str, Tensor]], *, seed: int, rank: int
) -> None:
    taken = [_a_matrices(weights) for weights in earlier]
    for index, (name, parameter) in enumerate(
        (n, p) for n, p in model.named_parameters() if ".lora_A." in n
    ):
        path = _module_path(name)
        rows = free_rows(
            [matrices[path] for matrices in taken if path in matrices],
            rank=rank,
            width=parameter.shape[1],
            seed=seed * 100_003 + index,
        )
        with torch.no_grad():
            parameter.copy_(rows)
        parameter.requires_grad_(False)


def detach_adapter(model: PeftModel) -> None:
    """Take every adapter off again; the base model is as it was before."""
    model.unload()


def adapter_weights(model: PeftModel, name: str = IN_TRAINING) -> dict[str, Tensor]:
    """A copy of an adapter's weights under PEFT's own keys."""
    state = get_peft_model_state_dict(model, adapter_name=name)
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


def overlap(weights: Mapping[str, Tensor], earlier: Sequence[Mapping[str, Tensor]]) -> float:
    """max |cosine| between a row of this adapter's A and a row of any earlier one, per module.

    0 means orthogonal; there is nothing to overlap with when `earlier` is empty, so 0. Two random
    adapters of rank r have a root mean square cosine of sqrt(1 / width), and share r / width of
    their directions.
    """
    mine = _a_matrices(weights)
    largest = 0.0
    for other in (_a_matrices(each) for each in earlier):
        for path in mine.keys() & other.keys():
            cosines = _unit_rows(mine[path]) @ _unit_rows(other[path]).T
            largest = max(largest, float(cosines.abs().max()))
    return largest


def soft_penalty(
    model: PeftModel, earlier: Sequence[Mapping[str, Tensor]], *, name: str = IN_TRAINING
) -> Callable[[], Tensor]:
    """The adapter's present overlap with `earlier`, as a loss for a trained A.

    Mean over modules and earlier adapters of ||A_i A_t^T||_F^2 / (||A_i||_F^2 ||A_t||_F^2), in
    [0, 1]: the squared penalty of O3 (arXiv 2407.10223; O-LoRA, arXiv 2310.14152, takes absolute
    values) without its growth with rank, modules, earlier adapters and the length of A. The earlier
    A are stacked once, so that a step costs one product a module.
    """
    mine = {
        _module_path(key): parameter
        for key, parameter in model.named_parameters()
        if f".lora_A.{name}." in key
    }
    stacks = {path: torch.zeros(0, matrix.shape[1]) for path, matrix in mine.items()}
    for matrices in map(_a_matrices, earlier):
        for path in matrices.keys() & mine.keys():
            unit = matrices[path].to(torch.float32) / matrices[path].norm()
            stacks[path] = torch.cat([stacks[path], unit])

    def penalty() -> Tensor:
        parts = [
            (stacks[path] @ matrix.T).square().sum() / matrix.square().sum()
            for path, matrix in mine.items()
        ]
        return torch.stack(parts).mean() / max(1, len(earlier))

    return penalty


def _unit_rows(matrix: Tensor) -> Tensor:
    return torch.nn.functional.normalize(matrix.to(torch.float64), dim=1)


def _a_matrices(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_module_path(key): value for key, value in weights.items() if ".lora_A." in key}


def _module_path(key: str) -> str:
    return key.split(".lora_A.")[0]


def adapter_files(model: PeftModel, name: str = IN_TRAINING) -> dict[str, bytes]:
    """An adapter in PEFT's own file format, as bytes by file name; the same for the same adapter.

    The config holds no personal data: rank, modules and layers.
    """
    config = json.dumps(_settings(model.peft_config[name]), indent=2, sort_keys=True)
    return {
        CONFIG_FILE: config.encode() + b"\n",
        WEIGHTS_FILE: safetensors.torch.save(adapter_weights(model, name), {"format": "pt"}),
    }


def _settings(config: LoraConfig) -> dict[str, Any]:
    settings = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    # The base model is pinned by its digest in the release; its path on this machine is nobody's.
    settings |= {"inference_mode": True, "base_model_name_or_path": None}
    # For mixtures of experts PEFT writes an empty list here, for others nothing.
    return settings | {"target_parameters": config.target_parameters or None}


def store_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` as the new folder `folder`: complete, or not at all.

    A folder of that name already there is kept if it holds the same bytes (its name is made of
    digests, so a second run of the same work ends here). Raises AdapterError when it holds others,
    or when writing fails.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    except OSError as error:
        raise AdapterError(
            f"{folder.parent} cannot be written ({error.strerror}): check its rights and space."
        ) from error
    try:
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        unfinished.chmod(0o750)
        unfinished.rename(folder)
    except OSError as error:
        if folder.is_symlink() or not folder.is_dir():
            raise AdapterError(
                f"{folder} cannot be written ({error.strerror}): check its rights and space."
            ) from error
        if any(not _holds(folder / name, content) for name, content in files.items()):
            raise AdapterError(
                f"{folder} holds other bytes than its name says: move it away and run again."
            ) from error
    finally:  # whatever ended it; after the renaming there is nothing of that name
        shutil.rmtree(unfinished, ignore_errors=True)


def _holds(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter read back from its files: PEFT's config and the weights under PEFT's keys."""

    config: LoraConfig
    weights: dict[str, Tensor]

    @property
    def form(self) -> "Form":
        """All that `check_fits` looks at: of adapters of one form, one need be asked."""
        modules, layers = self.config.target_modules, self.config.layers_to_transform
        shapes = frozenset((key, tuple(each.shape)) for key, each in self.weights.items())
        return self.config.r, frozenset(modules), frozenset(layers), shapes


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter that lies on disk: its folder, and the SHA-256 of its config and its weights."""

    folder: Path
    config_sha256: str
    weights_sha256: str

    def read(self) -> StoredAdapter:
        """As `read_adapter`."""
        files = {CONFIG_FILE: self.config_sha256, WEIGHTS_FILE: self.weights_sha256}
        return read_adapter(self.folder, files)


def read_adapter(folder: Path, files: Mapping[str, str]) -> StoredAdapter:
    """The adapter in `folder`, from bytes whose SHA-256 are those of `files` (name to digest).

    What is parsed are the very bytes that were checked. Raises AdapterError naming the file that
    is missing, differs or cannot be read, or the folder when it holds no adapter of our form.
    """
    config = _checked(folder / CONFIG_FILE, files, at_most=MAX_JSON_BYTES)
    weights = _checked(folder / WEIGHTS_FILE, files, at_most=MAX_BYTES)
    try:
        stored = StoredAdapter(_lora_config(parsed_json(config)), checked_tensors(weights))
        _check_weights(stored)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(
            f"{folder} does not hold an adapter of our form{why(error)}: "
            "restore the folder from a backup."
        ) from error
    return stored


def why(error: Exception) -> str:
    """The reason in brackets, where it is one of ours: others may quote what the file holds."""
    return f" ({error})" if isinstance(error, Malformed) else ""


def _checked(file: Path, files: Mapping[str, str], *, at_most: int) -> bytes:
    return checked_bytes(file, files.get(file.name, ""), at_most=at_most)


def checked_bytes(file: Path, sha256: str, *, at_most: int = MAX_BYTES) -> bytes:
    """The bytes of `file`, if it is a plain file of at most `at_most` bytes in a folder that is no
    link, and their SHA-256 is `sha256`; otherwise AdapterError naming the file."""
    try:
        if file.parent.is_symlink():
            raise OSError(errno.ELOOP, "its folder is a symbolic link")
        content = bounded_bytes(file, at_most=at_most)
    except OSError as error:
        raise AdapterError(
            f"{file} cannot be read ({error.strerror}): restore it from a backup."
        ) from error
    if sha256_of(content) != sha256:
        raise AdapterError(
            f"{file} is not the file that was recorded (its SHA-256 differs): "
            "restore it from a backup or run the erasure again."
        )
    return content


def checked_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file: float32 within +-`LARGEST`, or int64.

    Raises SafetensorError, ValueError, TypeError or KeyError for anything else.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, MAX_JSON_BYTES):
        raise Malformed("the header is longer than the file, or than any header of ours")
    parsed_json(content[8 : 8 + length])  # a name that stands there twice is refused
    tensors: dict[str, Tensor] = safetensors.torch.load(content)
    for tensor in tensors.values():
        # Comparing with NaN is false; products of larger numbers end in infinities while serving.
        sound = tensor.dtype == torch.int64 or (
            tensor.dtype == torch.float32 and bool((tensor.abs() <= LARGEST).all())
        )
        if not sound:
            raise Malformed("a tensor is of another kind, not finite or absurdly large")
    return tensors


def _lora_config(settings: Any) -> LoraConfig:
    """PEFT's config, if it is what `_config` would make: every other setting is refused."""
    config = _config(
        rank=_whole(settings["r"], least=1),
        alpha=_whole(settings["lora_alpha"], least=1),
        modules=[_word(name) for name in _list(settings["target_modules"])],
        layers=[_whole(layer, least=0) for layer in _list(settings["layers_to_transform"])],
    )
    ours = _settings(config) | {"target_modules": sorted(config.target_modules)}
    ours |= {"layers_to_transform": settings["layers_to_transform"], "peft_version": ...}
    for key, value in settings.items():
        expected = ours.get(key, "a setting that this version does not know")
        if expected is not ... and json.dumps(value) != json.dumps(expected):
            raise Malformed("the config has a setting that no adapter of ours has")
    return config


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= 10_000:
        raise Malformed("the config has no list of modules and layers")
    return value


def _whole(value: Any, *, least: int) -> int:
    if type(value) is not int or not least <= value <= 10_000:
        raise Malformed("the config has a number that is out of range")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w{1,100}", value):
        raise Malformed("the config has a module that is no plain name")
    return value


def _check_weights(stored: StoredAdapter) -> None:
    """Raises Malformed unless every adapted module has one A [r, in] and one B [out, r]."""
    config, halves = stored.config, dict[str, set[str]]()
    for key, tensor in stored.weights.items():
        found = _KEY.fullmatch(key)
        layer = found and _LAYER.match(found.group(1))
        if not found or not layer:
            raise Malformed("a tensor has a name that none of ours has")
        path, half = found.groups()
        if (
            path.rsplit(".", 1)[-1] not in config.target_modules
            or int(layer.group(1)) not in config.layers_to_transform
        ):
            raise Malformed("a tensor belongs to a module that the config does not name")
        if tensor.dim() != 2 or tensor.shape["AB".index(half)] != config.r or 0 in tensor.shape:
            raise Malformed("a tensor has another shape than the rank says")
        if tensor.dtype != torch.float32:
            raise Malformed("a tensor is not float32")
        halves.setdefault(path, set()).add(half)
    if not halves or any(found != {"A", "B"} for found in halves.values()):
        raise Malformed("a module has only one half of its adapter")


def check_fits(base: BaseModel, stored: StoredAdapter) -> None:
    """Raises AdapterError unless the adapter has exactly the modules and widths of the bare base
    model; to be asked before the base model is touched."""
    config = stored.config
    linears = adapted_linears(
        base.model, modules=config.target_modules, layers=config.layers_to_transform
    )
    wanted = {}
    for path, linear in linears.items():
        key = f"base_model.model.{path}.lora_"
        wanted[f"{key}A.weight"] = (config.r, linear.in_features)
        wanted[f"{key}B.weight"] = (linear.out_features, config.r)
    if wanted != {key: tuple(tensor.shape) for key, tensor in stored.weights.items()}:
        raise AdapterError(
            "an adapter's weights do not fit the base model: "
            "it was trained on another model; run the erasure again."
        )
