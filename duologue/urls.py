"""Base URLs of services that settings name."""

from __future__ import annotations

from urllib.parse import urlsplit


def checked_url(url: str) -> str:
    """A base URL without its last slash; ValueError unless it is plain http(s)://host[:port]/path."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a base URL starts with http:// or https:// and a host")
    if parts.username or parts.password:
        raise ValueError("a base URL must not contain credentials")
    if parts.query or parts.fragment:
        raise ValueError("a base URL must not contain a query or fragment")
    return url.strip().rstrip("/")
