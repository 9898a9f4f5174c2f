#!/usr/bin/env python3
"""Checks documents about an image with the libraries of their formats: check.py spdx|cyclonedx FILE...

Prints `TYPE NAME VERSION ARCH` for every package, sorted, once all documents are valid. Exits with 2 where a library is
missing.
"""

import json
import sys
from urllib.parse import parse_qs, unquote

try:
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
except ImportError as error:
    print(f"missing: {error}")
    sys.exit(2)


def spdx(path):
    """The package URLs of an SPDX document."""
    document = parse_file(path)
    complaints = validate_full_spdx_document(document)
    if complaints:
        sys.exit("\n".join(f"{path}: {c.validation_message} ({c.context})" for c in complaints))
    return [r.locator for p in document.packages for r in p.external_references if r.reference_type == "purl"]


def cyclonedx(path):
    """The package URLs of a CycloneDX document."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    complaint = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if complaint:
        sys.exit(f"{path}: {complaint}")
    bom = Bom.from_json(json.loads(text))
    return [str(c.purl) for c in bom.components if c.purl]


def line(purl):
    """`TYPE NAME VERSION ARCH` of a package URL."""
    rest, _, query = purl.removeprefix("pkg:").partition("?")
    kind, _, rest = rest.partition("/")
    name, _, version = rest.partition("@")
    qualifiers = parse_qs(query)
    if kind in ("deb", "apk", "rpm"):
        name = name.rpartition("/")[2]
    epoch = "".join(f"{e}:" for e in qualifiers.get("epoch", []))
    return " ".join([kind, unquote(name), epoch + unquote(version), *qualifiers.get("arch", [])])


read = {"spdx": spdx, "cyclonedx": cyclonedx}[sys.argv[1]]
for one in sys.argv[2:]:
    lines = [line(purl) for purl in read(one)]
    print("\n".join(sorted(lines)))
