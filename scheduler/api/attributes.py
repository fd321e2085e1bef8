"""Names of device attributes and labels that drivers publish and the scheduler reads."""

GPU_DRIVER = "gpu.nvidia.com"

# Attributes of NVIDIA's driver, in the domain gpu.nvidia.com.
TYPE = "type"
UUID = "uuid"
PARENT_UUID = "parentUUID"
PROFILE = "profile"
PRODUCT_NAME = "productName"
ARCHITECTURE = "architecture"
BRAND = "brand"
CUDA_COMPUTE_CAPABILITY = "cudaComputeCapability"
DRIVER_VERSION = "driverVersion"
CUDA_DRIVER_VERSION = "cudaDriverVersion"

# Attributes of ours, in the same domain.
NVLINK_DOMAIN = "nvlinkDomain"
CLIQUE_ID = "cliqueID"
INDEX = "index"
MINOR = "minor"

# NVIDIA's driver of ComputeDomains: nodes that share memory over NVLink for as long as pods use a channel of theirs.
COMPUTE_DOMAIN_DRIVER = "compute-domain.nvidia.com"
COMPUTE_DOMAIN_GROUP = "resource.nvidia.com"
CHANNEL_CONFIG = "ComputeDomainChannelConfig"

# Standard attributes, shared by all drivers.
PCIE_ROOT = "resource.kubernetes.io/pcieRoot"
PCI_BUS_ID = "resource.kubernetes.io/pciBusID"
NUMA_NODE = "resource.kubernetes.io/numaNode"

HOSTNAME_LABEL = "kubernetes.io/hostname"
ZONE_LABEL, REGION_LABEL = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"
PLACE_LABELS = (ZONE_LABEL, REGION_LABEL)
"""A pod gets these of its node when it is bound, from Kubernetes 1.35 on (KEP 4742)."""
CLIQUE_LABEL = "nvidia.com/gpu.clique"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
GPU_RESOURCE = "nvidia.com/gpu"
MIG_RESOURCE = "nvidia.com/mig-"
"""What names of extended resources begin with that are slices of GPUs (nvidia.com/mig-3g.40gb)."""

# Device taints. The first keeps other schedulers off; the second stands for the first where that is missing.
FENCE_TAINT = "tutti.scheduler/fence"
OUTSIDE_FENCE = "tutti.scheduler/outside-the-fence"
