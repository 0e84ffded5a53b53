"""Question files on the Hugging Face hub, by address: hf://datasets/OWNER/NAME[@REVISION]/PATH.

Fetched into the hub's own cache, where the next use finds them without a network. JSON files alone: in the formats of
`evaluation.formats`, such as FlashRAG's hf://datasets/RUC-NLPIR/FlashRAG_datasets/nq/dev.jsonl.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from agents.errors import ConfigError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+\.jsonl?(?:\.gz)?)")


def hub_file(address: str) -> Path:
    """Return the local copy of a file on the hub, or on the mirror that HF_ENDPOINT names.

    Raises:
        ConfigError: It is no such address, or the hub does not deliver the file.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ConfigError(
            f"{address!r} names no question file on the hub; give hf://datasets/OWNER/NAME/PATH, ending in .json or "
            ".jsonl, such as hf://datasets/RUC-NLPIR/FlashRAG_datasets/nq/dev.jsonl"
        )
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    name, revision, path = found.groups()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        return Path(hf_hub_download(name, path, repo_type="dataset", revision=revision, endpoint=endpoint))
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, httpx.HTTPError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the hub did not deliver {address} ({first}); check the address and the network, or download the file "
            "elsewhere and give its path"
        ) from error
