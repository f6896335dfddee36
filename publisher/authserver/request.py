"""A request's body becomes the name of a method and its values."""

import re
import sys
from typing import Any
from xml.parsers.expat import ExpatError, errors
from xmlrpc.client import Fault, Unmarshaller

from defusedxml.common import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser

from mirrorfeed.contract.secrets import masked_start
from mirrorfeed.publisher.authserver.faults import FaultCode

MAX_DETAIL_LENGTH = 200
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# XML 1.0, 2.2 Characters.
_NO_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]++)|([0-9]++));")
_ENOUGH_DIGITS = 8  # the number of no character has so many
_BAD_CHARACTER = {
    errors.codes[errors.XML_ERROR_INVALID_TOKEN],
    errors.codes[errors.XML_ERROR_BAD_CHAR_REF],
}
_DECLARED_ENCODING = re.compile(
    rb"""(?:\xef\xbb\xbf)?<\?xml\s[^>]{0,200}?\bencoding\s*+=\s*+["']([\w.-]{1,40})["']""", re.ASCII
)
_UTF_16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}


def parse_call(body: bytes) -> tuple[str, tuple[Any, ...]]:
    """The method and its values. Raises Fault.

    Python's client sends any text as it is, also characters that XML cannot hold. They are taken as
    U+FFFD: a puller that reports a failure is not asked to clean its reason first.
    """
    try:
        try:
            name, values = _parsed(body)
        except ExpatError as error:
            if error.code not in _BAD_CHARACTER:
                raise
            name, values = _parsed(_with_xml_characters_only(body))
    except DefusedXmlException as error:
        raise Fault(
            FaultCode.INVALID_REQUEST,
            "the request has a document type declaration or entities: send it without them",
        ) from error
    except ExpatError as error:
        raise Fault(
            FaultCode.NOT_WELL_FORMED, f"the request is not well-formed XML: {error}"
        ) from error
    except Exception as error:  # the standard library raises many kinds on strange input
        detail = masked_start(str(error), MAX_DETAIL_LENGTH) or type(error).__name__
        raise Fault(
            FaultCode.INVALID_REQUEST, f"the request is not an XML-RPC call: {detail!r}"
        ) from error
    if name is None:
        raise Fault(
            FaultCode.INVALID_REQUEST, "the request is not an XML-RPC call: it has no method"
        )
    return name, values


def _parsed(document: bytes | str) -> tuple[str | None, tuple[Any, ...]]:
    unmarshaller = Unmarshaller()
    parser = DefusedExpatParser(unmarshaller, forbid_dtd=True)
    parser.feed(document)  # of a str, expat ignores the encoding that it declares
    parser.close()
    values = unmarshaller.close()
    return unmarshaller.getmethodname(), values


def _with_xml_characters_only(body: bytes) -> str:
    return _REFERENCE.sub(_valid_reference, _NO_CHARACTER.sub(REPLACEMENT, _decoded(body)))


def _valid_reference(reference: re.Match[str]) -> str:
    base, digits = (16, reference[1]) if reference[1] else (10, reference[2])
    number = int(digits.lstrip("0")[:_ENOUGH_DIGITS] or "0", base)
    is_valid = number <= sys.maxunicode and not _NO_CHARACTER.match(chr(number))
    return reference[0] if is_valid else REPLACEMENT


def _decoded(body: bytes) -> str:
    """The text as expat reads it, but with U+FFFD for what is broken.

    It knows UTF-8, UTF-16 and encodings of one byte a character, of which it asks only what each
    byte means. Other codecs may take more time than is proportional to the body's length.
    """
    if encoding := _UTF_16.get(body[:2]):
        return body.decode(encoding, "replace")
    declared = _DECLARED_ENCODING.match(body)
    name = declared[1].decode() if declared else "utf-8"
    if name.lower() != "utf-8":
        meanings = bytes(range(256)).decode(name, "replace")
        return body.decode("latin-1").translate(dict(enumerate(meanings)))
    return body.decode("utf-8", "replace")
