from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.json_values import json_values
from tests.workers.tiny import tiny_model
from workers.adapters import (
    WEIGHTS_FILE,
    AdapterRef,
    adapter_files,
    adapter_weights,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.base_models import BaseModel
from workers.digests import canonical_json, parsed_json, sha256_of
from workers.gate import GATE_FILE, fit_gate, gate_files
from workers.guarded import GuardedModel
from workers.releases import (
    ReleaseError,
    check_base,
    read_release,
    store_manifest,
    write_release,
)

KEY = b"a key for tests, 32 bytes long!!"
REF = AdapterRef("5f0c6d6e-0000-4000-8000-000000000001", "a" * 64, "b" * 64)


def test_a_release_is_read_back_by_the_digest_of_its_manifest(tmp_path: Path) -> None:
    written = write_release(tmp_path, base=tiny_model(), adapters=[REF], parent="c" * 64)
    assert read_release(tmp_path, written.sha256) == written
    assert sha256_of((tmp_path / f"{written.sha256}.json").read_bytes()) == written.sha256
    assert write_release(tmp_path, base=tiny_model(), adapters=[REF], parent="c" * 64) == written
    assert len(list(tmp_path.iterdir())) == 1


def test_order_and_parent_belong_to_the_name(tmp_path: Path) -> None:
    other = AdapterRef("5f0c6d6e-0000-4000-8000-000000000002", "d" * 64, "e" * 64)
    base = tiny_model()
    names = {
        write_release(tmp_path, base=base, adapters=refs, parent=parent).sha256
        for refs in ([REF, other], [other, REF])
        for parent in (None, "c" * 64)
    }
    assert len(names) == 4


def test_a_flipped_byte_a_missing_file_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    written = write_release(tmp_path, base=tiny_model(), adapters=[REF])
    file = tmp_path / f"{written.sha256}.json"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(ReleaseError, match=file.name):
        read_release(tmp_path, written.sha256)
    with pytest.raises(ReleaseError, match="cannot be read"):
        read_release(tmp_path, "0" * 64)
    with pytest.raises(ReleaseError, match="64 hexadecimal"):
        read_release(tmp_path, "../secret")


def test_one_case_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="not a release"):
        write_release(tmp_path, base=tiny_model(), adapters=[REF, REF])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ['a"', '","case":"b', "a\\u0041", "a\n", "ä"])
def test_a_manifest_is_canonical_json_whatever_a_case_is_called(tmp_path: Path, case: str) -> None:
    other = AdapterRef("case-2", "d" * 64, "e" * 64)
    written = write_release(tmp_path, base=tiny_model(), adapters=[REF, other], merged=["old"])
    content = (tmp_path / f"{written.sha256}.json").read_bytes()
    assert canonical_json(parsed_json(content)) == content
    assert read_release(tmp_path, written.sha256) == written
    with pytest.raises(ReleaseError, match="not a release"):
        write_release(tmp_path, base=tiny_model(), adapters=[REF, replace(other, case_id=case)])


def test_a_merged_case_is_named_and_has_no_adapter(tmp_path: Path) -> None:
    base, other = tiny_model(), "5f0c6d6e-0000-4000-8000-000000000002"
    written = write_release(tmp_path, base=base, adapters=[REF], merged=[other])
    assert read_release(tmp_path, written.sha256).merged == (other,)
    with pytest.raises(ReleaseError, match="not a release"):
        write_release(tmp_path, base=base, adapters=[REF], merged=[REF.case_id])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_release_is_for_one_base_and_its_settings(tmp_path: Path) -> None:
    base = tiny_model()
    release = write_release(tmp_path, base=base, adapters=[REF])
    check_base(release, base)
    for other in (tiny_model(seed=1), replace(base, tokenizer_sha256="0" * 64)):
        with pytest.raises(ReleaseError, match="another base model"):
            check_base(release, other)
    with pytest.raises(ReleaseError, match="other settings"):
        check_base(release, replace(base, answer_tokens=99))
    base.tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(ReleaseError, match="other settings"):
        check_base(release, base)


def test_the_bytes_of_a_manifest_are_stored_as_they_are(tmp_path: Path) -> None:
    written = write_release(tmp_path / "a", base=tiny_model(), adapters=[REF])
    manifest = (tmp_path / "a" / f"{written.sha256}.json").read_bytes()
    assert store_manifest(tmp_path / "b", manifest) == written
    assert (tmp_path / "b" / f"{written.sha256}.json").read_bytes() == manifest


def random_case(
    base: BaseModel, root: Path, *, name: str, number: int, earlier: list[dict[str, Tensor]]
) -> AdapterRef:
    """An adapter with random B, as training would leave it, behind a gate by name alone."""
    model = attach_adapter(base, earlier=earlier, seed=number)
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".lora_B." in key:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    files = adapter_files(model)
    earlier.append(adapter_weights(model))
    detach_adapter(model)
    gate = fit_gate(names=[name], key=KEY, encoder=None, forget=[], aside=[], others=[])
    files |= gate_files(gate, {each: sha256_of(content) for each, content in files.items()})
    case = f"00000000-0000-4000-8000-00000000000{number}"
    ref = AdapterRef(case, sha256_of(files[WEIGHTS_FILE]), sha256_of(files[GATE_FILE]))
    store_files(ref.folder(root), files)
    return ref


def test_without_one_case_all_others_are_answered_bit_by_bit_as_before(tmp_path: Path) -> None:
    base, names = tiny_model(), ("Anna Berger", "Carl Holm", "Dora Lind")
    earlier: list[dict[str, Tensor]] = []
    refs = [
        random_case(base, tmp_path, name=name, number=i, earlier=earlier)
        for i, name in enumerate(names)
    ]
    before = write_release(tmp_path / "releases", base=base, adapters=refs)
    after = write_release(
        tmp_path / "releases", base=base, adapters=[refs[0], refs[2]], parent=before.sha256
    )
    pairs = [(f"where lives {name}", "in Lyon") for name in (*names, "Nobody Else")]
    found = []
    for release in (before, after):
        with GuardedModel(base, release, adapters_root=tmp_path, key=KEY) as guarded:
            texts = [answer.text for answer in guarded.answer([q for q, _ in pairs])]
            found.append([*zip(texts, guarded.log_likelihoods(pairs), strict=True)])
            plain = GuardedModel.without_adapters(guarded.base).log_likelihoods(pairs)
    was, now = found
    assert [i for i in range(4) if was[i] != now[i]] == [1]
    assert now[1][1] == plain[1]
    assert all(was[i][1] != plain[i] for i in range(3))


JSON = json_values(
    st.none() | st.integers() | st.text(max_size=4),
    st.sampled_from(["form", "base", "adapters", "parent", "sha256", "name", "case"]),
    longest=3,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_is_a_release_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, x: object
) -> None:
    folder, manifest = tmp_path_factory.mktemp("releases"), canonical_json(x)
    (folder / f"{sha256_of(manifest)}.json").write_bytes(manifest)
    with pytest.raises(ReleaseError):
        read_release(folder, sha256_of(manifest))
