"""Keeps passwords and tokens out of everything that is stored, sent or logged.

The texts come from outside, and somebody may have made them slow to search. So no pattern here can
look at a character more than a few times: repetitions are possessive, and every match begins with a
literal. Long texts are cut before they are searched.
"""

import re
from collections.abc import Iterator

MASK = "***"
HTTP = ("http", "https")

# The end of a scheme; percent-encoded if the URL is a parameter of another one.
_AUTHORITY = re.compile(r"://|%3A%2F%2F", re.IGNORECASE)
_SCHEME_LENGTH = 5
_UNTIL_SLASH = re.compile(r"[^\s/]*+")
_UNTIL_ENCODED_SLASH = re.compile(r"(?:[^\s/&%]|%(?!2F))*+", re.IGNORECASE)
_BREAK = re.compile(r"[\s'\"]")
_PORT = re.compile(r"\d++(?![^/\s?#])")

# A value ends where a parameter, a word or a quotation does.
_VALUE = r"""(?:'[^']*+'? | "[^"]*+"? | [^&;,\s'"%]*+(?:%(?!26)[^&;,\s'"%]*+)*+)"""
_PARAMETER = re.compile(
    rf"""(?P<head>
        (?: token | passw(?:or)?d | passphrase | pwd | secret | credentials? | signature | api_?key
          | (?<=[?&;/_-])(?:key|sig|auth|pass)
        )
        (?: = | %3D | ['"]\s?:\s? )
        | (?<=-)token\s?:\s?                                            # a custom header
        | --(?:password|token|secret|api-key) (?: \s | ['"],\s?(?=['"]) )  # an argument
    )(?!\*\*\*){_VALUE}""",
    re.VERBOSE | re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"""(?P<head>\bAuthorization['"]?\s?[:=]\s?['"]?(?:(?:Basic|Bearer|Token|Digest)\s++)?+)"""
    r"(?!\*\*\*)[^\s,'\"]++",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(
    r"""(?P<head>\b(?i:Basic|Bearer)\s++)
        (?!\*\*\*)(?![A-Za-z]?[a-z]++(?![\w+/=.~-]))[\w+/=.~-]{6,}+""",  # a plain word is prose
    re.VERBOSE,
)


def mask_secrets(text: str) -> str:
    """The text with `***` in place of secrets.

    These are the userinfo of an HTTP URL, the password in any other URL, the value of a parameter
    whose name says that it is secret (`token=`, `password=`, `X-Amz-Signature=`), and credentials
    in an `Authorization` header. The time taken is proportional to the text's length.
    """
    text = "".join(_without_userinfo(text))
    text = _AUTHORIZATION.sub(rf"\g<head>{MASK}", text)
    text = _CREDENTIALS.sub(rf"\g<head>{MASK}", text)
    return _PARAMETER.sub(rf"\g<head>{MASK}", text)


def masked_start(text: str, length: int) -> str:
    """The first `length` characters without secrets, at a cost that depends on `length` alone.

    A secret that is cut in two would not be recognised. So if the cut goes through a word, the word
    is dropped from the point where a secret in it could begin.
    """
    if len(text) <= 2 * length:
        return mask_secrets(text)[:length]
    start = text[: 2 * length]
    words_end = max(start.rfind(space) for space in " \t\n")
    cut_word = start[words_end + 1 :]
    sign = re.search(r"[:=%@]", cut_word)
    kept = cut_word[: sign.start()] if sign else ("" if words_end >= 0 else cut_word)
    return mask_secrets(start[: words_end + 1] + kept)[:length]


def _without_userinfo(text: str) -> Iterator[str]:
    done = 0
    word_end = at_sign = -1
    for separator in _AUTHORITY.finditer(text):
        begin = separator.end()
        if begin < done:
            continue
        is_encoded = separator[0] != "://"
        at, until = ("%40", _UNTIL_ENCODED_SLASH) if is_encoded else ("@", _UNTIL_SLASH)
        end = until.match(text, begin).end()  # type: ignore[union-attr]  # it also matches nothing
        user_end = text.rfind(at, begin, end)
        if user_end < 0 and not is_encoded:
            # Perhaps a password with a slash in it: then what follows the colon is not a port.
            colon = text.find(":", begin, end)
            if colon < 0 or _PORT.match(text, colon + 1):
                continue
            # The next break and the next @ are looked up once for everything before them.
            if word_end < end:
                found = _BREAK.search(text, end)
                word_end = found.start() if found else len(text)
            if at_sign < end:
                at_sign = text.find("@", end)
                at_sign = len(text) if at_sign < 0 else at_sign
            user_end = at_sign if at_sign < word_end else -1
        if user_end < 0:
            continue
        scheme = text[max(done, separator.start() - _SCHEME_LENGTH) : separator.start()].lower()
        colon = text.find("%3A" if is_encoded else ":", begin, user_end)
        if scheme.endswith(HTTP):
            yield text[done:begin] + MASK
        elif colon >= 0:
            yield text[done : colon + (3 if is_encoded else 1)] + MASK
        else:
            continue  # a user name alone, as in ssh://git@host
        done = user_end
    yield text[done:]
