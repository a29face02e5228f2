"""What a customer reads of an error: nothing of this machine's folders, and the API's fields in place of options.

The layers below word their errors for whoever runs them by hand: with the path that was opened and the option that
helps. Every sentence passes here before it leaves the service, so that none of them has to know who reads it. Settings
have one name everywhere, which is what makes their options translatable.
"""

import re
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from seedvr2_ray.errors import DeploymentError, StorageError
from seedvr2_ray.settings import RestoreSettings

OURS = (StorageError, DeploymentError)
"""Errors of which a customer learns that they are ours, and nothing else: they name stores, hosts and files."""
OF_OUR_OWN = "the service could not do this for a reason of its own, which its log names"

_OPTION_IN_BRACKETS = re.compile(r"\s*\(--[a-z][a-z-]*\)")
_OPTION = re.compile(
    r"(?:\b(?P<verb>pass|use|with|by|set|raise)\s+)?--(?P<name>[a-z][a-z-]*)(?:[ =](?P<value>[\w.:]+))?"
)
_COMMAND = re.compile(r"`?\bseedvr2-ray(?: [a-z0-9][\w.-]*)+`?")
_URL_FOLDERS = re.compile(r"\b(?!https?:)[a-z][a-z0-9+.-]*://(?:[^\s'\"]*/)?", re.IGNORECASE)
_FOLDERS = re.compile(r"(?<![\w/:.~*])/(?!v\d/)(?:[^/\s'\":;,]+/)+")
"""Everything of an absolute path but its last name. Routes of the API begin with their version."""
_ROOT_FILE = re.compile(r"(?<![\w/:.~*])/(?!v\d\b)(?=[\w.-]+\.\w)")
_HINTS = get_type_hints(RestoreSettings)
_FIELDS = {field.name.replace("_", "-"): field.name for field in fields(RestoreSettings)}


def for_customers(text: str, *, folders: tuple[str, ...] = ()) -> str:
    """Word a sentence of ours for whoever uses the API.

    Args:
        folders: of this deployment; what lies below them loses everything but its own name, spaces in it included.
    """
    for folder in sorted((folder.rstrip("/") for folder in folders), key=len, reverse=True):
        text = re.sub(rf"{re.escape(folder)}(?:/[^/\s]+)*/", "", text) if folder else text
    text = _ROOT_FILE.sub("", _FOLDERS.sub("", _URL_FOLDERS.sub("", text)))
    text = _OPTION_IN_BRACKETS.sub("", text)
    text = _OPTION.sub(_as_field, text)
    return _COMMAND.sub("the operator", text)


def explained(error: BaseException, *, folders: tuple[str, ...] = ()) -> str:
    """Return what a customer is told of one of our errors."""
    return OF_OUR_OWN if isinstance(error, OURS) else for_customers(str(error), folders=folders)


def _as_field(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"] or ""
    field = _FIELDS.get(name)
    after = f" {value}" if value else ""
    if field is None:
        return f"ask the operator{after}"
    verb = match["verb"] if match["verb"] in ("use", "with") else "set"
    hint: Any = _HINTS[field]
    if hint is bool:
        return f"{verb} {field}: true{after}"
    allowed = {str(choice) for choice in get_args(hint)} if get_origin(hint) is Literal else set[str]()
    if value in allowed or (value[:1].isdigit() and hint in (int, float, str)):
        return f"{verb} {field}: {value}"
    return f"{verb} {field}{after}"
