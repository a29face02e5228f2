"""The verbs of the service: submit, look, fetch results, upload, estimate."""
