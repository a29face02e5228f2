"""Absolute addresses, for clients that take a link out of an answer and fetch it as it stands."""

from starlette.requests import Request

from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.serve.service.verbs import Service


def download_address(request: Request, service: Service, job: Job) -> str:
    """Return where a job's result can be fetched without a key.

    Behind a proxy only the operator knows the address that callers use; without ``public_url`` it is the one that
    this request was sent to.
    """
    base = service.config.public_url or str(request.base_url)
    return base.rstrip("/") + service.links.sign(f"/v1/jobs/{job.id}/result")
