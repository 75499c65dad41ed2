"""What a release is made of, as a CycloneDX 1.6 bill of materials of a machine-learning model.

Base model, tokenizer, adapters in force and gates, each by the SHA-256 of its file, which is also
its name: it does not say for whom an adapter was made. It is not for the public all the same, since
it shows how many there are, and two of them one after another show when one was added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from django.utils.translation import gettext_lazy as _

from requests_app.extract import AdapterPart, Extract, ReleaseParts
from requests_app.models.exports import Level
from requests_app.verifier import statements

OF = "release"
TITLE = _("Bill of materials of a release (CycloneDX 1.6, ML-BOM)")
CONTENT_TYPE = "application/vnd.cyclonedx+json; version=1.6"
EXTENSION = "cdx.json"
LEVELS = (Level.AUTHORITY,)

MODEL = "machine-learning-model"
LIMITS = {"gated": ("L1", "L2", "L5"), "merged": ("L1", "L5", "L8"), "exact": ("L5", "L9")}


def render(extract: Extract) -> Iterator[bytes]:
    """UTF-8 JSON, indented; the same release gives the same bytes. ValueError without a release."""
    if extract.release is None:
        raise ValueError("A bill of materials is of a release.")
    yield json.dumps(_bom(extract.release), indent=2, ensure_ascii=False).encode() + b"\n"


def _bom(release: ReleaseParts) -> dict[str, Any]:
    base, tokenizer = release.base["sha256"], release.base["tokenizer_sha256"]
    parts = [_ref(base), _ref(tokenizer), *(_ref(a.sha256) for a in release.adapters)]
    gates = dict.fromkeys(adapter.gate_sha256 for adapter in release.adapters)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'sha256:{release.digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": release.registered_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": _whole(release),
        },
        "components": [
            _component(MODEL, base, name=release.base["name"], described="base model"),
            _component("data", tokenizer, described="tokenizer"),
            *(_adapter(adapter) for adapter in release.adapters),
            *(_component("data", gate, described="gate of an adapter") for gate in gates),
        ],
        "dependencies": [
            {"ref": _ref(release.digest), "dependsOn": parts},
            *(
                {"ref": _ref(a.sha256), "dependsOn": [_ref(base), _ref(a.gate_sha256)]}
                for a in release.adapters
            ),
        ],
        "compositions": [{"aggregate": "complete", "assemblies": [_ref(release.digest)]}],
    }


def _whole(release: ReleaseParts) -> dict[str, Any]:
    """The release itself, with what it cannot do: the limits of each level that it has."""
    levels = [release.weights] if release.weights else []
    if release.adapters or not levels:
        levels.append("gated")
    limits = {name for level in levels for name in LIMITS[level]}
    properties = {
        "rtbf:settings_sha256": release.base["settings"],
        "rtbf:parent_release_sha256": release.parent,
        "rtbf:level_of_weights": release.weights,
    }
    return {
        **_component(MODEL, release.digest, name=release.model_name, described="erasure release"),
        "modelCard": {
            "considerations": {
                "technicalLimitations": [
                    text for name, text in statements.LIMITATIONS.items() if name in limits
                ]
            }
        },
        "properties": [
            {"name": name, "value": value} for name, value in properties.items() if value
        ],
    }


def _adapter(part: AdapterPart) -> dict[str, Any]:
    made = _component(MODEL, part.sha256, described="adapter in force (LoRA)")
    if part.config_sha256:
        made["properties"] = [{"name": "rtbf:config_sha256", "value": part.config_sha256}]
    return made


def _component(kind: str, digest: str, *, described: str, name: str = "") -> dict[str, Any]:
    """A component by its digest, which is its name as well where it has no other."""
    return {
        "type": kind,
        "bom-ref": _ref(digest),
        "name": name or f"sha256:{digest}",
        "version": digest[:12],
        "description": described,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _ref(digest: str) -> str:
    return f"sha256:{digest}"
