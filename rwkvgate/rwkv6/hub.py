"""Where a checkpoint's files lie: in a folder, or in a repository on the hub, which `snapshot_download` makes a folder.

All files of a load are of one commit. Only files of the given names are downloaded, so the code in a repository
never arrives here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from rwkvgate.rwkv6.files import restore_folder
from rwkvgate.rwkv6.layouts import CheckpointError

PAPER_MODEL = "RWKV/v6-Finch-1B6-HF"
"""The hub name of the paper's base model."""
REVISIONS = {PAPER_MODEL: "91af9d6"}
"""Commits that are loaded where no revision is given; of other repositories, the latest."""
HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
"""The options of `from_pretrained` that say where to look."""


class HubUnreachableError(CheckpointError):
    """The hub did not answer, and the cache lacks files."""


@dataclass(frozen=True)
class Folder:
    """A folder of files.

    Attributes:
        path: where it is.
        name: how errors name it, and where it comes from.
    """

    path: Path
    name: str

    @property
    def commit(self) -> str | None:
        """The full commit that the files are of; None where the folder is not part of the hub's cache."""
        for folder in (self.path, *self.path.parents):
            if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name):
                return folder.name
        return None

    def find(self, file: str) -> Path | None:
        """The file's path, or None where there is no such file."""
        path = self.path / file
        return path if is_there(path) else None

    def __str__(self) -> str:
        return self.name


def open_folder(name: str | PathLike[str], files: Sequence[str], subfolder: str = "", **options: Any) -> Folder:
    """The folder of that name, or else the repository of that name with its files downloaded into the cache.

    Args:
        name: a path, or a repository's name on the hub.
        files: names or patterns of the files to download from a repository.
        subfolder: a folder inside it.
        **options: `HUB_OPTIONS`.

    Raises:
        CheckpointError: a path that is no folder, or a download that failed.
        HubUnreachableError: the hub did not answer, and the cache lacks files.
    """
    text = fspath(name)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise CheckpointError(f"there is no folder {text}: its user is not known here") from None
    restore_folder(path)
    if is_there(path, Path.is_dir):
        return Folder(path / subfolder, str(path / subfolder))
    if is_there(path):
        raise CheckpointError(f"{path} is a file; give a folder or a name on the hub (a .pth file goes to load_pth)")
    if isinstance(name, PathLike) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise CheckpointError(
            f"there is no folder {path}" if path.name.isprintable() else f"there is no folder {text!r}"
        )
    revision = options.pop("revision", None) or REVISIONS.get(text, constants.DEFAULT_REVISION)
    # A revision that transformers has resolved is a string of a class of its own, which carries the commit.
    revision = getattr(revision, "resolved", revision)
    source = f"{text} at revision {revision!r}"
    if options.get("local_files_only") or constants.HF_HUB_OFFLINE:
        cache = options.get("cache_dir") or constants.HF_HUB_CACHE
        source = f"the cached copy of {source} in {cache} (offline, the hub was not asked)"
    patterns = [f"{subfolder}/{file}" if subfolder else file for file in files]
    try:
        revision = _full_commit(text, revision, options)
        path = Path(snapshot_download(text, revision=revision, allow_patterns=patterns, **options))
    except Exception as error:
        raise _in_words(error, text, revision, source) from error
    return Folder(path / subfolder, source)


def is_there(path: Path, kind: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether a path is a file, or of another kind; False where it is too long, loops or cannot be looked at."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _full_commit(name: str, revision: str, options: dict[str, Any]) -> str:
    """The commit that an abbreviated one stands for: the hub's addresses take full commits only."""
    if not re.fullmatch("[0-9a-f]{7,39}", revision):
        return revision
    cache = Path(options.get("cache_dir") or constants.HF_HUB_CACHE).expanduser()
    snapshots = cache / repo_folder_name(repo_id=name, repo_type="model") / "snapshots"
    commits = [path.name for path in snapshots.glob(f"{revision}*")]
    if not commits and not (options.get("local_files_only") or constants.HF_HUB_OFFLINE):
        history = HfApi().list_repo_commits(name, token=options.get("token"))
        commits = [one.commit_id for one in history if one.commit_id.startswith(revision)]
        if not commits:
            raise CheckpointError(f'{name} has no commit {revision}; revision="main" is the latest')
    return commits[0] if commits else revision


def _in_words(error: Exception, name: str, revision: str, source: str) -> CheckpointError:
    """The error that tells a user in one sentence what failed."""
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, GatedRepoError):
        return CheckpointError(f"{name} is open only to accounts that its owners admitted: give a token")
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return CheckpointError(
            f"{name} is neither a folder here nor a repository on the hub that is open to you; "
            "a private one needs a token"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f'{name} has no revision {revision!r}; "main" is the latest')
    if isinstance(error, LocalEntryNotFoundError) and "offline" in source:
        return HubUnreachableError(f"{source} lacks files")
    # Which HTTP library's errors arrive here depends on the version of the hub's library.
    if isinstance(error, LocalEntryNotFoundError) or re.search("Connect|Proxy", type(error).__name__):
        return HubUnreachableError(
            f"the cache lacks files of {source}, and the hub at {constants.ENDPOINT} cannot be reached: "
            f"{error.__cause__ or error}"
        )
    return CheckpointError(f"downloading {source} failed: {type(error).__name__}: {error}. Try again")
