"""URLs in one form each, their registered domains, and the dates of versions. Knows no pages and no network.

Llama 3 (section 3.1.1): "URL-level de-duplication. [...] We keep the most recent version for pages corresponding to
each URL."
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

# set by those who link, read by those who count; the page is the same without
TRACKING = re.compile(
    r"^(?:utm_\w+|fbclid|gclid|gclsrc|dclid|msclkid|yclid|igshid|mc_[ce]id|_hsenc|_hsmi|mkt_tok|vero_id|ref_src|"
    r"spm|scid|wt_mc|cmpid|phpsessid|jsessionid|sid|sessionid|_ga|_gl|oly_(?:anon|enc)_id|share|s_cid)$",
    re.IGNORECASE,
)
_INDEX = re.compile(r"/(?:index|default)\.(?:html?|php|aspx?|jsp)$", re.IGNORECASE)
_SESSION = re.compile(r";jsessionid=[^/?#]*", re.IGNORECASE)
PORTS = {"http": 80, "https": 443}
NO_DATE = -(1 << 62)


def normalise(url: str) -> str:
    """One form for the URLs of one page: no scheme, www, port by default, fragment, tracking, index file, final slash.

    Raises:
        ValueError: not a URL of the web.
    """
    parts = urlsplit(url.strip())
    if parts.scheme.lower() not in PORTS or not parts.hostname:
        raise ValueError(f"url: found {url[:80]!r}, expected http:// or https:// and a host")
    host = parts.hostname.rstrip(".").lower().removeprefix("www.")
    host = host.encode("idna").decode() if not host.isascii() and len(host) < 64 else host
    port = f":{parts.port}" if parts.port not in (None, PORTS[parts.scheme.lower()]) else ""
    path = _INDEX.sub("/", _SESSION.sub("", quote(unquote(parts.path), safe="/:@!$&'()*+,;=~-._%")))
    pairs = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not TRACKING.match(k)]
    return urlunsplit(("", host + port, re.sub(r"/{2,}", "/", path).rstrip("/"), urlencode(sorted(pairs)), ""))[2:]


@cache
def _suffixes():
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)  # the list in the package, no network


@lru_cache(1 << 16)  # a crawl has millions of hosts
def _domain(host: str) -> str:
    return _suffixes()(host).top_domain_under_public_suffix or host


def domain(url: str) -> str:
    """The registered domain, "bbc.co.uk" of "http://news.bbc.co.uk/1"; "" where there is none."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return ""
    return _domain(host.rstrip(".")) if host else ""


def seconds(date: str | None) -> int:
    """A date as seconds since 1970, so that versions can be ordered; NO_DATE, the oldest, for what is no date."""
    if not date:
        return NO_DATE
    text = date.strip()
    for read in (datetime.fromisoformat, parsedate_to_datetime, _compact):
        try:
            moment = read(text)
        except (ValueError, TypeError, IndexError):
            continue
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return NO_DATE


def _compact(text: str) -> datetime:
    """14 digits, as archives write them, or a year alone."""
    return datetime.strptime(text, "%Y%m%d%H%M%S" if len(text) == 14 else "%Y-%m" if "-" in text else "%Y")
