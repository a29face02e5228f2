"""Ray's own autoscaler, as KubeRay runs it beside the head; only where the API server is and who asks is changed.

python -m tests.cluster.autoscaler GCS_ADDRESS API_SERVER CLUSTER NAMESPACE
"""

import sys
from typing import Any

from ray.autoscaler._private.kuberay import node_provider
from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer
from ray.autoscaler.v2.instance_manager.config import KubeRayConfigReader
from ray.autoscaler.v2.monitor import AutoscalerMonitor

from tests.cluster.api_server import TOKEN


def changes(api_server: str) -> dict[str, Any]:
    """What of Ray's module must be others outside a pod: there is no service account, and this server has no TLS."""
    in_kubernetes = node_provider.url_from_resource

    def url(**what: Any) -> str:
        there = "https://there"
        return str(in_kubernetes(**what, kubernetes_host=there)).replace(there, api_server)

    headers = {"Authorization": f"Bearer {TOKEN}"}
    return {"load_k8s_secrets": lambda: (headers, False, None), "url_from_resource": url}


if __name__ == "__main__":
    gcs_address, api_server, cluster, namespace = sys.argv[1:]
    vars(node_provider).update(changes(api_server))
    AutoscalerMonitor(gcs_address, KubeRayConfigReader(AutoscalingConfigProducer(cluster, namespace))).run()
