"""``seedvr2-ray models``: which models there are, and whether they are here and whole."""

from functools import partial

import typer

from seedvr2_ray.cli.console import PullDisplay, show_files, show_models
from seedvr2_ray.cli.parameters import Json, Mirror, ModelName, WeightsDir, say, weights_source
from seedvr2_ray.errors import DeploymentError

models_app = typer.Typer(help="List, download and verify models.", no_args_is_help=True)


@models_app.command("list")
def models_list(weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False) -> None:
    """List all models, and which are here."""
    from seedvr2_ray.models.weights.download import list_models
    from seedvr2_ray.storage.address import jsonable

    models = list_models(weights_source(weights_dir, mirror))
    say(as_json, jsonable(models), partial(show_models, models))


@models_app.command("pull")
def models_pull(name: ModelName, weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False) -> None:
    """Download a model and verify it.

    An interrupted download goes on where it stopped; what is here already is only verified.
    """
    from seedvr2_ray.models.weights.download import pull_model, verify_model
    from seedvr2_ray.storage.address import jsonable

    source = weights_source(weights_dir, mirror)
    with PullDisplay(quiet=as_json) as display:
        pull_model(name, source, display.downloaded)
    files = verify_model(name, source)
    say(as_json, jsonable(files), partial(show_files, files))


@models_app.command("verify")
def models_verify(
    name: ModelName, weights_dir: WeightsDir = None, mirror: Mirror = None, as_json: Json = False
) -> None:
    """Check that a model is intact.

    Hashes every file and compares it with what was published; exits with 6 if one is missing or damaged.
    """
    from seedvr2_ray.models.weights.download import verify_model
    from seedvr2_ray.storage.address import jsonable

    files = verify_model(name, weights_source(weights_dir, mirror))
    say(as_json, jsonable(files), partial(show_files, files))
    if any(file.state in ("missing", "damaged") for file in files):
        raise DeploymentError(f"{name} is not complete and intact; run `seedvr2-ray models pull {name}`")
