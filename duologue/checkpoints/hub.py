"""Model repositories on the Hugging Face hub: fetch just the files that their config names.

Needs the `hub` extra and honours `HF_HUB_OFFLINE`, `HF_HOME` and the token of `hf auth login`. Each
way to fail is a `CheckpointError` that says what to do. Nothing else in the package uses a network
to find a model; local folders need none of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from duologue.checkpoints.errors import CheckpointError
from duologue.checkpoints.folder import MIMI_DEFAULT, MOSHI_DEFAULT, TOKENIZER_DEFAULT, read_json
from duologue.checkpoints.transformers_format import (
    PREPROCESSOR_FILE,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    is_transformers_config,
)

CONFIG_FILE = "config.json"


def fetch_repository(repo_id: str, revision: str | None = None) -> Path:
    """Local folder with a model repository's configuration and the files that it names.

    All files are of one commit. Weights must be there; a codec or tokenizer that the configuration
    does not name may be missing (loading it is then the error).
    """
    config = _fetch(repo_id, CONFIG_FILE, revision, required=False)
    values = read_json(config) if config is not None else {}
    commit = _commit(config) or revision
    if is_transformers_config(values):
        return _fetch_transformers(repo_id, commit)
    weights = _fetch(repo_id, values.get("moshi_name") or MOSHI_DEFAULT, commit)
    assert weights is not None
    defaults = {"mimi_name": MIMI_DEFAULT, "tokenizer_name": TOKENIZER_DEFAULT}
    for key, default in defaults.items():
        _fetch(repo_id, values.get(key) or default, commit, required=bool(values.get(key)))
    for key in ("mimi_config_name", "lora_name"):
        if name := values.get(key):
            _fetch(repo_id, name, commit)
    return weights.parent


def fetch_uri(uri: str, revision: str | None = None) -> Path:
    """Local path of `hf://owner/name/path/in/repository`, `file://path` or a plain path."""
    if uri.startswith("hf://"):
        owner, _, rest = uri.removeprefix("hf://").partition("/")
        name, _, path = rest.partition("/")
        if not (owner and name and path):
            raise CheckpointError(f"{uri}: expected hf://owner/name/path/in/repository")
        return fetch_file(f"{owner}/{name}", path, revision)
    path_ = Path(uri.removeprefix("file://"))
    if not path_.exists():
        raise CheckpointError(f"{path_}: no such file")
    return path_


def fetch_file(repo_id: str, name: str, revision: str | None = None) -> Path:
    """Local path of one file of a repository."""
    path = _fetch(repo_id, name, revision)
    assert path is not None
    return path


def _fetch_transformers(repo_id: str, commit: str | None) -> Path:
    single, index = WEIGHT_FILES
    weights = _fetch(repo_id, single, commit, required=False)
    if weights is None:
        weights = _fetch(repo_id, index, commit)
        assert weights is not None
        for shard in sorted(set(_weight_map(weights).values())):
            _fetch(repo_id, str(shard), commit)
    for name in (*TOKENIZER_FILES, PREPROCESSOR_FILE):
        _fetch(repo_id, name, commit, required=False)
    return weights.parent


def _weight_map(index: Path) -> Mapping[str, Any]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return dict(shards)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {error}") from error


def _commit(path: Path | None) -> str | None:
    """Commit of a file in the hub's cache, whose folders are .../snapshots/<commit>/."""
    if path is None or path.parent.parent.name != "snapshots":
        return None
    return path.parent.name


def _fetch(repo_id: str, name: str, revision: str | None, *, required: bool = True) -> Path | None:
    """Local path of a file; `None` if the repository has no such file and need not have it."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(
            f"{repo_id} is on the Hugging Face hub, which needs another package: "
            "pip install 'duologue[hub]' (or give a local folder)"
        ) from error
    where = f"{repo_id}" + (f" at {revision}" if revision else "")
    page = f"https://huggingface.co/{repo_id}"
    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, name, revision=revision))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} is gated: accept its terms at {page}, then run `hf auth login` or set "
            "HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo_id}: no such repository on the hub, or a private one: check the name at "
            f"{page}, or run `hf auth login` with an account that may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repo_id} has no revision {revision or 'main'}; see {page}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if not required and _cached_otherwise(repo_id):
            return None
        raise CheckpointError(_unreachable(where, repo_id, name, error.__cause__)) from error
    except errors.EntryNotFoundError as error:
        if not required:
            return None
        raise CheckpointError(
            f"{where} has no file {name}; see {page}/tree/{revision or 'main'}"
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is no hub id: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{name} of {where} could not be fetched: {error}") from error


def _cached_otherwise(repo_id: str) -> bool:
    """Whether other files of the repository are in the cache: this one is then just not in it."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/*"))


def _unreachable(where: str, repo_id: str, name: str, cause: BaseException | None) -> str:
    from huggingface_hub import constants

    get = f"hf download {repo_id} {name}"
    reason = str(cause).partition("\n")[0]
    if constants.HF_HUB_OFFLINE:
        return (
            f"{name} of {where} is not in the local cache, and HF_HUB_OFFLINE forbids fetching it: "
            f"unset it once, or run `{get}` on a connected machine and copy the cache here"
        )
    return (
        f"{name} of {where} is not in the local cache, and the hub gave no answer ({reason}): "
        f"check the network and proxy, or run `{get}` on a connected machine and copy the cache "
        "here"
    )
