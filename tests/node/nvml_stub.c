/* A library with the functions of NVML that dra_driver/nvml.py calls, over a small model of GPUs, so that the calls of
 * nvidia-ml-py go through real ctypes without hardware. Structures: as nvml.h of CUDA 13 lays them out, written down here
 * once more, so that a structure that is wrong on either side is seen. The functions stub_* are the test's hands. */

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10,
       GPU_IS_LOST = 15, RESET_REQUIRED = 16, IN_USE = 19, INSUFFICIENT_RESOURCES = 23, VERSION_MISMATCH = 25 };
enum { GPUS = 8, PROFILES = 18, INSTANCES = 16, PROCESSES = 32, EVENTS = 32, CALLS = 128, HANDLE_GPU = 1, HANDLE_PART = 2 };
#define WHOLE 0xFFFFFFFFu
#define VERSION(type, number) ((unsigned)(sizeof(type) | ((number) << 24)))

typedef struct { unsigned start, size; } placement_t;
typedef struct { unsigned id, p2p, slices, most, sm, copy, decoders, encoders, jpeg, ofa; uint64_t mib; } profile_v1_t;
typedef struct { unsigned version, id, p2p, slices, most, sm, copy, decoders, encoders, jpeg, ofa; uint64_t mib; char name[96]; } profile_v2_t;
typedef struct { unsigned version, id, slices, most, sm, copy, decoders, encoders, jpeg, ofa; char name[96]; } compute_profile_v2_t;
typedef struct { void *device; unsigned id, profile; placement_t place; } instance_info_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { uint64_t total, free, used; } memory_v1_t;
typedef struct { unsigned version; uint64_t total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned version, value; } addressing_t;
typedef struct { unsigned environment, feature, devtools; } confidential_t;
typedef struct { unsigned pid; uint64_t used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { uint32_t id, scope; int64_t timestamp, latency; unsigned type, status; union { double d; unsigned u; uint64_t l; } value; } field_t;
typedef struct { uint8_t cluster[16]; unsigned status, clique, state; } fabric_v1_t;
typedef struct { unsigned version; uint8_t cluster[16]; unsigned status, clique, state, mask; } fabric_v2_t;
typedef struct { unsigned version; uint8_t cluster[16]; unsigned status, clique, state, mask; uint8_t summary; } fabric_v3_t;
typedef struct { unsigned version; char guid[16], chassis[16]; uint8_t slot, tray, host, peer, module; } platform_t;
typedef struct { void *device; uint64_t type, data; unsigned gpu_instance, compute_instance; } event_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { const char *group; uint64_t soft, hard; } limits_t;
typedef struct { const char *group; uint64_t soft, hard, used; } limits_told_t;

typedef struct {
    int handle, gpu, there, compute;
    unsigned id, profile;
    placement_t place;
    char uuid[64];
} part_t;

typedef struct {
    int there;
    profile_v2_t info;
    unsigned size, count, starts[16];
} kind_t;

typedef struct {
    int handle, number, lost, on, pending;
    const char *uuid, *serial, *name, *bus, *peer;
    unsigned brand, architecture, major, minor, module, addressing, mig, links, linked, mode, recovery, busy, ecc, memory_limits, pci_device;
    unsigned listens;
    uint64_t mib;
    fabric_v3_t fabric;
    platform_t platform;
    kind_t kinds[PROFILES];
    part_t parts[INSTANCES];
    char limit_group[256];
    uint64_t limit;
} gpu_t;

static struct {
    int sessions, flags, gpus, cuda, made, processes, events, refusals, calls, sets, confidential;
    gpu_t gpu[GPUS];
    struct { int gpu, list; process_t process; } process[PROCESSES];
    event_t event[EVENTS];
    struct { char call[64]; int code, once; } refusal[16];
    char call[CALLS][64];
} world;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;

static int enter(const char *call) {
    int at;
    for (at = 0; at < world.calls && strcmp(world.call[at], call); at++) {}
    if (at == world.calls && at < CALLS) snprintf(world.call[world.calls++], 64, "%s", call);
    if (!world.sessions && strcmp(call, "nvmlInitWithFlags")) return UNINITIALIZED;
    for (at = 0; at < world.refusals; at++) {
        if (strcmp(world.refusal[at].call, call)) continue;
        int code = world.refusal[at].code;
        if (world.refusal[at].once) world.refusal[at] = world.refusal[--world.refusals];
        return code;
    }
    return OK;
}

#define ENTER do { int refused = enter(__func__); if (refused) return refused; } while (0)
#define ENTER_GPU gpu_t *gpu = handle; ENTER; if (!gpu || gpu->handle != HANDLE_GPU) return INVALID_ARGUMENT; if (gpu->lost) return GPU_IS_LOST
#define MIG_GPU ENTER_GPU; if (!gpu->mig) return NOT_SUPPORTED
#define MIG_ON MIG_GPU; if (!gpu->on) return NOT_SUPPORTED
#define ENTER_PART part_t *part = handle; ENTER; if (!part || part->handle != HANDLE_PART || !part->there) return INVALID_ARGUMENT

static int tell(char *to, unsigned length, const char *text) {
    if (strlen(text) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return OK;
}

static kind_t *kind(gpu_t *gpu, unsigned id) {
    for (int at = 0; at < PROFILES; at++) if (gpu->kinds[at].there && gpu->kinds[at].info.id == id) return &gpu->kinds[at];
    return NULL;
}

static uint64_t used(int gpu, unsigned instance) {
    uint64_t sum = 0;
    for (int at = 0; at < world.processes; at++)
        if (world.process[at].gpu == gpu && (instance == WHOLE || world.process[at].process.gpu_instance == instance)) sum += world.process[at].process.used;
    return sum;
}

static void happen(gpu_t *gpu, uint64_t type, uint64_t data, unsigned instance) {
    pthread_mutex_lock(&turn);
    if (gpu->listens & type && world.events < EVENTS) world.event[world.events++] = (event_t){gpu, type, data, instance, WHOLE};
    pthread_cond_broadcast(&news);
    pthread_mutex_unlock(&turn);
}

/* The session, and the node */

int nvmlInitWithFlags(unsigned flags) { ENTER; world.sessions++; world.flags = flags; return OK; }
int nvmlShutdown(void) { ENTER; world.sessions--; return OK; }
const char *nvmlErrorString(int code) { (void)enter(__func__); return code == IN_USE ? "In use by another client" : "Refused"; }
int nvmlSystemGetDriverVersion(char *to, unsigned length) { ENTER; return tell(to, length, "580.126.20"); }
int nvmlSystemGetCudaDriverVersion(int *to) { ENTER; *to = world.cuda ? world.cuda : 13000; return OK; }
int nvmlSystemGetConfComputeState(confidential_t *to) { ENTER; to->feature = world.confidential; return OK; }
int nvmlDeviceGetCount_v2(unsigned *to) { ENTER; *to = world.gpus; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to) {
    ENTER;
    if (index >= (unsigned)world.gpus) return INVALID_ARGUMENT;
    if (world.gpu[index].lost) return GPU_IS_LOST;
    *to = &world.gpu[index];
    return OK;
}

/* Facts */

int nvmlDeviceGetUUID(void *handle, char *to, unsigned length) {
    ENTER;
    if (*(int *)handle == HANDLE_PART) return ((part_t *)handle)->there ? tell(to, length, ((part_t *)handle)->uuid) : NOT_FOUND;
    return tell(to, length, ((gpu_t *)handle)->uuid);
}

int nvmlDeviceGetName(void *handle, char *to, unsigned length) { ENTER_GPU; return tell(to, length, gpu->name); }
int nvmlDeviceGetMinorNumber(void *handle, unsigned *to) { ENTER_GPU; *to = gpu->number; return OK; }
int nvmlDeviceGetSerial(void *handle, char *to, unsigned length) { ENTER_GPU; return tell(to, length, gpu->serial); }
int nvmlDeviceGetModuleId(void *handle, unsigned *to) { ENTER_GPU; *to = gpu->module; return gpu->module ? OK : NOT_SUPPORTED; }
int nvmlDeviceGetBrand(void *handle, unsigned *to) { ENTER_GPU; *to = gpu->brand; return OK; }
int nvmlDeviceGetArchitecture(void *handle, unsigned *to) { ENTER_GPU; *to = gpu->architecture; return OK; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { ENTER_GPU; *major = gpu->major; *minor = gpu->minor; return OK; }
int nvmlDeviceGetVirtualizationMode(void *handle, unsigned *to) { ENTER_GPU; *to = 0; return OK; }
int nvmlDeviceGetEccMode(void *handle, unsigned *now, unsigned *next) { ENTER_GPU; *now = *next = gpu->ecc; return OK; }
int nvmlDeviceGetComputeMode(void *handle, unsigned *to) { ENTER_GPU; *to = gpu->mode; return OK; }
int nvmlDeviceSetComputeMode(void *handle, unsigned mode) { ENTER_GPU; gpu->mode = mode; return OK; }
int nvmlDeviceGetPowerUsage(void *handle, unsigned *to) { ENTER; if (*(int *)handle != HANDLE_GPU) return NOT_SUPPORTED; *to = 70000 + 6000 * ((gpu_t *)handle)->busy; return OK; }
int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *to) { ENTER; if (*(int *)handle != HANDLE_GPU || sensor) return NOT_SUPPORTED; *to = 30 + 10 * ((gpu_t *)handle)->busy / 25; return OK; }

int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *to) {
    ENTER_GPU;
    snprintf(to->bus_id, sizeof to->bus_id, "0000%s", gpu->bus);
    to->id = gpu->pci_device;
    to->subsystem = 0;
    return OK;
}

int nvmlDeviceGetAddressingMode(void *handle, addressing_t *to) {
    ENTER_GPU;
    if (to->version != VERSION(addressing_t, 1)) return VERSION_MISMATCH;
    to->value = gpu->addressing;
    return OK;
}

static int memory(void *handle, uint64_t *total, uint64_t *taken) {
    if (*(int *)handle == HANDLE_PART) {
        part_t *part = handle;
        if (!part->there) return NOT_FOUND;
        *total = kind(&world.gpu[part->gpu], part->profile)->info.mib << 20;
        *taken = used(part->gpu, part->id);
        return OK;
    }
    gpu_t *gpu = handle;
    if (gpu->lost) return GPU_IS_LOST;
    *total = gpu->mib << 20;
    *taken = used(gpu->number, WHOLE);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_v1_t *to) { ENTER; return memory(handle, &to->total, &to->used); }

int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2_t *to) {
    ENTER;
    return to->version == VERSION(memory_v2_t, 2) ? memory(handle, &to->total, &to->used) : VERSION_MISMATCH;
}

int nvmlDeviceGetUtilizationRates(void *handle, rates_t *to) {
    ENTER;
    if (*(int *)handle != HANDLE_GPU || ((gpu_t *)handle)->on) return NOT_SUPPORTED;
    to->gpu = ((gpu_t *)handle)->busy;
    return OK;
}

int nvmlDeviceGetFieldValues(void *handle, int count, field_t *to) {
    ENTER_GPU;
    for (int at = 0; at < count; at++) {
        to[at].status = to[at].id == 230 && gpu->architecture > 6 ? OK : NOT_SUPPORTED;
        to[at].type = 1;
        to[at].value.u = gpu->recovery;
    }
    return OK;
}

/* NVLink, fabric, rack, memory limits */

int nvmlDeviceGetNvLinkState(void *handle, unsigned link, unsigned *to) {
    ENTER_GPU;
    if (!gpu->links) return NOT_SUPPORTED;
    if (link > gpu->links) return INVALID_ARGUMENT; /* the last link of a board that has any is down */
    *to = link < gpu->links;
    return OK;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned link, unsigned *to) { ENTER_GPU; *to = gpu->linked; return link < gpu->links ? OK : INVALID_ARGUMENT; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned link, pci_t *to) { ENTER_GPU; snprintf(to->bus_id, sizeof to->bus_id, "0000%s", gpu->peer); return link < gpu->links ? OK : INVALID_ARGUMENT; }

int nvmlDeviceGetGpuFabricInfo(void *handle, fabric_v1_t *to) {
    ENTER_GPU;
    memcpy(to->cluster, gpu->fabric.cluster, 16);
    to->status = gpu->fabric.status;
    to->clique = gpu->fabric.clique;
    to->state = gpu->fabric.state;
    return OK;
}

int nvmlDeviceGetGpuFabricInfoV(void *handle, void *to) {
    ENTER_GPU;
    unsigned version = *(unsigned *)to;
    size_t size = version == VERSION(fabric_v3_t, 3) ? sizeof(fabric_v3_t) : version == VERSION(fabric_v2_t, 2) ? sizeof(fabric_v2_t) : 0;
    if (!size) return VERSION_MISMATCH;
    gpu->fabric.version = version;
    memcpy(to, &gpu->fabric, size);
    return OK;
}

int nvmlDeviceGetPlatformInfo(void *handle, platform_t *to) {
    ENTER_GPU;
    if (to->version != VERSION(platform_t, 2)) return VERSION_MISMATCH;
    if (!gpu->platform.chassis[0]) return NOT_SUPPORTED;
    *to = gpu->platform;
    return OK;
}

int nvmlDeviceSetMemoryLimits_v1(void *handle, limits_t *limits) {
    ENTER_GPU;
    if (!gpu->memory_limits || gpu->on) return NOT_SUPPORTED;
    snprintf(gpu->limit_group, sizeof gpu->limit_group, "%s", limits->group);
    gpu->limit = limits->hard;
    return limits->soft ? INVALID_ARGUMENT : OK;
}

int nvmlDeviceGetMemoryLimits_v1(void *handle, limits_told_t *limits) { ENTER_GPU; if (!gpu->memory_limits) return NOT_SUPPORTED; if (strcmp(limits->group, gpu->limit_group)) return NOT_FOUND; limits->hard = gpu->limit; return OK; }

/* Processes */

static int list(void *handle, int which, unsigned *count, process_t *to) {
    gpu_t *gpu = handle;
    unsigned found = 0, room = *count;
    if (gpu->lost) return GPU_IS_LOST;
    for (int at = 0; at < world.processes; at++) {
        if (world.process[at].gpu != gpu->number || world.process[at].list != which) continue;
        if (to && found < room) to[found] = world.process[at].process;
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *to) { ENTER; return list(handle, 0, count, to); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *to) { ENTER; return list(handle, 1, count, to); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *to) { ENTER; return list(handle, 2, count, to); }

/* MIG: what there may be */

int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *next) { MIG_GPU; *now = gpu->on; *next = gpu->pending; return OK; }

int nvmlDeviceSetMigMode(void *handle, unsigned on, int *status) {
    MIG_GPU;
    *status = OK;
    gpu->pending = on;
    if (gpu->on == (int)on) return OK;
    int busy = 0;
    for (int at = 0; at < INSTANCES; at++) busy |= gpu->parts[at].there;
    for (int at = 0; at < world.processes; at++) busy |= world.process[at].gpu == gpu->number;
    *status = busy ? IN_USE : gpu->mig == 1 ? RESET_REQUIRED : OK;
    if (!*status) {
        gpu->on = on;
        happen(gpu, 0x100, 0, WHOLE);
    }
    return OK;
}

int nvmlDeviceGetGpuInstanceProfileInfo(void *handle, unsigned number, profile_v1_t *to) {
    MIG_GPU;
    if (number >= PROFILES) return INVALID_ARGUMENT;
    if (!gpu->kinds[number].there) return NOT_SUPPORTED;
    profile_v2_t *info = &gpu->kinds[number].info;
    *to = (profile_v1_t){info->id, 0, info->slices, info->most, info->sm, info->copy, info->decoders, info->encoders, info->jpeg, info->ofa, info->mib};
    return OK;
}

int nvmlDeviceGetGpuInstanceProfileInfoV(void *handle, unsigned number, profile_v2_t *to) {
    MIG_GPU;
    if (to->version != VERSION(profile_v2_t, 2)) return VERSION_MISMATCH;
    if (number >= PROFILES) return INVALID_ARGUMENT;
    if (!gpu->kinds[number].there) return NOT_SUPPORTED;
    *to = gpu->kinds[number].info;
    to->version = VERSION(profile_v2_t, 2);
    return OK;
}

int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *handle, unsigned id, placement_t *to, unsigned *count) {
    MIG_GPU;
    kind_t *found = kind(gpu, id);
    if (!found) return INVALID_ARGUMENT;
    if (to && *count < found->count) return INSUFFICIENT_SIZE;
    for (unsigned at = 0; to && at < found->count; at++) to[at] = (placement_t){found->starts[at], found->size};
    *count = found->count;
    return OK;
}

/* MIG: what there is */

int nvmlDeviceGetGpuInstances(void *handle, unsigned id, void **to, unsigned *count) {
    MIG_ON;
    unsigned found = 0;
    for (int at = 0; at < INSTANCES; at++)
        if (gpu->parts[at].there == 1 && gpu->parts[at].profile == id) to[found++] = &gpu->parts[at];
    *count = found;
    return OK;
}

int nvmlDeviceGetGpuInstanceById(void *handle, unsigned id, void **to) {
    MIG_ON;
    for (int at = 0; at < INSTANCES; at++)
        if (gpu->parts[at].there == 1 && gpu->parts[at].id == id) return *to = &gpu->parts[at], OK;
    return NOT_FOUND;
}

int nvmlGpuInstanceGetInfo(void *handle, instance_info_t *to) { ENTER_PART; *to = (instance_info_t){&world.gpu[part->gpu], part->id, part->profile, part->place}; return OK; }
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *to) { ENTER_GPU; *to = gpu->mig ? 7 : 0; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **to) { MIG_ON; *to = &gpu->parts[index]; return gpu->parts[index].there && gpu->parts[index].compute ? OK : NOT_FOUND; }
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *to) { ENTER_PART; *to = part->id; return OK; }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *to) { ENTER_PART; *to = part->compute - 1; return OK; }
int nvmlGpuInstanceGetComputeInstanceById(void *handle, unsigned id, void **to) { ENTER_PART; *to = part; return part->compute && id == (unsigned)part->compute - 1 ? OK : NOT_FOUND; }

/* MIG: made and destroyed */

int nvmlDeviceCreateGpuInstanceWithPlacement(void *handle, unsigned id, const placement_t *place, void **to) {
    MIG_ON;
    kind_t *found = kind(gpu, id);
    unsigned lawful = 0, same = 0, ofa = 0;
    if (!found) return INVALID_ARGUMENT;
    for (unsigned at = 0; at < found->count; at++) lawful |= found->starts[at] == place->start && found->size == place->size;
    if (!lawful) return INVALID_ARGUMENT;
    int room = -1;
    for (int at = INSTANCES - 1; at >= 0; at--) {
        part_t *part = &gpu->parts[at];
        if (!part->there) { room = at; continue; }
        if (part->place.start < place->start + place->size && place->start < part->place.start + part->place.size) return INSUFFICIENT_RESOURCES;
        same += part->profile == id;
        ofa += kind(gpu, part->profile)->info.ofa;
    }
    if (same >= found->info.most || ofa + found->info.ofa > 1) return INSUFFICIENT_RESOURCES;
    gpu->parts[room] = (part_t){HANDLE_PART, gpu->number, 1, 0, room + 1, id, *place, ""};
    *to = &gpu->parts[room];
    happen(gpu, 0x100, 0, WHOLE);
    return OK;
}

int nvmlGpuInstanceGetComputeInstanceProfileInfoV(void *handle, unsigned number, unsigned engine, compute_profile_v2_t *to) {
    static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6};
    ENTER_PART;
    if (to->version != VERSION(compute_profile_v2_t, 2)) return VERSION_MISMATCH;
    if (engine || number >= 7 || slices[number] > kind(&world.gpu[part->gpu], part->profile)->info.slices) return NOT_SUPPORTED;
    to->id = 40 + number;
    to->slices = slices[number];
    return OK;
}

int nvmlGpuInstanceCreateComputeInstance(void *handle, unsigned id, void **to) {
    static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6};
    ENTER_PART;
    if (id < 40 || id > 46 || slices[id - 40] != kind(&world.gpu[part->gpu], part->profile)->info.slices) return INVALID_ARGUMENT;
    part->compute = 1;
    snprintf(part->uuid, sizeof part->uuid, "MIG-00000000-0000-0000-0000-%012d", ++world.made);
    *to = part;
    return OK;
}

int nvmlComputeInstanceDestroy(void *handle) {
    ENTER_PART;
    for (int at = 0; at < world.processes; at++)
        if (world.process[at].gpu == part->gpu && world.process[at].process.gpu_instance == part->id) return IN_USE;
    part->compute = 0;
    return OK;
}

int nvmlGpuInstanceDestroy(void *handle) {
    ENTER_PART;
    if (part->compute) return IN_USE;
    part->there = 0;
    happen(&world.gpu[part->gpu], 0x100, 0, WHOLE);
    return OK;
}

/* Events */

int nvmlEventSetCreate(void **to) { ENTER; world.sets++; *to = &world.events; return OK; }
int nvmlEventSetFree(void *set) { ENTER; world.sets--; return set == &world.events ? OK : INVALID_ARGUMENT; }
int nvmlDeviceGetSupportedEventTypes(void *handle, uint64_t *to) { ENTER_GPU; *to = gpu->mig ? 0xC10F : 0; return OK; }
int nvmlDeviceRegisterEvents(void *handle, uint64_t types, void *set) { ENTER_GPU; if (set != &world.events || types & ~0xC10FULL) return INVALID_ARGUMENT; gpu->listens |= types; return OK; }

int nvmlEventSetWait_v2(void *set, event_t *to, unsigned milliseconds) {
    ENTER;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (milliseconds % 1000) * 1000000L;
    until.tv_sec += milliseconds / 1000 + until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&turn);
    int late = 0;
    while (!world.events && late != ETIMEDOUT) late = pthread_cond_timedwait(&news, &turn, &until);
    int found = world.events;
    if (found) {
        *to = world.event[0];
        memmove(world.event, world.event + 1, sizeof(event_t) * --world.events);
    }
    pthread_mutex_unlock(&turn);
    return set != &world.events ? INVALID_ARGUMENT : found ? OK : TIMEOUT;
}

/* The test's hands */

void stub_fresh(void) { memset(&world, 0, sizeof world); }
int stub_sessions(void) { return world.sessions; }
int stub_flags(void) { return world.flags; }
int stub_event_sets(void) { return world.sets; }
int stub_calls(void) { return world.calls; }
const char *stub_call(int at) { return world.call[at]; }
void stub_cuda(int version) { world.cuda = version; }
void stub_confidential(int on) { world.confidential = on; }
void stub_lose(int at, int lost) { world.gpu[at].lost = lost; }
void stub_busy(int at, unsigned percent) { world.gpu[at].busy = percent; }
void stub_limits_memory(int at) { world.gpu[at].memory_limits = 1; }
const char *stub_limit_group(int at) { return world.gpu[at].limit_group; }
uint64_t stub_limit(int at) { return world.gpu[at].limit; }
void stub_settle(int at) { world.gpu[at].on = world.gpu[at].pending; } /* a reset */
void stub_second_compute_instance(int at, unsigned id) { /* an operator's, in the GPU instance of this id */
    part_t *first = &world.gpu[at].parts[id - 1], *second = &world.gpu[at].parts[6];
    *second = *first;
    second->there = second->compute = 2;
    snprintf(second->uuid, sizeof second->uuid, "MIG-00000000-0000-0000-0000-%012d", ++world.made);
}
void stub_old_names(int at) { for (int i = 0; i < PROFILES; i++) world.gpu[at].kinds[i].info.name[0] = 0; }

int stub_gpu(const char *uuid, const char *serial, const char *name, const char *bus, const char *peer, const unsigned *facts, uint64_t mib) {
    gpu_t *gpu = &world.gpu[world.gpus];
    *gpu = (gpu_t){.handle = HANDLE_GPU, .number = world.gpus, .uuid = uuid, .serial = serial, .name = name, .bus = bus, .peer = peer,
                   .brand = facts[0], .architecture = facts[1], .major = facts[2], .minor = facts[3], .module = facts[4],
                   .addressing = facts[5], .mig = facts[6], .links = facts[7], .linked = facts[8], .pci_device = facts[9], .ecc = 1, .mib = mib};
    return world.gpus++;
}

void stub_fabric(int at, const uint8_t *cluster, unsigned clique, unsigned state, unsigned status, unsigned mask, unsigned summary) {
    fabric_v3_t *fabric = &world.gpu[at].fabric;
    memcpy(fabric->cluster, cluster, 16);
    fabric->clique = clique, fabric->state = state, fabric->status = status, fabric->mask = mask, fabric->summary = summary;
}

void stub_platform(int at, const char *chassis, unsigned slot, unsigned tray, unsigned host, unsigned module) {
    platform_t *to = &world.gpu[at].platform;
    *to = (platform_t){VERSION(platform_t, 2), "", "", slot, tray, host, 1, module};
    snprintf(to->chassis, sizeof to->chassis, "%s", chassis);
}

void stub_profile(int at, unsigned number, const char *name, const unsigned *facts, uint64_t mib, unsigned size, unsigned count, const unsigned *starts) {
    kind_t *to = &world.gpu[at].kinds[number];
    *to = (kind_t){1, {0, facts[0], 0, facts[1], facts[2], facts[3], facts[4], facts[5], facts[6], facts[7], facts[8], mib, ""}, size, count, {0}};
    snprintf(to->info.name, sizeof to->info.name, "MIG %s", name);
    memcpy(to->starts, starts, count * sizeof *starts);
}

void stub_use(int at, int list, unsigned pid, uint64_t bytes, unsigned instance) {
    world.process[world.processes].gpu = at;
    world.process[world.processes].list = list;
    world.process[world.processes++].process = (process_t){pid, bytes, instance, instance == WHOLE ? WHOLE : 0};
}

void stub_leave(unsigned pid) {
    for (int at = world.processes - 1; at >= 0; at--)
        if (world.process[at].process.pid == pid) world.process[at] = world.process[--world.processes];
}

void stub_event(int at, uint64_t type, uint64_t data, unsigned instance) { happen(&world.gpu[at], type, data, instance); }

void stub_recovery(int at, unsigned action) { world.gpu[at].recovery = action; stub_event(at, 0x8000, action, WHOLE); }

void stub_refuse(const char *call, int code, int once) {
    snprintf(world.refusal[world.refusals].call, 64, "%s", call);
    world.refusal[world.refusals].code = code;
    world.refusal[world.refusals++].once = once;
}

void stub_allow(void) { world.refusals = 0; }
