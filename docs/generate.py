"""Write the reference pages that the code itself knows best: ``python -m docs.generate``.

The command line's from its parser, the HTTP API's from its OpenAPI document, the list of decisions from their titles.
A test says when they are older than the code. (The Python API's page is filled in by the site's builder.)
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from seedvr2_ray.cli.main import app
from seedvr2_ray.serve.config import ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.http.application import create_api
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.service.verbs import Service

DOCS = Path(__file__).parent
_METHODS = ("get", "head", "post", "put", "patch", "delete")


def pages() -> dict[Path, str]:
    """Return every generated page with its text, as it should be now."""
    return {
        DOCS / "reference" / "cli.md": "\n".join(_command_line()) + "\n",
        DOCS / "reference" / "http.md": "\n".join(_http_api(_openapi())) + "\n",
        DOCS / "decisions" / "index.md": "\n".join(_decisions()) + "\n",
    }


def _command_line() -> Iterator[str]:
    yield "# Command line\n"
    yield "Generated from the commands themselves; `seedvr2-ray COMMAND --help` says the same.\n"
    group: Any = typer.main.get_command(app)
    yield f"{group.epilog}\n"
    yield from _commands(group, "seedvr2-ray")


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        full_name = f"{path} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, full_name)
            continue
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
        yield f"## {full_name}\n"
        yield f"{_prose(command.help)}\n"
        words = [full_name, *(str(each.metavar or each.name.upper()) for each in arguments)]
        yield f"```\n{' '.join(words)}{' [OPTIONS]' if options else ''}\n```\n"
        if arguments or options:
            yield "| | | default |\n|---|---|---|"
            yield from (_parameter_row(each) for each in (*arguments, *options))
            yield ""


def _parameter_row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = "<br>".join(f"`{each}`" for each in (*parameter.opts, *parameter.secondary_opts))
    annotation = parameter.type_descriptor.annotation
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    words = _cell(parameter.help or "")
    if choices:
        words += f" One of {', '.join(f'`{each}`' for each in choices)}."
    if parameter.envvar:
        words += f" Also `{parameter.envvar}`."
    default = parameter.default
    is_said = default not in (None, False, "", ()) and not callable(default)
    return f"| {name} | {words} | {f'`{default}`' if is_said else ''} |"


def _openapi() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = ServiceConfig(
            data=f"{folder}/data",
            scratch=f"{folder}/scratch",
            auth=("none",),
            models={"nano": ModelPool()},
            default_model="nano",
        )
        database = open_database(f"sqlite:///{folder}/service.db")
        try:
            return create_api(Service(config, Secrets(), database)).openapi()
        finally:
            database.close()


def _http_api(document: dict[str, Any]) -> Iterator[str]:
    yield "# HTTP API\n"
    yield (
        "Generated from the service's OpenAPI document, which every running service has at `/openapi.json`. "
        "[API v1](../api.md) tells how the calls go together, with examples.\n"
    )
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                yield from _operation(path, method, operations[method])
    yield "# Values\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _schema(name, schema)


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {method.upper()} {path}\n"
    yield f"{_prose(operation.get('description') or operation['summary'])}\n"
    if operation.get("parameters"):
        yield "| parameter | in | | \n|---|---|---|"
        for each in operation["parameters"]:
            needed = "required" if each.get("required") else ""
            words = each.get("description") or _shape(each.get("schema", {}))
            yield f"| `{each['name']}` | {each['in']} | {_cell(words)} | {needed} |".replace(" |  |", " | |")
        yield ""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body: `{kind}`, {_shape(content.get('schema', {}))}\n"
    yield "| answer | |\n|---|---|"
    for status, answer in sorted(operation["responses"].items()):
        shapes = {_shape(content.get("schema", {})) for content in answer.get("content", {}).values()}
        yield f"| {status} | {_cell(answer['description'])} {', '.join(sorted(shapes - {''}))} |"
    yield ""


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    if schema.get("description"):
        yield f"{_prose(schema['description'])}\n"
    if schema.get("properties"):
        yield "| field | type | |\n|---|---|---|"
        for field, about in schema["properties"].items():
            yield f"| `{field}` | {_shape(about)} | {_cell(about.get('description', ''))} |"
        yield ""
    elif "enum" in schema:
        yield ", ".join(f"`{each}`" for each in schema["enum"]) + "\n"


def _shape(schema: dict[str, Any]) -> str:
    """Name a schema's type in a word or two; named ones link to their table."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_shape(each) for each in schema[word]))
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_shape(schema.get('items', {})) or 'values'}"
    return str(schema.get("format") or schema.get("type", ""))


def _decisions() -> Iterator[str]:
    yield "# Decisions\n"
    yield "Why things are as they are, where a later reader would ask.\n"
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        yield f"* [{title}]({path.name})"


def _prose(text: str | None) -> str:
    """Take a docstring's paragraphs as Markdown: one line each."""
    paragraphs = re.split(r"\n\s*\n", (text or "").strip())
    return "\n\n".join(" ".join(each.split()).replace("``", "`") for each in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    for page, text in pages().items():
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
