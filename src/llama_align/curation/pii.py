"""Personal data in text: what a pattern can find and a checksum confirm. Knows no names and no addresses of people.

Llama 3 (section 3.1.1): "we implement filters designed to remove data from websites [that] are likely to contain
unsafe content or high volumes of PII".
"""

import ipaddress
import re
from collections.abc import Callable

Span = tuple[int, int, str]  # start, end, kind

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){11,18}(?![\w-]|\.\d)")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])", re.IGNORECASE)
_SSN = re.compile(r"(?<![\w.-])(\d{3})([- ])(\d{2})\2(\d{4})(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"(?:(?<![\w+=])\+[1-9]|(?<![\w.,:/#=$€£-])(?=[\d(]))(?:"
    r"(?:(?<=\+[1-9])|00[1-9])\d{0,2}(?:[ .-]?\(0?\d{1,4}\))?(?:[ .-]?\d{1,5}){2,6}(?:[ .-]?\(?\d{2,4}\)?)?"
    r"|\(0?\d{2,4}\)[ .-]?\d{2,4}(?:[ .-]?\d{2,5}){1,3}"  # (area) number
    r"|(?:1[ .-])?\d{3}([ .-])\d{3}\1\d{4}"  # North America
    r"|0[1-9]\d{0,3}[ /-]?(?:\d{2,4}[ .-]){1,4}\d{2,5}"  # a leading zero and groups
    r")(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\w]|[.,/:-]\d)"
)
_PHONE_AFTER_WORD = re.compile(
    r"(?:phone|tel|call|mobile|cell|fax|whatsapp|text)(?:\w*|\.)[^\d+(]{1,15}"
    r"((?:\+?\d|\(\d)[\d ().-]{5,17}\d)(?![\w-])",
    re.IGNORECASE,
)
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "ES": 24, "FI": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24,
    "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29,
    "VG": 24, "XK": 20,
}  # fmt: skip
PLACEHOLDERS = {
    "email": "email@example.com",
    "phone": "+1-555-0100",
    "ip": "192.0.2.1",
    "card": "4111 1111 1111 1111",
    "iban": "GB00 EXAM 0000 0000 0000 00",
    "ssn": "000-00-0000",
}
KINDS = tuple(PLACEHOLDERS)


def luhn(digits: str) -> bool:
    """The checksum of payment cards."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mod97(iban: str) -> bool:
    """The checksum of an IBAN without spaces, and the length its country gives it."""
    if IBAN_LENGTHS.get(iban[:2]) != len(iban):
        return False
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    # the networks' first digits; a run of one digit passes Luhn and is no card
    issued = digits[0] in "3456" or digits[:2] in ("22", "23", "24", "25", "26", "27", "18", "21")
    return 12 <= len(digits) <= 19 and len(set(digits)) > 1 and issued and luhn(digits)


def _is_ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    # what is the same in every house names nobody; a version number such as 1.2.3.4 may still pass
    return address.is_global and not (address.version == 6 and text.count(":") < 3 and "::" not in text)


def _is_ssn(text: str) -> bool:
    area, group, serial = re.split("[- ]", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _is_phone(text: str) -> bool:
    digits = re.sub(r"\D", "", re.sub(r"(?:x|ext).*", "", text))
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2


def _ibans(text: str) -> list[Span]:
    """An IBAN written in groups may run into the word behind it: its country says where it ends."""
    found = []
    for match in _IBAN.finditer(text):
        need, end, taken = IBAN_LENGTHS.get(match[0][:2].upper(), 99), match.start(), ""
        while end < match.end() and len(taken) < need:
            taken += "" if text[end] == " " else text[end]
            end += 1
        if mod97(taken.upper()) and not (end < len(text) and text[end].isalnum()):
            found.append((match.start(), end, "iban"))
    return found


# in this order: digits that a checksum has confirmed are not taken for a telephone
_FINDERS: tuple[tuple[str, re.Pattern, Callable[[str], bool]], ...] = (
    ("email", _EMAIL, lambda _: True),
    ("card", _CARD, _is_card),
    ("ssn", _SSN, _is_ssn),
    ("ip", _IP6, _is_ip),
    ("ip", _IP4, _is_ip),
    ("phone", _PHONE, _is_phone),
)


def find(text: str) -> list[Span]:
    """Spans of personal data, in order, none within another: email, phone, ip, card, iban, ssn."""
    taken: list[Span] = []
    if "@" not in text and not any(map(str.isdigit, text)):
        return taken
    candidates = _ibans(text)
    for kind, pattern, fits in _FINDERS:
        if kind == "email" and "@" not in text:
            continue
        candidates += [(m.start(), m.end(), kind) for m in pattern.finditer(text) if fits(m[0])]
    candidates += [(m.start(1), m.end(1), "phone") for m in _PHONE_AFTER_WORD.finditer(text) if _is_phone(m[1])]
    for start, end, kind in candidates:
        if all(end <= s or start >= e for s, e, _ in taken):
            taken.append((start, end, kind))
    return sorted(taken)


def replace(text: str, spans: list[Span]) -> str:
    """The text with examples in place of what was found, none of them anybody's."""
    out, last = [], 0
    for start, end, kind in spans:
        out += [text[last:start], PLACEHOLDERS[kind]]
        last = end
    return "".join([*out, text[last:]])


def share(text: str, spans: list[Span]) -> float:
    """Share of the words that are personal data."""
    return len(spans) / max(1, len(text.split()))
