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
1. Serve the base model ({base}) and the adapters:
     vllm serve BASE --served-model-name base --enable-lora --max-lora-rank {rank} \\
       --max-loras 1 --lora-modules {first}=adapters/{first} ...
   adapters.json lists the names. Let nobody but the router reach that port: under the name of the
   base vLLM answers without any erasure.
2. Serve the gate: manage.py gateway --model {model}, which holds the same release, and make a key
   with the scopes gateway and playground (manage.py create_api_client).
3. RTBF_ROUTER_KEY=... RTBF_ROUTER_GATE_KEY=... python router.py --gate http://gateway:8010 \\
     --upstream http://vllm:8000 --base base

The router needs Python and httpx. It refuses what vLLM cannot do: two adapters on one prompt, an
answer in pieces. An adapter that the gate would let act at half strength acts fully. As soon as
another release goes live, it answers 503: export again.
"""
WHOLE = """
from_pretrained loads this folder. All cases of the release are in these weights themselves (merged
or exact); there is no adapter and no gate to miss.
"""
ALL_ON = """
from_pretrained loads this folder: the base with all {count} adapters added at full strength.
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
    listed = {"model": base.name, "names": names}
    (folder / "adapters.json").write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n")
    if form == "peft":
        return lambda words: PEFT.format(**words)
    shutil.copyfile(ROUTER, folder / "router.py")
    rank = max(each.config.r for each in stored.values())
    return lambda words: VLLM.format(**words, rank=rank, first=next(iter(names.values())))


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
