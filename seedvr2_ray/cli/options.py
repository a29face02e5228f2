"""One command line option per field of :class:`RestoreSettings`, so that settings are defined once."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import typer

from seedvr2_ray.settings import RestoreSettings

SAID_OTHERWISE = frozenset({"excerpt"})
"""Settings without an option of their name: an excerpt is --from, --to and --frames, of the commands for one video."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's ``settings`` parameter by options that are named and explained as the fields are."""
    own = inspect.signature(command, eval_str=True).parameters
    kept = [parameter for parameter in own.values() if parameter.name != "settings"]
    options = _setting_options()

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in options}
        command(**arguments, settings=RestoreSettings.from_mapping(values))

    del run.__wrapped__  # typer would look through it at the old signature
    parameters = [*kept, *options.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def setting_docs() -> dict[str, str]:
    """Return the sentence that stands under each field of :class:`RestoreSettings`."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(RestoreSettings))).body
    assert isinstance(tree, ast.ClassDef)
    docs = {}
    for field, doc in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[field.target.id] = " ".join(str(doc.value.value).replace("``", "").split())
    return docs


def _setting_options() -> dict[str, inspect.Parameter]:
    hints, docs = get_type_hints(RestoreSettings), setting_docs()
    options = {}
    for field in fields(RestoreSettings):
        if field.name in SAID_OTHERWISE:
            continue
        hint = hints[field.name]
        if get_origin(hint) is Literal and isinstance(field.default, int):
            hint = int
        option = typer.Option(help=docs[field.name], rich_help_panel="Settings")
        options[field.name] = inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[hint, option],
        )
    return options
