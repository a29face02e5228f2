"""How both clients reach a service."""

import os
from typing import Any

import httpx

import seedvr2_ray
from seedvr2_ray.errors import SettingsError

KEY_VARIABLE = "SEEDVR2_API_KEY"


def http_options(url: str, key: str | None) -> dict[str, Any]:
    """Return what ``httpx.Client`` or ``httpx.AsyncClient`` is made with.

    Raises:
        SettingsError: the address is none.
    """
    address = httpx.URL(url)
    if address.scheme not in ("http", "https") or not address.host:
        raise SettingsError(f"{url!r} is no address of a service; it looks like http://127.0.0.1:8000")
    key = key or os.environ.get(KEY_VARIABLE)
    headers = {"User-Agent": f"seedvr2-ray/{seedvr2_ray.__version__}"}
    return {
        "base_url": address,
        "headers": headers | ({"Authorization": f"Bearer {key}"} if key else {}),
        # A service may leave results to its object store; the key does not follow to another host.
        "follow_redirects": True,
        # Writing a piece of an upload, or planning an estimate, may take a while; finding nobody there may not.
        "timeout": httpx.Timeout(120.0, connect=10.0),
    }
