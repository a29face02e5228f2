"""The API of RunPod's serverless endpoints, for clients written for it: a translation onto the jobs of the service."""
