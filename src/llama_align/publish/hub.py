"""Repositories on the Hub: who may write, whether they are private, and commits of exactly the files that are meant.

The token is that of the environment or the login; nothing here takes, prints or writes one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

from .files import Item, ours
from .licences import Origin, check_terms

LOGIN = "set HF_TOKEN in the environment, or `hf auth login`"


@dataclass(frozen=True)
class Target:
    """Where something goes.

    Args:
        repo: `user/name`, or a name alone for the user's own. revision: a branch, which is made where there is none.
        public: whether everybody may see it. licence: where the base says none. base: of an adapter, on the Hub.
        gated: `auto` or `manual`; None: as the base's is.
    """

    repo: str
    revision: str | None = None
    public: bool = False
    licence: str | None = None
    base: str | None = None
    gated: str | None = None


def prepare(target: Target, origin: Origin | None, kind: str = "model") -> str:
    """Finds out who writes, makes the repository where there is none, and returns its full name.

    Args:
        origin: what others made that this is made from. kind: `model` or `dataset`.

    Raises:
        ValueError: no token or one that may only read, the Hub refuses, a repository that is public unasked, or what
            the base's licence asks is not kept.
    """
    if constants.is_offline_mode():
        raise ValueError("HF_HUB_OFFLINE: found 1, expected it unset; nothing can be published offline")
    api = HfApi()
    try:
        me = api.whoami()
    except LocalTokenNotFoundError:
        raise ValueError(f"token of the Hub: found none, expected one; {LOGIN}") from None
    except HfHubHTTPError as error:
        raise ValueError(f"token of the Hub: refused ({_status(error)}), expected one that is valid; {LOGIN}") from None
    except HTTPError as error:  # which is no OSError where there is no answer
        raise ValueError(f"{constants.ENDPOINT}: found no Hub there ({type(error).__name__}: {error})") from None
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"token of the Hub: found one of {me['name']} that may only read, expected one that may write")
    repo = target.repo if "/" in target.repo else f"{me['name']}/{target.repo}"
    check_terms(origin, repo, target.licence)
    try:
        api.create_repo(repo, private=not target.public, repo_type=kind, exist_ok=True)
        found = api.repo_info(repo, repo_type=kind)
        if not target.public and not found.private:
            raise ValueError(f"{repo}: found a public repository, expected a private one, or to be told --public")
        if target.public and found.private:  # with all that was published in it before
            raise ValueError(f"{repo}: found a private repository, expected a public one; its settings make it one")
        if gated := target.gated or _gate(api, origin):
            api.update_repo_settings(repo, gated=gated, repo_type=kind)
    except HfHubHTTPError as error:
        raise ValueError(f"{repo}: refused by the Hub ({_status(error)}) for {me['name']}") from error
    return repo


def _gate(api: HfApi, origin: Origin | None) -> str | None:
    """How the base is gated, so that what is made from it is as well."""
    if not origin or not origin.base_model:
        return None
    try:
        return getattr(api.model_info(origin.base_model), "gated", None) or None
    except HfHubHTTPError:  # not on this Hub, or no longer
        return None


def _status(error: HfHubHTTPError) -> str:
    return f"{error.response.status_code}" if error.response is not None else type(error).__name__


def commit(repo: str, items: Sequence[Item], message: str, revision: str | None = None, kind: str = "model") -> str:
    """Makes a branch hold these files and returns the commit; nothing is sent that is there already.

    Files of our kinds that are not among them are removed, those of others stay. What an upload that broke off has sent
    is not sent again.
    """
    api = HfApi()
    if revision:
        api.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True)
    paths = {item.path for item in items}
    there = api.list_repo_files(repo, revision=revision, repo_type=kind)
    old = [path for path in there if path not in paths and ours(path)] if kind == "model" else []
    operations = [CommitOperationDelete(path) for path in old]
    operations += [CommitOperationAdd(item.path, _readable(item)) for item in items]
    done = api.create_commit(repo, operations, commit_message=message, revision=revision, repo_type=kind)
    return done.oid


def _readable(item: Item) -> bytes | str:
    return item.source if isinstance(item.source, bytes) else str(item.source)


def address(repo: str, kind: str = "model") -> str:
    """Where a browser finds it."""
    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
