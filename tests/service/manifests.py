"""Manifests that several tests use, as YAML text."""


def gang(
    name: str,
    pods: int,
    *,
    namespace: str = "default",
    minimum: int | None = None,
    queue: str = "default",
    template: str = "gpus",
    topology: str = "",
) -> str:
    """A PodGroup and its pods, as a Job; each pod with a claim from a template (none if `template` is "")."""
    constraint = f"\n          topologyConstraint: {topology}" if topology else ""
    claims = f"resourceClaims: [{{name: gpus, resourceClaimTemplateName: {template}}}]" if template else ""
    uses = ", claims: [{name: gpus}]" if template else ""
    return f"""
        apiVersion: tutti.scheduler/v1alpha1
        kind: PodGroup
        metadata: {{name: {name}, namespace: {namespace}}}
        spec:
          minMember: {minimum if minimum is not None else pods}
          queue: {queue}{constraint}
        ---
        apiVersion: batch/v1
        kind: Job
        metadata: {{name: {name}, namespace: {namespace}}}
        spec:
          parallelism: {pods}
          completions: {pods}
          template:
            metadata: {{labels: {{tutti.scheduler/pod-group: {name}}}}}
            spec:
              schedulerName: tutti
              restartPolicy: Never
              containers:
              - name: main
                image: example.com/trainer:v1
                resources: {{requests: {{cpu: "1", memory: 1Gi}}{uses}}}
              {claims}
        """


def template(
    name: str = "gpus",
    count: int = 1,
    *,
    namespace: str = "default",
    device_class: str = "gpu.nvidia.com",
    selector: str = "",
    match: str = "",
) -> str:
    """A ResourceClaimTemplate for so many devices."""
    selectors = f", selectors: [{{cel: {{expression: '{selector}'}}}}]" if selector else ""
    constraints = f", constraints: [{{requests: [gpus], matchAttribute: {match}}}]" if match else ""
    request = f"{{name: gpus, exactly: {{deviceClassName: {device_class}, count: {count}{selectors}}}}}"
    return f"""
        apiVersion: resource.k8s.io/v1
        kind: ResourceClaimTemplate
        metadata: {{name: {name}, namespace: {namespace}}}
        spec: {{spec: {{devices: {{requests: [{request}]{constraints}}}}}}}
        """


def namespace(name: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"


def queue(name: str, spec: str = "{}") -> str:
    return f"{{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {{name: {name}}}, spec: {spec}}}"
