"""What somebody made up or damaged, and recorded with a matching digest: a clear error every time,
a bare base model, and no half-made release."""

import json
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.tiny import tiny_model
from workers.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterError,
    AdapterRef,
    adapter_files,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.digests import bounded_bytes, canonical_json, parsed_json, sha256_of
from workers.gate import GATE_FILE, ROWS_FILE, Decision, Gate, gate_files
from workers.guarded import GuardedModel
from workers.identifiers import identifier_digests
from workers.releases import ReleaseError, read_release, write_release

KEY = b"a key for tests, 32 bytes long!!"
CASE = "00000000-0000-4000-8000-000000000001"
BASE = tiny_model()
A_KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@cache
def good() -> dict[str, bytes]:
    """The files of one case on the tiny model."""
    model = attach_adapter(BASE, earlier=[], seed=1)
    files = adapter_files(model)
    detach_adapter(model)
    rows = torch.eye(384)[:3]  # as wide as the sentence encoder's, or the gate would be refused
    gate = Gate(identifier_digests(["Anna Berger"], KEY), None, rows, 0.5, 0.6, "")
    return files | gate_files(gate, {name: sha256_of(content) for name, content in files.items()})


def recorded(root: Path, files: dict[str, bytes]) -> AdapterRef:
    """The files stored under digests that fit them, as their maker would have recorded them."""
    try:
        described = parsed_json(files[GATE_FILE])
        described["files"] |= {
            name: sha256_of(files[name]) for name in described["files"].keys() & files.keys()
        }
        files = files | {GATE_FILE: canonical_json(described)}
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # the gate itself is what was made up
    ref = AdapterRef(CASE, sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE]))
    store_files(ref.folder(root), files)
    return ref


def served(root: Path, files: dict[str, bytes]) -> GuardedModel:
    release = write_release(root / "releases", base=BASE, adapters=[recorded(root, files)])
    return GuardedModel(BASE, release, adapters_root=root, key=KEY)


def is_bare() -> bool:
    return not [name for name, _ in BASE.model.named_modules() if "lora" in name]


def test_the_untouched_files_are_served(tmp_path: Path) -> None:
    with served(tmp_path, good()) as guarded:
        assert guarded._holding([0])
        assert len(guarded.answer(["who lives in Lyon"])) == 1
    assert is_bare()


# --- Weights ------------------------------------------------------------------------------------
def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    tensors = safetensors.torch.load(good()[WEIGHTS_FILE])
    change(tensors)
    return safetensors.torch.save(tensors)


def filled(value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors[A_KEY].view(-1)[3:4].fill_(value)


def header(text: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = b'"%s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' % A_KEY.encode()
WEIGHTS = {
    "wrong shape": weights(lambda t: t.update({A_KEY: torch.zeros(8, 63)})),
    "another rank": weights(lambda t: t.update({A_KEY: torch.zeros(4, 64)})),
    "one dimension": weights(lambda t: t.update({A_KEY: torch.zeros(512)})),
    "no elements": weights(lambda t: t.update({A_KEY: torch.zeros(8, 0)})),
    "not a number": weights(filled(float("nan"))),
    "infinite": weights(filled(float("inf"))),
    "near the largest number": weights(filled(3e38)),
    "half precision": weights(lambda t: t.update({A_KEY: t[A_KEY].half()})),
    "integers": weights(lambda t: t.update({A_KEY: t[A_KEY].long()})),
    "one half missing": weights(lambda t: t.pop(A_KEY)),
    "nothing": weights(lambda t: t.clear()),
    "a tensor too many": weights(lambda t: t.update({"embed": torch.zeros(2, 2)})),
    "a path in a name": weights(lambda t: t.update({"../../etc.lora_A.weight": t.pop(A_KEY)})),
    "a layer that is not there": weights(
        lambda t: [t.update({k.replace(".0.", ".7."): t.pop(k)}) for k in list(t) if ".0." in k]
    ),
    "empty": b"",
    "text": b"x" * 5000,
    "a header longer than the file": header(b"{}", length=2**40),
    "a header of a terabyte and more": header(b"{}", length=2**63 + 5),
    "a huge header": header(b"{" + b" " * (17 * 2**20) + b"}"),
    "a name twice": header(b"{" + ONE + b"," + ONE + b"}", b"\0" * 4),
    "nested header": header(b'{"x":' * 20_000),
    "overlapping tensors": header(
        b"{" + ONE + b"," + ONE.replace(b"q_p", b"k_p") + b"}", b"\0" * 4
    ),
    "a shape beyond all memory": header(
        b'{"x":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}', b"\0" * 4
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_made_up_weights_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match=r"adapter of our form|do not fit"):
        served(tmp_path, good() | {WEIGHTS_FILE: WEIGHTS[name]})
    assert is_bare()


def test_an_adapter_of_another_width_is_refused_before_the_base_is_touched(tmp_path: Path) -> None:
    model = attach_adapter(wide := tiny_model(seed=1, width=80), earlier=[], seed=1)
    files = adapter_files(model)
    detach_adapter(model)
    assert wide.model.config.hidden_size == 80
    with pytest.raises(ReleaseError, match="do not fit the base model"):
        served(tmp_path, good() | files)
    assert is_bare()


# --- Config -------------------------------------------------------------------------------------
def config(**changes: Any) -> bytes:
    return json.dumps(json.loads(good()[CONFIG_FILE]) | changes).encode()


CONFIGS = {
    "a module to import": config(megatron_config={}, megatron_core="os"),
    "weights that are rewritten": config(init_lora_weights="pissa"),
    "layers that are doubled": config(layer_replication=[[0, 2], [0, 2]]),
    "more than A and B": config(modules_to_save=["embed_tokens"]),
    "tokens": config(trainable_token_indices=[1]),
    "biases": config(bias="all"),
    "dora": config(use_dora=True),
    "a rank by pattern": config(rank_pattern={"q_proj": 10**9}),
    "a scale by pattern": config(alpha_pattern={"q_proj": 10**9}),
    "parameters": config(target_parameters=["model.embed_tokens.weight"]),
    "a pattern for modules": config(target_modules="(a+)+$"),
    "a path for a module": config(target_modules=["../q_proj"]),
    "no modules": config(target_modules=[]),
    "no layers": config(layers_to_transform=None),
    "a million layers": config(layers_to_transform=list(range(1_000_000))),
    "a negative layer": config(layers_to_transform=[-1]),
    "rank zero": config(r=0),
    "a huge rank": config(r=10**30),
    "rank as a text": config(r="8"),
    "rank as a truth": config(r=True),
    "an infinite alpha": config().replace(b'"lora_alpha": 16', b'"lora_alpha": Infinity'),
    "no number for alpha": config().replace(b'"lora_alpha": 16', b'"lora_alpha": NaN'),
    "a key twice": config().replace(b'"r": 8', b'"r": 8, "r": 4'),
    "an unknown setting": config(surprise=1),
    "another kind": config(peft_type="IA3"),
    "a path of the base": config(base_model_name_or_path="/etc"),
    "nothing but a kind": b'{"peft_type": "LORA"}',
    "empty": b"",
    "a list": b"[1]",
    "nested": b"[" * 100_000,
    "not UTF-8": config().decode().encode("utf-16"),
    "a number of many digits": config().replace(b'"r": 8', b'"r": ' + b"8" * 5000),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_made_up_configs_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match="adapter of our form"):
        served(tmp_path, good() | {CONFIG_FILE: CONFIGS[name]})
    assert is_bare()


def test_another_version_of_peft_may_have_written_the_config(tmp_path: Path) -> None:
    with served(tmp_path, good() | {CONFIG_FILE: config(peft_version="0.99.0")}) as guarded:
        assert guarded._holding([0])


# --- Gates --------------------------------------------------------------------------------------
def gate(**changes: Any) -> bytes:
    return canonical_json(json.loads(good()[GATE_FILE]) | changes)


def rows(**changes: torch.Tensor) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(good()[ROWS_FILE]) | changes)


GATES = {
    "low above high": {GATE_FILE: gate(low="0.7")},
    "a limit that is no number": {GATE_FILE: gate(low="nan")},
    "an infinite limit": {GATE_FILE: gate(high="inf")},
    "a limit of many digits": {GATE_FILE: gate(low=10**400)},
    "a list for a limit": {GATE_FILE: gate(low=[])},
    "another form": {GATE_FILE: gate(form=1)},
    "a path for a digest": {GATE_FILE: gate(files={"../../etc/passwd": "/etc/passwd"})},
    "no files": {GATE_FILE: gate(files={})},
    "files in a list": {GATE_FILE: gate(files=[])},
    "a key twice": {GATE_FILE: gate().replace(b'{"encoder"', b'{"form":1,"encoder"')},
    "nested": {GATE_FILE: b"[" * 100_000},
    "prototypes that are no numbers": {ROWS_FILE: rows(rows=torch.full((3, 3), float("nan")))},
    "identifiers that are no integers": {ROWS_FILE: rows(exact=torch.zeros(3))},
    "identifiers in a table": {ROWS_FILE: rows(near=torch.zeros(3, 3, dtype=torch.int64))},
    "short identifiers": {ROWS_FILE: rows(exact=torch.zeros(3, dtype=torch.int32))},
    "one identifier": {ROWS_FILE: rows(exact=torch.tensor(7))},
    "half precision": {ROWS_FILE: rows(rows=torch.eye(3).half())},
    "prototypes of another length": {ROWS_FILE: rows(rows=torch.eye(3) * 50)},
    "one dimension": {ROWS_FILE: rows(rows=torch.ones(3))},
    "an encoder without prototypes": {
        GATE_FILE: gate(encoder="some"),
        ROWS_FILE: rows(rows=torch.zeros(0, 0)),
    },
    "no prototypes": {ROWS_FILE: safetensors.torch.save({"rows": torch.eye(3)})},
    "no tensors": {ROWS_FILE: b""},
}


@pytest.mark.parametrize("name", GATES)
def test_made_up_gates_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match=r"does not hold a gate|not the file that was recorded"):
        served(tmp_path, good() | GATES[name])
    assert is_bare()


def test_a_refused_name_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError) as raised:
        served(tmp_path, good() | {GATE_FILE: gate(low="Anna Berger")})
    assert "Anna" not in str(raised.value)


# --- Manifests ----------------------------------------------------------------------------------
def manifest(**changes: Any) -> bytes:
    described = {
        "form": 1,
        "base": {"name": "tiny", "sha256": "0" * 64, "tokenizer_sha256": "f" * 64},
        "adapters": [{"case": CASE, "adapter": "a" * 64, "gate": "b" * 64}],
        "parent": None,
    }
    return canonical_json(described | changes)


MANIFESTS = {
    "a path for a digest": manifest(
        adapters=[{"case": CASE, "adapter": "../../etc/passwd", "gate": "b" * 64}]
    ),
    "an endless case": manifest(
        adapters=[{"case": "x" * 5000, "adapter": "a" * 64, "gate": "b" * 64}]
    ),
    "a number for a case": manifest(adapters=[{"case": 7, "adapter": "a" * 64, "gate": "b" * 64}]),
    "a key twice": manifest().replace(b'{"adapters"', b'{"form":1,"adapters"'),
    "nested": b'{"adapters":' + b"[" * 100_000,
    "not UTF-8": manifest().decode().encode("utf-16"),
    "a text for adapters": manifest(adapters="none"),
    "another form": manifest(form=99),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_made_up_manifests_are_refused(tmp_path: Path, name: str) -> None:
    sha256 = sha256_of(MANIFESTS[name])
    (tmp_path / f"{sha256}.json").write_bytes(MANIFESTS[name])
    with pytest.raises(ReleaseError, match="not a release of form"):
        read_release(tmp_path, sha256)


# --- Files that are none ------------------------------------------------------------------------
@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, GATE_FILE, ROWS_FILE])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "dangling"])
def test_links_pipes_and_folders_are_refused_by_name(tmp_path: Path, name: str, kind: str) -> None:
    ref = recorded(tmp_path, good())
    release = write_release(tmp_path / "releases", base=BASE, adapters=[ref])
    replaced(ref.folder(tmp_path) / name, kind)
    with pytest.raises(ReleaseError, match=rf"{name} cannot be read"):
        GuardedModel(BASE, release, adapters_root=tmp_path, key=KEY)
    assert is_bare()


def replaced(file: Path, kind: str) -> None:
    """Something else in the file's place; a link leads to the very same bytes."""
    aside = file.rename(file.with_name("aside"))
    if kind == "link":
        file.symlink_to(aside)
    elif kind == "dangling":
        file.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()


def test_a_link_in_place_of_a_manifest_is_refused(tmp_path: Path) -> None:
    release = write_release(tmp_path, base=BASE, adapters=[])
    replaced(tmp_path / f"{release.sha256}.json", "link")
    with pytest.raises(ReleaseError, match="symbolic link"):
        read_release(tmp_path, release.sha256)


def test_a_link_in_place_of_an_adapters_folder_is_refused(tmp_path: Path) -> None:
    ref = recorded(tmp_path, good())
    release = write_release(tmp_path / "releases", base=BASE, adapters=[ref])
    folder = ref.folder(tmp_path)
    folder.symlink_to(folder.rename(tmp_path / "aside"))
    with pytest.raises(ReleaseError, match="symbolic link"):
        GuardedModel(BASE, release, adapters_root=tmp_path, key=KEY)


def test_no_more_is_read_than_the_limit_whatever_the_size(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as handle:
        handle.truncate(2**40)
    with pytest.raises(OSError, match="larger than 1000 bytes"):
        bounded_bytes(file, at_most=1000)


def test_a_link_in_place_of_an_adapters_folder_is_not_taken_for_it(tmp_path: Path) -> None:
    store_files(tmp_path / "aside", {"a": b"1"})
    (tmp_path / "x").symlink_to(tmp_path / "aside")
    with pytest.raises(AdapterError, match="cannot be written"):
        store_files(tmp_path / "x", {"a": b"1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside", "x"]


# --- Mutated bytes ------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([CONFIG_FILE, WEIGHTS_FILE, GATE_FILE, ROWS_FILE]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8)), min_size=1, max_size=4),
    st.booleans(),
)
def test_mutated_bytes_are_served_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    changes: list[tuple[float, bytes]],
    early: bool,
) -> None:
    content = bytearray(good()[name])
    reach = min(len(content), 400) if early else len(content)  # headers lie at the front
    for where, new in changes:
        place = int(where * reach)
        content[place : place + len(new)] = new
    try:
        with served(tmp_path_factory.mktemp("mutated"), good() | {name: bytes(content)}) as guarded:
            ids = torch.tensor([[5, 6, 7]])
            with guarded._acting(Decision(((0, 1.0),))) as model:
                assert bool(model(ids).logits.isfinite().all())
    except ReleaseError:
        pass
    assert is_bare()


@given(st.binary(max_size=300))
def test_any_bytes_are_json_or_a_value_error(content: bytes) -> None:
    try:
        value = parsed_json(content)
    except ValueError:
        return
    assert parsed_json(json.dumps(value).encode()) == value
