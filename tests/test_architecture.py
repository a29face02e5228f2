"""Who may import whom, and which names say nothing: read from the source and enforced."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "seedvr2_ray"
OUTSIDE = ("examples", "training", "benchmarks", "jobs", "notebooks")
"""Top-level folders that use the package and that the package must not know."""

MAX_LINES = 400
MAX_TEST_LINES = 450
MAX_FUNCTION_LINES = 80
MAX_FILES = 15
BANNED_MODULES = {"utils", "helpers", "common", "misc"}
BANNED_SUFFIXES = ("Manager", "Handler", "Processor", "Helper")
BANNED_WORDS = {
    "film": "video",
    "films": "videos",
    "patience": "timeout, deadline or tries",
    "news": "event",
    "beat": "heartbeat",
    "came": "received",
    "took": "received",
    "appraisal": "estimate",
    "tidying": "scratch cleanup",
    "belonging": "artifact kind",
    "making": "in progress",
    "outside": "egress",
    "observing": "instrumentation",
    "heap": "allocator",
}
"""Words of our own for which the field has one: see docs/glossary.md."""
WORDS_ELSEWHERE = (
    # A picture's rectangle, or what lies between quotation marks: no network.
    "seedvr2_ray.media.stills.exif",
    "seedvr2_ray.serve.http.inline_media",
)
"""Modules whose identifiers may have them, and why."""
BANNED_IN_DOCUMENTS = ("film", "films", "patience", "appraisal", "tidying", "LostClaim", "Belonging")
METRICS = re.compile(r"`_?(?:ray_)?(?:seedvr2_)?films(?:_total)?`")
"""Names of metrics stay as they are: dashboards know them."""


@dataclass(frozen=True)
class Layer:
    """What one part of the package may import."""

    ours: frozenset[str]
    third_party: frozenset[str]


def _layer(ours: str, third_party: str) -> Layer:
    return Layer(frozenset(ours.split()), frozenset(third_party.split()))


_BELOW_RESTORATION = "errors frames excerpts settings models media storage"
_BELOW_GANG = f"{_BELOW_RESTORATION} restoration telemetry"
LAYERS = {
    "errors": _layer("", ""),
    "frames": _layer("errors", "torch"),
    "excerpts": _layer("errors", ""),
    "settings": _layer("errors excerpts", ""),
    "html": _layer("", ""),
    # Its names are loaded when they are used.
    "__init__": _layer("errors frames settings client api restoration", ""),
    # fsspec: weights come from object-store mirrors too.
    "models": _layer("errors settings", "torch safetensors huggingface_hub fsspec flash_attn flash_attn_interface"),
    # The libraries for still images are loaded when the first one is read.
    "media": _layer(
        "errors frames settings",
        "av numpy torch scenedetect PIL pillow_heif pillow_jxl imagecodecs simplejpeg tifffile",
    ),
    "storage": _layer("errors", "fsspec"),
    # PyAV's frames pass through here as values between media's converter and its encoder; the report has templates
    # and draws on pictures.
    "restoration": _layer(_BELOW_RESTORATION, "torch av jinja2 markupsafe PIL"),
    "telemetry": _layer("errors", "ray"),
    # Runs where neither torch nor Ray is.
    "client": _layer("errors settings html", "httpx anyio pydantic"),
    # What Python programs and notebooks use; batch, and Ray with it, inside the one function that needs them.
    "api": _layer(f"{_BELOW_GANG} batch html", "torch av PIL rich"),
    "gang": _layer(_BELOW_GANG, "torch ray"),
    # PyAV's packets and frames pass through from demuxer to muxer.
    "live": _layer(_BELOW_RESTORATION + " restoration", "av numpy torch"),
    "serve": _layer(
        f"{_BELOW_GANG} gang live",
        "torch ray fastapi starlette pydantic sqlalchemy alembic fsspec httpx httpcore limits jwt standardwebhooks "
        "sse_starlette python_multipart pythonjsonlogger opentelemetry sentry_sdk anyio uvicorn",
    ),
    "batch": _layer(f"{_BELOW_GANG} gang local_ray", "torch ray pyarrow fsspec"),
    # Before Ray is imported it must be told whom to listen to.
    "local_ray": _layer("errors", ""),
    # Manifests deploy the service, so their checks read its configuration.
    "cluster": _layer("errors models serve", "ray yaml pydantic jsonschema kubernetes kubernetes_validate urllib3"),
    # The command line imports serve, batch and Ray inside the commands that need them.
    "cli": _layer(
        f"{_BELOW_GANG} gang live local_ray api batch serve cluster", "torch av ray typer click rich yaml pydantic"
    ),
    "__main__": _layer("cli", ""),
}


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute dotted name."""

    module: str
    line: int
    is_star: bool


def imports_of(module: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """Yield every import of a module, those inside functions and ``if TYPE_CHECKING`` included."""
    parents = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, False)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            base = parents[: len(parents) - up] if node.level else []
            stem = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                # "from package import layer" names a module where the package has one of that name.
                inside = f"{stem}.{alias.name}" if stem == PACKAGE and alias.name in LAYERS else stem
                yield Import(inside, node.lineno, alias.name == "*")


def import_violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Say which imports of one module the table forbids."""
    layer_name = module.split(".")[1] if "." in module else "__init__"
    layer = LAYERS.get(layer_name)
    if layer is None:
        return [f"{module} belongs to no layer of the table; add it there, with what it may import"]
    found = []
    for item in imports_of(module, source, is_package=is_package):
        where = f"{module}:{item.line}"
        top, _, rest = item.module.partition(".")
        if item.is_star:
            found.append(f"{where} imports * from {item.module}")
        if top == PACKAGE:
            target = rest.split(".")[0] or "__init__"
            if target not in {layer_name, "__init__", *layer.ours}:
                found.append(f"{where} {layer_name} must not import {PACKAGE}.{target}")
        elif top in OUTSIDE or top == "tests":
            found.append(f"{where} the package must not import {top}")
        elif top not in sys.stdlib_module_names and top not in layer.third_party:
            found.append(f"{where} {layer_name} must not import {top}")
    return found


def name_violations(module: str, source: str) -> list[str]:
    """Say which module and class names say nothing, and whether the file has grown too long."""
    found = [f"{module} is called {part}" for part in module.split(".") if part in BANNED_MODULES]
    # A migration is one list of tables, frozen once it is released.
    is_test = module.startswith("tests") or ".migrations.versions" in module
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_SUFFIXES):
            found.append(f"{module}:{node.lineno} class {node.name} says nothing with its last word")
        if not is_test and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(
                    f"{module}:{node.lineno} {node.name} has {length} lines; {MAX_FUNCTION_LINES} is the limit"
                )
    num_lines, limit = source.count("\n"), MAX_TEST_LINES if is_test else MAX_LINES
    if num_lines > limit:
        found.append(f"{module} has {num_lines} lines; {limit} is the limit")
    return found


def word_violations(module: str, source: str) -> list[str]:
    """Say which names that a module gives hold a word for which the field has another."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.arg):
            name = node.arg
        else:
            continue
        for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
            if word.lower() in BANNED_WORDS:
                found.append(f"{module}:{node.lineno} {name}: say {BANNED_WORDS[word.lower()]}")
    return found


def _modules(*folders: str) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_imports_go_in_one_direction() -> None:
    found = [
        violation
        for module, path in _modules(PACKAGE)
        for violation in import_violations(module, path.read_text(), is_package=path.name == "__init__.py")
    ]
    assert found == [], "\n".join(found)


def test_the_table_itself_has_no_cycle() -> None:
    TopologicalSorter({name: layer.ours for name, layer in LAYERS.items()}).prepare()


def _room(module: str) -> list[str]:
    """Return the folder of a module as names from the top down."""
    parts = module.split(".")
    return parts if (ROOT / Path(*parts)).is_dir() else parts[:-1]


def test_rooms_beside_each_other_do_not_import_in_a_circle() -> None:
    """What two rooms need of each other lies in a third one, or in the folder that holds both."""
    needs: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, path in _modules(PACKAGE):
        here = _room(module)
        for found in imports_of(module, path.read_text(), is_package=path.name == "__init__.py"):
            there = _room(found.module)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False)))
            if 0 < shared < min(len(here), len(there)):
                needs[".".join(here[:shared])][here[shared]].add(there[shared])
    assert {"seedvr2_ray.media", "seedvr2_ray.restoration", "seedvr2_ray.serve"} <= needs.keys()
    for rooms in needs.values():
        TopologicalSorter(rooms).prepare()  # Raises CycleError, which names them.


def test_names_say_something_and_files_stay_short() -> None:
    found = [
        violation
        for module, path in _modules(PACKAGE, "tests", *OUTSIDE)
        for violation in name_violations(module, path.read_text())
    ]
    assert found == [], "\n".join(found)


def test_names_are_the_fields_words() -> None:
    found = [
        violation
        for module, path in _modules(PACKAGE)
        if not module.startswith(WORDS_ELSEWHERE)
        for violation in word_violations(module, path.read_text())
    ]
    assert found == [], "\n".join(found)


def test_documents_use_the_fields_words() -> None:
    words = re.compile(rf"\b({'|'.join(BANNED_IN_DOCUMENTS)})\b", re.IGNORECASE)
    found = []
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for word in words.findall(METRICS.sub("", line)):
                found.append(f"{path.relative_to(ROOT)}:{number} {word}")
    assert found == [], "\n".join(found)


def test_a_folder_is_one_concern_of_few_files_and_says_which() -> None:
    folders = sorted({path.parent for _, path in _modules(PACKAGE)})
    found = []
    for folder in folders:
        # Versions of the database's tables only ever grow.
        if len(list(folder.glob("*.py"))) > MAX_FILES and folder.name != "versions":
            found.append(f"{folder.relative_to(ROOT)} has more than {MAX_FILES} files; cut it by concern")
        if ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) is None:
            found.append(f"{folder.relative_to(ROOT)} does not say in its __init__.py what belongs there")
    assert found == [], "\n".join(found)


def test_tests_mirror_the_package() -> None:
    """Every folder of tests is a folder of the package, or of something else at the top."""
    other = {"data", "cli", *OUTSIDE}
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("*"))
        if path.is_dir() and any(path.glob("test_*.py")) and path.relative_to(ROOT / "tests").parts[0] not in other
        if not (ROOT / PACKAGE / path.relative_to(ROOT / "tests")).is_dir()
    ]
    assert found == [], "\n".join(found)


def _places() -> list[tuple[str, str]]:
    """Rows of the table in docs/architecture.md that says where things live: file and name."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return re.findall(r"^\| [^|]+ \| `([\w/]+\.py)` \| `(\w+)` \|$", text, re.MULTILINE)


def test_what_the_documentation_says_where_to_find_is_found_there() -> None:
    assert len(_places()) >= 20
    for file, name in _places():
        tree = ast.parse((ROOT / PACKAGE / file).read_text())
        targets = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        targets += [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        defined = {getattr(node, "name", None) for node in tree.body} | {
            getattr(target, "id", None) for target in targets
        }
        assert name in defined, f"{file} does not define {name}"


def test_a_frames_way_is_six_files_at_most_and_each_leads_to_the_next() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    (way,) = re.findall(r"In bulk: ([^*]+?)\.\n", text)
    steps = [step.strip(" `\n") for step in way.split("→")]
    assert len(steps) == 6 and "a restorer" in steps
    beginnings = re.findall(r"\* (?:Online|On one machine): `([^`]+)` → the same five", text)
    assert len(beginnings) == 2
    files = [step for step in steps if step != "a restorer"]
    for first in (files[0], *beginnings):
        chain = [first, *files[1:]]
        for position, file in enumerate(chain[1:], start=1):
            module = f"{PACKAGE}.{file.removesuffix('.py').replace('/', '.')}"
            earlier = "".join((ROOT / PACKAGE / each).read_text() for each in chain[:position])
            assert f"from {module} import" in earlier, f"nothing on the way to {file} imports it"


def test_every_room_is_on_the_map() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in sorted((ROOT / PACKAGE).rglob("__init__.py")):
        room = path.parent.relative_to(ROOT / PACKAGE).as_posix()
        if room not in (".", "models/seedvr2", "serve") and "migrations" not in room:
            assert f"`{room}`" in text or f"`{room.rsplit('/', 1)[-1]}/`" in text, (
                f"docs/architecture.md leaves out {room}"
            )


def test_the_package_was_found() -> None:
    assert {"seedvr2_ray.errors", "seedvr2_ray.media.info"} <= {module for module, _ in _modules(PACKAGE)}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("seedvr2_ray.models.dit", "import ray", "models must not import ray"),
        ("seedvr2_ray.media.probe", "def f():\n    import ray.data", "media must not import ray"),
        ("seedvr2_ray.storage.store", "from seedvr2_ray.media import info", "must not import seedvr2_ray.media"),
        ("seedvr2_ray.storage.store", "from seedvr2_ray import media", "must not import seedvr2_ray.media"),
        ("seedvr2_ray.storage.store", "from ..media.info import MediaInfo", "must not import seedvr2_ray.media"),
        ("seedvr2_ray.restoration.planning.plan", "import numpy", "restoration must not import numpy"),
        (
            "seedvr2_ray.restoration.planning.plan",
            "from seedvr2_ray.cli.main import main",
            "must not import seedvr2_ray.cli",
        ),
        ("seedvr2_ray.serve.app", "from seedvr2_ray.batch import rows", "must not import seedvr2_ray.batch"),
        ("seedvr2_ray.cli.main", "from training import recipe", "must not import training"),
        ("seedvr2_ray.media.probe", "from seedvr2_ray.frames import *", "imports * from seedvr2_ray.frames"),
        ("seedvr2_ray.errors", "import torch", "errors must not import torch"),
        ("seedvr2_ray.novelty.thing", "", "belongs to no layer"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, complaint: str) -> None:
    assert complaint in "\n".join(import_violations(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("seedvr2_ray.models.seedvr2.transformer.dit", "import math\nimport torch\nfrom ..attention import attend"),
        ("seedvr2_ray.restoration.planning.plan", "from seedvr2_ray.media.info import MediaInfo"),
        ("seedvr2_ray.cli.main", "import typer\nfrom seedvr2_ray.restoration.planning.plan import plan"),
        ("seedvr2_ray.media.probe", "from seedvr2_ray import __version__"),
    ],
)
def test_an_allowed_import_is_let_through(module: str, source: str) -> None:
    assert import_violations(module, source) == []


@pytest.mark.parametrize(
    "source",
    ["class FilmRun: ...", "def news_of(job): ...", "first_film = 1", "self.patience = 1", "def f(outside): ..."],
)
def test_a_word_of_our_own_is_found(source: str) -> None:
    assert ": say " in "\n".join(word_violations("seedvr2_ray.serve.thing", source))


@pytest.mark.parametrize("source", ["class Newsletter: ...", "filmed = 1", "PATIENT = 1"])
def test_a_word_that_only_looks_like_one_is_let_through(source: str) -> None:
    assert word_violations("seedvr2_ray.serve.thing", source) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("seedvr2_ray.media.utils", "", "called utils"),
        ("seedvr2_ray.common.probe", "", "called common"),
        ("seedvr2_ray.media.probe", "class StreamManager: ...", "StreamManager"),
        ("seedvr2_ray.media.probe", "x = 1\n" * 401, "401 lines"),
    ],
)
def test_a_name_that_says_nothing_is_found(module: str, source: str, complaint: str) -> None:
    assert complaint in "\n".join(name_violations(module, source))
