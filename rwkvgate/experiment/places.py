"""Places that a setting names: the checkout, and paths that start there."""

from __future__ import annotations

from pathlib import Path

from rwkvgate.gate.validation import SettingsError, shown


def project_root() -> Path:
    """The checkout: the nearest folder, from here upward, that holds `params/cpu.yaml`.

    papermill keeps its caller's working directory, nbval uses the notebook's folder and Colab
    `/content`, so relative paths need this look-up. If the working directory is in no checkout, it is
    the one that the package was imported from, and for an installed wheel the working directory.
    """
    package = Path(__file__).resolve().parents[1]
    for start in (Path.cwd(), package.parent):
        for folder in (start, *start.parents):
            if (folder / "params" / "cpu.yaml").is_file():
                return folder
    return Path.cwd()


def place(path: str) -> Path:
    """The absolute path of a path in a setting; a relative one starts at the checkout.

    Raises:
        SettingsError: it begins with ~ and a name that no user has.
    """
    try:
        given = Path(path).expanduser()
    except RuntimeError:
        user = path.partition("/")[0]
        raise SettingsError(f"{shown(path)}: there is no home folder for {user}; write the path in full") from None
    return given if given.is_absolute() else project_root() / given


def place_or_name(given: str) -> str:
    """The absolute path of a folder that exists; otherwise the string itself, a name on the hub."""
    folder = place(given)
    return str(folder) if folder.is_dir() else given
