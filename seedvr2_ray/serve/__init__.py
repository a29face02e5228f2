"""Restoration as a service on Ray Serve: durable jobs, an HTTP API, and replicas that restore segments."""
