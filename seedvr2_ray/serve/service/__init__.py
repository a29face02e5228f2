"""The verbs of the service: submit, look, hand results out, upload, estimate, watch."""
