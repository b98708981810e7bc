"""Where the files of a checkpoint lie: in a folder on this machine, or in a repository on the hub.

Files of the hub are taken from the cache that its own library keeps, all of one commit, and downloaded into it
one by one: what the cache holds is read without asking the hub, and a broken download leaves nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from rwkvgate.rwkv6.layouts import CheckpointError

PAPER_MODEL = "RWKV/v6-Finch-1B6-HF"
"""The hub name of the paper's base model."""
REVISIONS = {PAPER_MODEL: "91af9d6"}
"""Commits that are loaded where no revision is asked for; of other names, the latest."""
HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
"""The options of `from_pretrained` that say where to look."""


class HubUnreachableError(CheckpointError):
    """The hub gave no answer, and the cache lacks what was asked for."""


@dataclass
class Folder:
    """A folder on this machine."""

    path: Path

    @property
    def commit(self) -> str | None:
        """The commit, where the folder is one that the hub's library keeps."""
        kept = self.path.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", self.path.name)
        return self.path.name if kept else None

    def find(self, file: str) -> Path | None:
        """The file's path, or None where there is no such file."""
        path = self.path / file
        return path if path.is_file() else None

    def __str__(self) -> str:
        return str(self.path)


@dataclass
class Repository:
    """A repository on the hub at one commit: what the cache has of it, and the rest by download."""

    name: str
    revision: str
    options: dict[str, Any]
    subfolder: str = ""
    commit: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.offline = bool(self.options.get("local_files_only") or constants.HF_HUB_OFFLINE)
        self.cache = Path(self.options.get("cache_dir") or constants.HF_HUB_CACHE).expanduser()
        if re.fullmatch("[0-9a-f]{7,39}", self.revision):
            self.revision = self._whole_commit()

    def find(self, file: str) -> Path | None:
        """The file's path in the cache, downloaded where need be, or None where there is no such file.

        The first file found settles the commit that all others are taken from. Offline, what the cache lacks
        is taken not to exist.
        """
        file = f"{self.subfolder}/{file}" if self.subfolder else file
        revision = self.commit or self.revision
        if self.commit and not self.options.get("force_download"):
            known = try_to_load_from_cache(self.name, file, cache_dir=self.cache, revision=revision)
            if known is not None:
                return None if known is _CACHED_NO_EXIST else Path(str(known))
        try:
            with self._plain_errors(file):
                path = Path(hf_hub_download(self.name, file, **self.options | {"revision": revision}))
        except EntryNotFoundError:
            return None
        self.commit = path.parents[file.count("/")].name
        return path

    def _whole_commit(self) -> str:
        """The commit that an abbreviated one stands for: the hub's addresses take only whole ones."""
        folder = self.cache / repo_folder_name(repo_id=self.name, repo_type="model") / "snapshots"
        found = [path.name for path in folder.glob(f"{self.revision}*")]
        if not found and not self.offline:
            with self._plain_errors("its history"):
                listed = HfApi().list_repo_commits(self.name, token=self.options.get("token"))
            found = [one.commit_id for one in listed if one.commit_id.startswith(self.revision)]
            if not found:
                raise CheckpointError(f'{self.name} has no commit {self.revision}; revision="main" is the latest')
        return found[0] if found else self.revision

    @contextmanager
    def _plain_errors(self, file: str) -> Iterator[None]:
        """Say in one sentence what failed; that the file does not exist is let through."""
        at = f"{self.name} at revision {self.revision!r}"
        try:
            yield
        except LocalEntryNotFoundError as error:
            if self.offline:
                raise
            raise HubUnreachableError(
                f"{file} of {at} is not in the cache, and the hub at {constants.ENDPOINT} cannot be reached: "
                f"{error.__cause__ or error}"
            ) from None
        except EntryNotFoundError:
            raise
        except GatedRepoError:
            raise CheckpointError(f"{self.name} is open only to accounts that were let in: give a token") from None
        except (RepositoryNotFoundError, HFValidationError):
            raise CheckpointError(
                f"{self.name} is neither a folder here nor a repository on the hub that is open to you; "
                "a private one needs a token"
            ) from None
        except RevisionNotFoundError:
            raise CheckpointError(f'{self.name} has no revision {self.revision!r}; "main" is the latest') from None
        except Exception as error:  # which HTTP library raises here depends on the version of the hub's
            if re.search("Connect|Proxy", type(error).__name__):
                raise HubUnreachableError(f"the hub at {constants.ENDPOINT} cannot be reached: {error}") from None
            raise CheckpointError(
                f"reading {file} of {at} failed: {type(error).__name__}: {error}. Nothing of it was kept; try again"
            ) from error

    def __str__(self) -> str:
        asked = f"{self.name} at revision {self.revision!r}"
        return f"the cached copy of {asked} in {self.cache} (offline, the hub was not asked)" if self.offline else asked


def open_source(name: str | PathLike[str], subfolder: str = "", **options: Any) -> Folder | Repository:
    """Where a name or path leads: to the folder of that name if there is one, else to the hub.

    Raises:
        CheckpointError: a path that is no folder.
    """
    text = fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path / subfolder)
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give a folder or a name on the hub (a .pth file goes to load_pth)")
    if isinstance(name, PathLike) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise CheckpointError(f"there is no folder {path}")
    revision = options.pop("revision", None) or REVISIONS.get(text, constants.DEFAULT_REVISION)
    # What transformers has resolved is a string that shows the revision asked for and carries its commit.
    return Repository(text, getattr(revision, "resolved", revision), options, subfolder)
