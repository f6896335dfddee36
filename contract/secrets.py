"""Keeps passwords in URLs out of everything that is stored, sent or logged.

The texts come from outside: the patterns are bounded, so that none takes long to search.
"""

import re

_PASSWORD = re.compile(
    r"""(?P<head>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:]{0,256}:)
        (?: [^\s/]* | (?!\d+(?:[/\s]|$))[^\s'"]{0,1024}? )  # with a slash only where it is no port
        @""",
    re.VERBOSE,
)
_PARAMETER = re.compile(r"(?P<head>[?&]password=)[^&\s]+", re.IGNORECASE)
_TOKEN = re.compile(r"(?P<head>\bhttps?://)[^\s/@:]{1,1024}@", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """`scheme://user:password@host` with `***` for the password; for HTTP a lone user name, which
    is where access tokens stand, is masked too, and so is a parameter `password=`."""
    text = _TOKEN.sub(r"\g<head>***@", _PASSWORD.sub(r"\g<head>***@", text))
    return _PARAMETER.sub(r"\g<head>***", text)
