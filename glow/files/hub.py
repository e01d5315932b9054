"""Models on the Hugging Face Hub: single files are fetched into its cache, and files of a folder are pushed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCHEME = "hf://"
REPOSITORY = r"[\w.-]+/[\w.-]+"
ADDRESS = re.compile(rf"{SCHEME}({REPOSITORY})(?:@([\w./-]+))?", re.ASCII)


def fetch(address: str, names: Sequence[str]) -> Path:
    """Return the folder of the Hub's cache with these files, all of one commit; download those that it lacks.

    Args:
        address: ``hf://USER/NAME``, or ``hf://USER/NAME@REVISION`` for a branch, a tag or a commit.
        names: The files. No other file is fetched.

    Raises:
        ValueError: for another address, or when the Hub does not have the files or does not answer.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address}: not an address of the Hub; give hf://USER/NAME or hf://USER/NAME@REVISION")
    repository, revision = match[1], match[2]
    from huggingface_hub import hf_hub_download  # its import takes time, and most loads need none

    folder = Path()
    with _errors_in_one_line(address):
        for name in names:
            folder = Path(hf_hub_download(repository, name, revision=revision)).parent
            revision = folder.name  # the commit, so that the next file is of the same one
    return folder


def push(folder: Path, names: Sequence[str], repository: str) -> str:
    """Upload files of a folder as one commit; return its address, ``hf://USER/NAME@COMMIT``.

    A repository that does not exist is made, and is private.

    Raises:
        ValueError: when the Hub refuses, or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _errors_in_one_line(f"{SCHEME}{repository}"):
        api = HfApi(library_name="glow-flows")
        api.create_repo(repository, private=True, exist_ok=True)
        operations = [CommitOperationAdd(name, folder / name) for name in names]
        commit = api.create_commit(repository, operations, commit_message="Export from glow")
    return f"{SCHEME}{repository}@{commit.oid}"


@contextmanager
def _errors_in_one_line(address: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{address}: the model has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{address}: no such model, or not one for you; `hf auth login` logs in") from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"{address}: not in the cache of the Hub, and the Hub cannot be reached") from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"{address}: not a model that glow exported: {error}") from error
    except Exception as error:  # of many families, which depend on the version of the client
        raise ValueError(f"{address}: the Hub cannot be reached, or refuses: {error}") from error
