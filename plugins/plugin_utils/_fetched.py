# Copyright: Contributors to the keyward.pki project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private to keyward.pki: what lies behind the URLs that certificates name, as the controller gets it; may change in any release.

Whoever runs a CA decides which URLs its certificates name. So only http and https are fetched, redirects included; size, number and time
are bounded; and of the content only the CRLs and certificates in it are used.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import typing as t
import urllib.error
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.urls import open_url
from ansible_collections.keyward.pki.plugins.module_utils._errors import os_cause

SERVED, MISSING, UNREACHABLE, NOT_ASKED = "served", "missing", "unreachable", "not asked"
SCHEMES = ("http", "https")
MOST_URLS = 50
TIMEOUT = 10.0  # seconds that a server may be silent
DEADLINE = 30.0  # seconds for all URLs together
MOST_BYTES = 128 * 1024 * 1024  # for all URLs together, shared equally
_AT_ONCE, _MOST_REDIRECTS, _CHUNK = 8, 3, 64 * 1024


class Fetched(t.NamedTuple):
    """C(why): a clause, where nothing was served."""

    state: str
    content: bytes = b""
    why: str = ""


class _TooMuch(Exception):
    pass


def fetched(urls: t.Iterable[str]) -> dict[str, Fetched]:
    wanted = list(dict.fromkeys(urls))
    found = {url: Fetched(NOT_ASKED, why=_why_not(url)) for url in wanted if _why_not(url)}
    asked = [url for url in wanted if url not in found]
    found.update({url: Fetched(NOT_ASKED, why=f"more than {MOST_URLS} URLs are named") for url in asked[MOST_URLS:]})
    found.update(_Round(asked[:MOST_URLS]).results())
    return found


def _why(cause: object) -> str:
    if isinstance(cause, socket.gaierror):
        return "the name of its host is not known here"
    if isinstance(cause, TimeoutError):
        return f"it does not answer within {TIMEOUT:g} seconds"
    if isinstance(cause, ssl.SSLError):
        return "its TLS certificate is not trusted here"
    return os_cause(cause) if isinstance(cause, OSError) else "it can't be reached"


def _why_not(url: str) -> str:
    try:
        scheme = urlsplit(url).scheme.lower() if url.isascii() and url.isprintable() else ""
    except ValueError:  # http://[::1
        scheme = ""
    return "" if scheme in SCHEMES else f"its scheme is {scheme or 'unknown'}, and only http and https are looked at"


class _Round:
    """Fetch all at once, each in a thread of its own; nobody waits for one beyond the deadline."""

    def __init__(self, urls: t.Sequence[str]) -> None:
        self._urls, self._most = urls, MOST_BYTES // max(len(urls), 2)
        self._places = threading.Semaphore(_AT_ONCE)
        self._found: dict[str, Fetched] = {}
        self._ends = time.monotonic() + DEADLINE

    def results(self) -> dict[str, Fetched]:
        threads = [threading.Thread(target=self._one, args=(url,), daemon=True) for url in self._urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self._ends - time.monotonic()))
        late = Fetched(UNREACHABLE, why=f"it was not served whole within {DEADLINE:g} seconds")
        return {url: self._found.get(url, late) for url in self._urls}

    def _one(self, url: str) -> None:
        with self._places:
            if time.monotonic() < self._ends:
                self._found[url] = self._fetch(url)

    def _fetch(self, url: str) -> Fetched:
        try:
            for _number in range(_MOST_REDIRECTS + 1):
                if _why_not(url):
                    return Fetched(UNREACHABLE, why=f"it leads on to another place: {_why_not(url)}")
                try:
                    response = open_url(url, timeout=TIMEOUT, follow_redirects="no", use_netrc=False, decompress=False)
                except urllib.error.HTTPError as exc:
                    if not 300 <= exc.code < 400:
                        return Fetched(MISSING if 400 <= exc.code < 500 else UNREACHABLE, why=f"the server answers {exc.code}")
                    url = urljoin(url, str(exc.headers.get("Location") or "") if exc.headers else "")
                    continue
                return Fetched(SERVED, self._read(response))
            return Fetched(UNREACHABLE, why=f"it leads on more than {_MOST_REDIRECTS} times")
        except _TooMuch:
            return Fetched(UNREACHABLE, why=f"it serves more than {self._most} bytes")
        except OSError as exc:  # URLError is one, too
            return Fetched(UNREACHABLE, why=_why(getattr(exc, "reason", exc)))
        except (http.client.HTTPException, ValueError):
            return Fetched(UNREACHABLE, why="what answers there is no web server, or the URL is none")
        except Exception:  # pylint: disable=broad-exception-caught  # core's own, of no one class
            return Fetched(UNREACHABLE, why="it can't be reached")

    def _read(self, response: t.Any) -> bytes:
        parts, size = list[bytes](), 0
        while chunk := response.read(_CHUNK):
            parts.append(chunk)
            size += len(chunk)
            if size > self._most:
                raise _TooMuch
            if time.monotonic() > self._ends:
                raise TimeoutError
        return b"".join(parts)
