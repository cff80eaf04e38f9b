/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/device_rates.h"

#include "server/commands/bandwidth.h"
#include "server/commands/model_run.h"
#include "server/commands/sgemm.h"

#ifdef KVASIR_CUDA
#include "cuda/cuda_backend.h"
#include "cuda/measure.h"
#endif

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void read_processor_name(char *name, size_t size) {
    CLEANUP(fclose) FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(name, size, "unknown processor");
    while (file && fgets(line, sizeof(line), file)) {
        const char *value = strchr(line, ':');

        if (strncmp(line, "model name", strlen("model name")) != 0 || !value)
            continue;
        snprintf(name, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        return;
    }
}

static int measure_cpu(DeviceRates *out, const Session *session, uint32_t n_threads,
                       double weight_bytes, Reason *why) {
    CLEANUP(cpu_team_free) CpuTeam *team = NULL;
    const ModelConfig *c = session->config;
    long cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    SgemmRate rate = { .library = NULL };
    int r = cpu_team_new(&team, n_threads, why);

    if (!r)
        r = bandwidth_measure(team, bandwidth_memory_bytes(), &out->read_bytes_per_s, why);
    if (!r)
        r = bandwidth_measure(team, (size_t)weight_bytes, &out->weights_read_bytes_per_s, why);
    if (r)
        return r;
    read_processor_name(out->name, sizeof(out->name));
    out->n_units = cpu_team_threads(team);
    out->cache_bytes = cache_bytes > 0 ? (size_t)cache_bytes : 0;
    out->n_tokens = MODEL_RUN_STEP_TOKENS;
    out->n_in = c->dim;
    out->n_out = c->ffn_dim;
    r = sgemm_measure(out->n_units, out->n_tokens, out->n_out, out->n_in, &rate, why);
    out->library = rate.library;
    out->madds_per_s = rate.madds_per_s;
    return r == -ENOENT ? 0 : r;
}

#ifdef KVASIR_CUDA
static int measure_gpu(DeviceRates *out, const Session *session, double weight_bytes, Reason *why) {
    CudaRates rates;
    int r = cuda_measure(session->backend, (size_t)weight_bytes, &rates, why);

    if (r)
        return r;
    snprintf(out->name, sizeof(out->name), "%s", rates.name);
    out->is_gpu = true;
    out->n_units = rates.n_multiprocessors;
    out->cache_bytes = rates.cache_bytes;
    out->read_bytes_per_s = rates.copy_bytes_per_s;
    out->weights_read_bytes_per_s = rates.weight_bytes_per_s;
    out->library = "cublasLt";
    out->madds_per_s = rates.madds_per_s;
    out->n_tokens = out->n_in = out->n_out = CUDA_MEASURE_SIDE;
    return 0;
}
#endif

int device_rates_measure(DeviceRates *out, Session *session, uint32_t n_threads,
                         double weight_bytes, Reason *why) {
    *out = (DeviceRates){ .library = NULL };
#ifdef KVASIR_CUDA
    if (session->ops == &cuda_ops)
        return measure_gpu(out, session, weight_bytes, why);
#endif
    return measure_cpu(out, session, n_threads, weight_bytes, why);
}
