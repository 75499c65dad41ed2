"""One LoRA adapter per case: orthogonal to all earlier ones by construction, stored by digest.

After InfLoRA (arXiv 2404.00228): the rows of every A matrix are drawn in the null space of the
earlier adapters' A and stay frozen; only B is trained. A_i A_j^T = 0 therefore holds exactly
(to rounding), needs no penalty, and earlier adapters are never touched. PEFT is used as it is.
"""

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from workers.base_models import BaseModel
from workers.digests import sha256_of

RANK = 8
ALPHA = 16
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
IN_TRAINING = "case"  # a name that no torch module has as an attribute
_DIGEST = re.compile(r"[0-9a-f]{64}")


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
    are free, that is after about width / rank adapters.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    if earlier:
        stacked = torch.cat([matrix.to(torch.float64) for matrix in earlier])
        _, values, rows = torch.linalg.svd(stacked, full_matrices=False)
        taken = rows[values > values[0] * 1e-9]
        if width - len(taken) < rank:
            raise AdapterError(
                f"No free directions are left: {len(taken)} of {width} are taken by earlier "
                "adapters. Consolidate earlier cases into a new release, or use a lower rank."
            )
        for _ in range(2):  # the second pass removes what rounding left of the first
            drawn = drawn - (drawn @ taken.T) @ taken
    return torch.linalg.qr(drawn.T).Q.T.contiguous()


def attach_adapter(
    base: BaseModel,
    *,
    earlier: Sequence[Mapping[str, Tensor]],
    seed: int,
    rank: int = RANK,
    alpha: int = ALPHA,
) -> PeftModel:
    """The base model with one fresh adapter: A in the free directions and frozen, B zero.

    `earlier` are the weights of the earlier adapters. Undo with `detach_adapter`. Raises
    AdapterError when no free directions are left.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(base.target_modules),
        layers_to_transform=list(
            range(base.lowest_layer, int(base.model.config.num_hidden_layers))
        ),
        task_type="CAUSAL_LM",
    )
    model = wrap(base, config, IN_TRAINING)
    try:
        _place_in_free_directions(model, earlier, seed=seed, rank=rank)
    except BaseException:  # whatever it was: the base model must not stay wrapped
        model.unload()
        raise
    return model


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

    0 means orthogonal; there is nothing to overlap with when `earlier` is empty, so 0.
    """
    mine = _a_matrices(weights)
    largest = 0.0
    for other in (_a_matrices(each) for each in earlier):
        for path in mine.keys() & other.keys():
            cosines = _unit_rows(mine[path]) @ _unit_rows(other[path]).T
            largest = max(largest, float(cosines.abs().max()))
    return largest


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
    settings = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in model.peft_config[name].to_dict().items()
    }
    # The base model is pinned by its digest in the release; its path on this machine is nobody's.
    settings |= {"inference_mode": True, "base_model_name_or_path": None}
    return {
        CONFIG_FILE: json.dumps(settings, indent=2, sort_keys=True).encode() + b"\n",
        WEIGHTS_FILE: safetensors.torch.save(adapter_weights(model, name), {"format": "pt"}),
    }


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
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.is_dir():
            raise AdapterError(
                f"{folder} cannot be written ({error.strerror}): check its rights and space."
            ) from error
        if any(not _holds(folder / name, content) for name, content in files.items()):
            raise AdapterError(
                f"{folder} holds other bytes than its name says: move it away and run again."
            ) from error


def _holds(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter read back from its files: PEFT's config and the weights under PEFT's keys."""

    config: LoraConfig
    weights: dict[str, Tensor]


def read_adapter(folder: Path, files: Mapping[str, str]) -> StoredAdapter:
    """The adapter in `folder`, from bytes whose SHA-256 are those of `files` (name to digest).

    What is parsed are the very bytes that were checked. Raises AdapterError naming the file that
    is missing, differs or cannot be read.
    """
    config = _checked(folder / CONFIG_FILE, files)
    weights = _checked(folder / WEIGHTS_FILE, files)
    try:
        return StoredAdapter(_lora_config(json.loads(config)), safetensors.torch.load(weights))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(
            f"{folder} does not hold a LoRA adapter: restore the folder from a backup."
        ) from error


def _checked(file: Path, files: Mapping[str, str]) -> bytes:
    return checked_bytes(file, files.get(file.name, ""))


def checked_bytes(file: Path, sha256: str) -> bytes:
    """The bytes of `file`, if their SHA-256 is `sha256`; otherwise AdapterError naming the file."""
    try:
        content = file.read_bytes()
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


def _lora_config(settings: Any) -> LoraConfig:
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise ValueError("not a LoRA config")
    return LoraConfig(
        **{k: v for k, v in settings.items() if k not in {"peft_type", "auto_mapping"}}
    )
