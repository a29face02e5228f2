"""Who restores under a model's name here, so that planning need not wait for a replica to start.

Only a replica knows: the arithmetic of its device is part of the answer.
"""

import json
from dataclasses import asdict

from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import open_location, publish_bytes


def remember_identity(data: str, model: str, identity: RestorerIdentity) -> None:
    """Note who a replica has loaded; the latest counts."""
    if known_identity(data, model) != identity:
        publish_bytes(json.dumps(asdict(identity)).encode(), _place(data, model), overwrite=True)


def known_identity(data: str, model: str) -> RestorerIdentity | None:
    """Return who the last replica of a model was, if there was one."""
    place = open_location(_place(data, model))
    with translated(place.url, "store"):
        try:
            return RestorerIdentity(**json.loads(place.backend.read(place.path)))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def _place(data: str, model: str) -> str:
    return f"{data}/identities/{model}.json"
