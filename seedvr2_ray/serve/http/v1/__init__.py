"""API v1 over HTTP: routes that translate requests into calls of :class:`seedvr2_ray.serve.service.verbs.Service`."""
