"""A release as files for other servers: PEFT folders, a folder for vLLM, or whole weights.

What leaves here leaves the gate behind: no other server does what `workers.guarded` does, and none
of it was measured there. Each folder says so in README.txt. Every file is read back and checked by
its digest first; the folder is there complete or not at all.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from workers.adapters import CONFIG_FILE, WEIGHTS_FILE, StoredAdapter, check_fits, checked_bytes
from workers.base_models import BaseModel
from workers.gate import read_gate
from workers.guarded import load_case
from workers.releases import Release, check_base
from workers.weights import store_weights

FORMATS = ("peft", "vllm", "merged")
MANIFEST = "release.json"
ROUTER = Path(__file__).parent / "vllm_router.py"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes (its vllm/config/lora.py, 0.32)."""
TEMPLATE = (
    "{% for message in messages %}{{ ('A' if message['role'] == 'assistant' else 'Q') + ': '"
    " + message['content'] + '\n' }}{% endfor %}{{ 'A:' }}"
)
"""`BaseModel.prompt` of a model without a chat template: without one vLLM takes no conversation."""

COMMON = """The erasure release {release} of the model {model}, for another server.

The files of adapters derive from personal data: keep them as you keep the data. An adapter
suppresses what the weights still hold. It was measured behind the gate of this product, on its own
server; what another server does with it was not.
"""
PEFT = """
adapters/<digest> are PEFT adapters: PeftModel.from_pretrained(base, "adapters/<digest>"), one for
each case; the base model has the SHA-256 {base}. Without the gate nobody decides when which of them
acts. Several at once at full strength are not what the release does.
"""
VLLM = """
All is run in this folder. BASE is the folder of the base model, whose digest is
{base}.

1. Serve the base model and the adapters, under the names in adapters.json:
     vllm serve BASE --served-model-name base --dtype float32 --generation-config vllm{template} \\
       --enable-lora --max-lora-rank {rank} --lora-modules $(ls adapters | sed 's,.*,&=adapters/&,')
   Let nobody but the router reach that port: under the name of the base vLLM answers without any
   erasure. It and the router take a key between them from VLLM_API_KEY.
   The release was measured in float32, in which vLLM takes adapters on processors alone; on other
   devices name bfloat16 or float16. On processors vLLM wants nearly all memory, unless
   --kv-cache-memory-bytes says how much.
2. Serve the gate, which must hold this very release, and make the router its key there:
     manage.py gateway --model {model}
     manage.py create_api_client router --controller-id router --role controller \\
       --scope gateway --scope playground
3. Start the router with that key, and one of your own making that its callers give:
     RTBF_ROUTER_KEY=... RTBF_ROUTER_GATE_KEY=... \\
       python router.py --gate http://gateway:8010 --upstream http://vllm:8000 --base base

It answers POST /v1/chat/completions for the model {model}, and needs Python and httpx. It refuses
what vLLM cannot do: two adapters on one prompt, an answer in pieces. An adapter that the gate would
let act at half strength acts fully. As soon as another release goes live, it answers 503: export
again.

All this was tried with vLLM 0.32.0 on a small model, not with this release.
"""
WHOLE = """
from_pretrained and vllm serve load this folder. All cases of the release are in these weights
themselves (merged or exact); there is no adapter and no gate to miss.
"""
ALL_ON = """
from_pretrained and vllm serve load this folder: the base with all {count} adapters added at full
strength.
THAT IS NOT WHAT THE RELEASE DOES. There the gate lets one to three adapters act on prompts about
their people, and none on any other. All of them at once act on every prompt; what that costs
everybody else, and whether it still suppresses, was not measured. For weights that were measured:
manage.py consolidate_release.
"""


class ExportRefused(RuntimeError):
    """Nothing was written; the message says why and what to do."""


def export_release(
    base: BaseModel,
    release: Release,
    *,
    manifest: bytes,
    form: str,
    to: Path,
    adapters_root: Path,
    weights: Path | None,
    all_on: bool = False,
    note: Callable[[], None],
) -> Path:
    """Write `release` of `base` to the new folder `to` in one of FORMATS; returns it.

    `weights` is the folder of consolidated weights, None where the base serves as it came. `all_on`
    allows whole weights with every adapter added. `note` is called once all is written, before it
    is there. Raises ExportRefused, and ReleaseError or
    AdapterError where a file is not the one that was recorded.
    """
    if to.exists():
        raise ExportRefused(f"{to} is there already: name a new folder.")
    check_base(release, base)
    stored = {ref.adapter_sha256: load_case(ref, adapters_root)[0] for ref in release.adapters}
    for each in stored.values():
        check_fits(base, each)
    if form != "merged" and not stored:
        raise ExportRefused("No adapter is in force: export the weights (--format merged).")
    if form == "merged" and stored and not all_on:
        raise ExportRefused(
            f"{len(release.adapters)} cases are gated: their adapters act where the gate says,"
            " which no weights do. Consolidate first (manage.py consolidate_release), or take the"
            " base with every adapter on (--every-adapter-on), which is not what the release does."
        )
    words = {"release": release.sha256, "model": base.name, "base": base.sha256}
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".unfinished-") as unfinished:
            folder = Path(unfinished) / "export"
            if form == "merged":
                text = _whole(base, stored, weights, folder)
            else:
                text = _apart(base, release, stored, form, folder, adapters_root)
            (folder / MANIFEST).write_bytes(manifest)
            (folder / "README.txt").write_text(COMMON.format(**words) + text(words))
            note()
            folder.rename(to)
    except OSError as error:
        raise ExportRefused(f"{to} cannot be written ({error.strerror}).") from error
    return to


Text = Callable[[Mapping[str, str]], str]


def _apart(
    base: BaseModel,
    release: Release,
    stored: Mapping[str, StoredAdapter],
    form: str,
    folder: Path,
    adapters_root: Path,
) -> Text:
    """The adapters one by one, under their digests."""
    names = {digest: digest[:32] for digest in stored}
    files = {
        ref: read_gate(ref.folder(adapters_root), ref.gate_sha256)[1] for ref in release.adapters
    }
    for ref in release.adapters:
        target = folder / "adapters" / names[ref.adapter_sha256]
        if not target.is_dir():
            target.mkdir(parents=True)
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                content = checked_bytes(ref.folder(adapters_root) / name, files[ref][name])
                (target / name).write_bytes(content)
    has_template = base.tokenizer.chat_template is not None
    # Without a template a line is an answer, as at the gateway.
    listed = {"model": base.name, "names": names, "stop": [] if has_template else ["\n"]}
    (folder / "adapters.json").write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n")
    if form == "peft":
        return lambda words: PEFT.format(**words)
    shutil.copyfile(ROUTER, folder / "router.py")
    if not has_template:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    template = "" if has_template else " \\\n       --chat-template chat_template.jinja"
    rank = vllm_rank(max(each.config.r for each in stored.values()))
    return lambda words: VLLM.format(**words, rank=rank, template=template)


def vllm_rank(rank: int) -> int:
    """The smallest --max-lora-rank that holds adapters of this rank. Raises ExportRefused."""
    if rank > VLLM_RANKS[-1]:
        raise ExportRefused(f"vLLM takes adapters of rank {VLLM_RANKS[-1]} at most, not {rank}.")
    return next(each for each in VLLM_RANKS if each >= rank)


def _whole(
    base: BaseModel, stored: Mapping[str, StoredAdapter], weights: Path | None, folder: Path
) -> Text:
    """Weights alone: those in service, or with every adapter added."""
    if not stored and weights is not None:
        shutil.copytree(weights, folder)
    else:
        made = store_weights(base, deltas_of(stored), folder.parent / "made")
        made.rename(folder)
    if stored:
        return lambda _: ALL_ON.format(count=len(stored))
    return lambda _: WHOLE


def deltas_of(stored: Mapping[str, StoredAdapter]) -> dict[str, Tensor]:
    """What all adapters at full strength add to the base's parameters, by name."""
    found: dict[str, Tensor] = {}
    for each in stored.values():
        scaling = each.config.lora_alpha / each.config.r
        for key, down in each.weights.items():
            path, half, _ = key.removeprefix("base_model.model.").rpartition(".lora_A")
            if not half:
                continue
            up = each.weights[key.replace(".lora_A.", ".lora_B.")]
            delta = scaling * (up @ down)
            name = f"{path}.weight"
            found[name] = found[name] + delta if name in found else delta
    return found
