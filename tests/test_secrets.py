"""No secret is tracked: detect-secrets over every tracked file that is text, with all of its detectors."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / ".secrets.baseline"
"""What looks like a secret and is none: its hash, and for each file the reason."""
DIGESTS = re.compile(r"adapters/[^/]+/jade\.json")
"""Files whose hexadecimal texts are digests by design, new ones with every adapter."""
Found = dict[str, set[tuple[str, str]]]
"""File → (kind, SHA-1 of what was found)."""


def tracked() -> list[str]:
    """Return the files that git tracks or is about to, as long as they are there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing says which files are tracked")
    return [file for file in listed.stdout.split("\0") if file and (ROOT / file).is_file()]


def scan(files: Iterable[str], root: Path) -> Found:
    secrets = SecretsCollection()
    before = Path.cwd()
    os.chdir(root)  # names of files are part of what detectors look at
    try:
        with default_settings():
            for file in files:
                secrets.scan_file(file)
    finally:
        os.chdir(before)
    found = {file: {(one["type"], one["hashed_secret"]) for one in these} for file, these in secrets.json().items()}
    for file in filter(DIGESTS.fullmatch, list(found)):
        found[file] = {one for one in found[file] if one[0] != "Hex High Entropy String"}
    return {file: these for file, these in found.items() if these}


def test_no_tracked_file_holds_a_secret() -> None:
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    known = {
        file: {(one["type"], one["hashed_secret"]) for one in entries} for file, entries in baseline["results"].items()
    }
    files = [file for file in tracked() if ROOT / file != BASELINE]
    assert len(files) > 300
    found = scan(files, ROOT)
    new = {file: sorted(kind for kind, _ in found[file] - known.get(file, set())) for file in found}
    assert {file: kinds for file, kinds in new.items() if kinds} == {}, (
        "these look like secrets; take them out, or add them by `python -m tests.test_secrets` after looking at each"
    )
    stale = {file: len(known[file] - found.get(file, set())) for file in known}
    assert {file: count for file, count in stale.items() if count} == {}, "the baseline names what is gone"
    reasons = baseline["reasons"]
    assert [file for file in known if not reasons.get(file, "").strip()] == [], "say why, in the baseline's reasons"
    assert set(reasons) == set(known), "the baseline gives reasons for what is gone"


def test_secrets_of_several_kinds_are_seen(tmp_path: Path) -> None:
    texts = {
        "aws.py": "key = '" + "AKIA" + "IOSFODNN7EXAMPLF" + "'\n",
        "key.pem": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n",
        "url.yaml": "url: https://user:" + "hunter2secret" + "@example.org/x\n",
        "hub.sh": "export GITHUB_TOKEN=ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8" + "\n",
        "clean.py": "name = 'SmolLM2-135M-Instruct'\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = scan(sorted(texts), tmp_path)
    assert sorted(found) == ["aws.py", "hub.sh", "key.pem", "url.yaml"]
    assert {kind for kind, _ in found["key.pem"]} == {"Private Key"}


def main() -> None:
    """Write the baseline anew: everything that is found now counts as looked at, and wants a reason."""
    found = scan([file for file in tracked() if ROOT / file != BASELINE], ROOT)
    results = {
        file: [{"type": kind, "hashed_secret": digest} for kind, digest in sorted(entries)]
        for file, entries in sorted(found.items())
    }
    given = json.loads(BASELINE.read_text(encoding="utf-8"))["reasons"]
    written = {"reasons": {file: given.get(file, "") for file in results}, "results": results}
    BASELINE.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
