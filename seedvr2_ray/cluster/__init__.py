"""The platform on Kubernetes with KubeRay: manifests rendered and checked, clusters asked and changed."""
