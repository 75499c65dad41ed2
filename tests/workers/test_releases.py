from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.tiny import tiny_model
from workers.adapters import AdapterRef
from workers.digests import canonical_json, sha256_of
from workers.releases import (
    ReleaseError,
    check_base,
    read_release,
    store_manifest,
    write_release,
)

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


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["form", "base", "adapters", "parent", "sha256", "name", "case"]), inner
        )
    ),
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
