/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: one mapped file and its parsed header a shard, and one table of all tensors, sorted by
 * name. A file is 8 bytes (size of the header, little-endian), the header (a JSON object), and the
 * data, which the tensors must fill without gap or overlap.
 *
 * Leaves out: files written before safetensors 0.3 whose data is not aligned (refused with advice),
 * and pickled checkpoints.
 */
#include "model/safetensors.h"

#include "util/json.h"
#include "util/mapped_file.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"
#define HEADER_BYTES_MAX 100000000 /* the format's own bound */
#define SHARDS_MAX 4096

typedef struct Shard {
    char *path;
    const char *name; /* within path */
    MappedFile file;
    json_t *header;
    size_t header_end; /* where the data begins */
} Shard;

struct Safetensors {
    Shard *shards; /* [n_shards] */
    size_t n_shards;
    SafetensorsTensor *tensors; /* [n_tensors], sorted by name */
    size_t n_tensors, capacity;
};

/* Sub-byte types have no whole number of bytes a value and are not listed. */
static const struct {
    const char *name;
    uint32_t bytes;
    WeightFormat format;
} dtypes[] = {
    { "F32", 4, WEIGHT_F32 },         { "F16", 2, WEIGHT_F16 },
    { "BF16", 2, WEIGHT_BF16 },       { "F64", 8, WEIGHT_FORMATS },
    { "I64", 8, WEIGHT_FORMATS },     { "U64", 8, WEIGHT_FORMATS },
    { "I32", 4, WEIGHT_FORMATS },     { "U32", 4, WEIGHT_FORMATS },
    { "I16", 2, WEIGHT_FORMATS },     { "U16", 2, WEIGHT_FORMATS },
    { "I8", 1, WEIGHT_FORMATS },      { "U8", 1, WEIGHT_FORMATS },
    { "BOOL", 1, WEIGHT_FORMATS },    { "F8_E4M3", 1, WEIGHT_FORMATS },
    { "F8_E5M2", 1, WEIGHT_FORMATS }, { "F8_E8M0", 1, WEIGHT_FORMATS },
};

#define N_DTYPES (sizeof(dtypes) / sizeof(*dtypes))

/* one tensor of a header */

static int tensor_broken(const SafetensorsTensor *t, Reason *why, const char *format, ...)
    __attribute__((__format__(__printf__, 3, 4)));

static int tensor_broken(const SafetensorsTensor *t, Reason *why, const char *format, ...) {
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return reason_set(why, -EINVAL, "%s: tensor \"%s\": %s", t->path, t->name, text);
}

static int read_dtype(SafetensorsTensor *t, const json_t *entry, uint32_t *value_bytes,
                      Reason *why) {
    int r;

    r = json_required(json_get_word(entry, "dtype", &t->dtype, why), "dtype", why);
    if (r)
        return reason_prefix(why, r, "%s: tensor \"%s\": ", t->path, t->name);
    for (size_t i = 0; i < N_DTYPES; i++)
        if (!strcmp(t->dtype, dtypes[i].name)) {
            *value_bytes = dtypes[i].bytes;
            t->format = dtypes[i].format;
            return 0;
        }
    return tensor_broken(t, why, "its type \"%s\" is not known; F32, F16 and BF16 can be used",
                         t->dtype);
}

/* Also counts the bytes, without overflow. */
static int read_shape(SafetensorsTensor *t, const json_t *entry, uint32_t value_bytes,
                      Reason *why) {
    const json_t *shape = NULL;
    uint64_t size_bytes = value_bytes;
    int r;

    r = json_required(json_get_array(entry, "shape", &shape, why), "shape", why);
    if (r)
        return reason_prefix(why, r, "%s: tensor \"%s\": ", t->path, t->name);
    if (json_array_size(shape) > SAFETENSORS_DIMS_MAX)
        return tensor_broken(t, why, "it has %zu dimensions; expected at most %d",
                             json_array_size(shape), SAFETENSORS_DIMS_MAX);
    t->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        int64_t dim;

        if (!json_as_i64(json_array_get(shape, i), 0, INT64_MAX, &dim))
            return tensor_broken(t, why, "dimension %" PRIu32 " is not a whole number from 0 on",
                                 i);
        t->dims[i] = (uint64_t)dim;
        if (__builtin_mul_overflow(size_bytes, t->dims[i], &size_bytes))
            return tensor_broken(t, why, "its shape has more values than a file can hold");
    }
    t->size_bytes = size_bytes;
    return 0;
}

static int read_offsets(const Shard *shard, SafetensorsTensor *t, const json_t *entry,
                        Reason *why) {
    const json_t *offsets = NULL;
    uint64_t data_bytes = shard->file.size - shard->header_end;
    int64_t begin, end;
    int r;

    r = json_required(json_get_array(entry, "data_offsets", &offsets, why), "data_offsets", why);
    if (r)
        return reason_prefix(why, r, "%s: tensor \"%s\": ", t->path, t->name);
    if (json_array_size(offsets) != 2 ||
        !json_as_i64(json_array_get(offsets, 0), 0, INT64_MAX, &begin) ||
        !json_as_i64(json_array_get(offsets, 1), begin, INT64_MAX, &end))
        return tensor_broken(t, why, "its data_offsets are not two rising whole numbers");
    if ((uint64_t)end > data_bytes)
        return tensor_broken(t, why,
                             "its data ends at byte %" PRId64
                             " of the data, but the file holds %" PRIu64
                             "; it is cut off or damaged",
                             end, data_bytes);
    if ((uint64_t)(end - begin) != t->size_bytes)
        return tensor_broken(t, why,
                             "its shape and type need %zu bytes, its data_offsets give %" PRId64,
                             t->size_bytes, end - begin);
    t->data = shard->file.data + shard->header_end + begin;
    return 0;
}

static int read_tensor(const Shard *shard, SafetensorsTensor *t, const char *name,
                       const json_t *entry, Reason *why) {
    uint32_t value_bytes = 0;
    int r;

    *t = (SafetensorsTensor){ .name = name, .path = shard->path };
    if (!json_is_object(entry))
        return tensor_broken(t, why, "expected an object with dtype, shape and data_offsets");
    r = read_dtype(t, entry, &value_bytes, why);
    if (!r)
        r = read_shape(t, entry, value_bytes, why);
    if (!r)
        r = read_offsets(shard, t, entry, why);
    if (r)
        return r;
    if ((uintptr_t)t->data % value_bytes)
        return tensor_broken(
            t, why,
            "its data is not aligned to %" PRIu32
            " bytes, as before safetensors 0.3; save the file again with a current "
            "version",
            value_bytes);
    return 0;
}

/* one file */

static int compare_data(const void *a, const void *b) {
    const SafetensorsTensor *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

/* The tensors of one shard must cover its data exactly. Sorts them by place. */
static int check_coverage(const Shard *shard, SafetensorsTensor *tensors, size_t n, Reason *why) {
    const uint8_t *at = shard->file.data + shard->header_end;
    const uint8_t *end = shard->file.data + shard->file.size;

    qsort(tensors, n, sizeof(*tensors), compare_data);
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].data < at)
            return tensor_broken(&tensors[i], why, "its data overlaps that of \"%s\"",
                                 tensors[i - 1].name);
        if (tensors[i].data > at)
            return tensor_broken(&tensors[i], why,
                                 "%td bytes before its data belong to no tensor; the file is "
                                 "damaged",
                                 tensors[i].data - at);
        at += tensors[i].size_bytes;
    }
    if (at != end)
        return reason_set(why, -EINVAL,
                          "%s: the last %td bytes belong to no tensor; the file is damaged",
                          shard->path, end - at);
    return 0;
}

static int reserve_tensors(Safetensors *st, size_t n) {
    SafetensorsTensor *tensors;

    if (st->tensors && st->capacity - st->n_tensors >= n)
        return 0;
    /* An array even if no file has a tensor: sorting and counting then need no exception. */
    tensors = reallocarray(st->tensors, st->n_tensors + n + 1, sizeof(*tensors));
    if (!tensors)
        return -ENOMEM;
    st->tensors = tensors;
    st->capacity = st->n_tensors + n;
    return 0;
}

static int read_header(Shard *shard, Reason *why) {
    uint64_t size;
    int r;

    if (shard->file.size < sizeof(size))
        return reason_set(why, -EINVAL,
                          "%s: not a safetensors file: it has %zu bytes, its header's size alone "
                          "takes 8",
                          shard->path, shard->file.size);
    memcpy(&size, shard->file.data, sizeof(size));
    if (size > HEADER_BYTES_MAX)
        return reason_set(why, -EINVAL,
                          "%s: not a safetensors file: its header would have %" PRIu64
                          " bytes; expected at most %d",
                          shard->path, size, HEADER_BYTES_MAX);
    if (size > shard->file.size - sizeof(size))
        return reason_set(why, -EINVAL,
                          "%s: its header has %" PRIu64
                          " bytes, but the file ends after %zu; it is cut off or damaged",
                          shard->path, size, shard->file.size - sizeof(size));
    shard->header_end = sizeof(size) + (size_t)size;
    r = json_parse(&shard->header, (const char *)shard->file.data + sizeof(size), (size_t)size,
                   JSON_REJECT_DUPLICATES, why);
    if (r)
        return reason_prefix(why, r, "%s: header: ", shard->path);
    if (!json_is_object(shard->header))
        return reason_set(why, -EINVAL, "%s: header: expected a JSON object", shard->path);
    return 0;
}

static int read_shard(Safetensors *st, Shard *shard, Reason *why) {
    size_t first = st->n_tensors;
    const json_t *name, *entry;
    int r;

    r = mapped_file_open(&shard->file, shard->path, why);
    if (!r)
        r = read_header(shard, why);
    if (!r)
        r = reserve_tensors(st, json_object_size(shard->header));
    if (r)
        return r;
    json_object_foreach(shard->header, name, entry) {
        if (json_string_is(name, "__metadata__"))
            continue;
        if (json_string_has_nul(name))
            return reason_set(why, -EINVAL, "%s: the name of a tensor holds NUL", shard->path);
        r = read_tensor(shard, &st->tensors[st->n_tensors], json_string_value(name), entry, why);
        if (r)
            return r;
        st->n_tensors++;
    }
    return check_coverage(shard, st->tensors + first, st->n_tensors - first, why);
}

/* the index */

/* A shard lies beside its index: a name that leads elsewhere is refused. */
static bool is_plain_name(const json_t *value) {
    const char *name = json_string_value(value);
    size_t size = json_string_length(value);

    return size && size <= NAME_MAX && strlen(name) == size && !strchr(name, '/') &&
           strcmp(name, ".") && strcmp(name, "..");
}

static int add_shard(Safetensors *st, const char *directory, const char *name) {
    Shard *shards, shard = { .path = NULL };

    for (size_t i = 0; i < st->n_shards; i++)
        if (!strcmp(st->shards[i].name, name))
            return 0;
    if (st->n_shards == SHARDS_MAX)
        return -E2BIG;
    if (asprintf(&shard.path, "%s/%s", directory, name) < 0)
        return -ENOMEM;
    shard.name = shard.path + strlen(directory) + 1;
    shards = reallocarray(st->shards, st->n_shards + 1, sizeof(*shards));
    if (!shards) {
        free(shard.path);
        return -ENOMEM;
    }
    shards[st->n_shards++] = shard;
    st->shards = shards;
    return 0;
}

static int add_indexed_shards(Safetensors *st, const char *directory, const json_t *map,
                              Reason *why) {
    const json_t *tensor, *name;
    int r;

    json_object_foreach(map, tensor, name) {
        if (json_string_has_nul(tensor))
            return reason_set(why, -EINVAL, "%s/" INDEX_NAME ": the name of a tensor holds NUL",
                              directory);
        if (!is_plain_name(name))
            return reason_set(why, -EINVAL,
                              "%s/" INDEX_NAME
                              ": tensor \"%s\": expected the name of a file beside "
                              "the index",
                              directory, json_string_value(tensor));
        r = add_shard(st, directory, json_string_value(name));
        if (r == -E2BIG)
            return reason_set(why, -EINVAL, "%s/" INDEX_NAME ": it names more than %d files",
                              directory, SHARDS_MAX);
        if (r)
            return r;
    }
    return 0;
}

/* All that are missing, at once: whoever downloads again wants the whole list. */
static int check_shards_present(const Safetensors *st, Reason *why) {
    char names[512] = "";
    size_t n_missing = 0;

    for (size_t i = 0; i < st->n_shards; i++)
        if (access(st->shards[i].path, F_OK)) {
            size_t used = strlen(names);

            snprintf(names + used, sizeof(names) - used, "%s%s", n_missing ? ", " : "",
                     st->shards[i].name);
            n_missing++;
        }
    if (!n_missing)
        return 0;
    return reason_set(why, -ENOENT, "%.*s: %zu of %zu files that the index names are missing: %s",
                      (int)(st->shards[0].name - st->shards[0].path - 1), st->shards[0].path,
                      n_missing, st->n_shards, names);
}

static int check_index(const Safetensors *st, const char *directory, const json_t *map,
                       Reason *why) {
    const json_t *tensor, *name;

    json_object_foreach(map, tensor, name) {
        const SafetensorsTensor *t = safetensors_find(st, json_string_value(tensor));

        if (!t || strcmp(t->path + strlen(directory) + 1, json_string_value(name)))
            return reason_set(why, -EINVAL,
                              "%s/%s: it lacks tensor \"%s\", which " INDEX_NAME " places there",
                              directory, json_string_value(name), json_string_value(tensor));
    }
    return 0;
}

/* the directory */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const SafetensorsTensor *)a)->name, ((const SafetensorsTensor *)b)->name);
}

static int read_shards(Safetensors *st, Reason *why) {
    int r;

    for (size_t i = 0; i < st->n_shards; i++) {
        r = read_shard(st, &st->shards[i], why);
        if (r)
            return r;
    }
    qsort(st->tensors, st->n_tensors, sizeof(*st->tensors), compare_names);
    for (size_t i = 1; i < st->n_tensors; i++)
        if (!compare_names(&st->tensors[i - 1], &st->tensors[i]))
            return reason_set(why, -EINVAL, "%s: tensor \"%s\" is also in %s", st->tensors[i].path,
                              st->tensors[i].name, st->tensors[i - 1].path);
    return 0;
}

static int read_indexed(Safetensors *st, const char *directory, const char *index_path,
                        Reason *why) {
    CLEANUP(json_unref) json_t *index = NULL;
    const json_t *map;
    int r;

    r = json_load_path(&index, index_path, JSON_REJECT_DUPLICATES, why);
    if (r)
        return r;
    map = json_object_get(index, "weight_map");
    if (!json_is_object(map) || !json_object_size(map))
        return reason_set(why, -EINVAL,
                          "%s: key \"weight_map\": expected an object of tensor and file names",
                          index_path);
    r = add_indexed_shards(st, directory, map, why);
    if (!r)
        r = check_shards_present(st, why);
    if (!r)
        r = read_shards(st, why);
    if (!r)
        r = check_index(st, directory, map, why);
    return r;
}

static int read_directory(Safetensors *st, const char *directory, Reason *why) {
    CLEANUP(free) char *single = NULL, *index = NULL;
    int r;

    if (asprintf(&single, "%s/" SINGLE_NAME, directory) < 0)
        return -ENOMEM;
    if (asprintf(&index, "%s/" INDEX_NAME, directory) < 0)
        return -ENOMEM;
    if (!access(single, F_OK)) {
        r = add_shard(st, directory, SINGLE_NAME);
        return r ? r : read_shards(st, why);
    }
    if (!access(index, F_OK))
        return read_indexed(st, directory, index, why);
    return reason_set(why, -ENOENT,
                      "%s: neither " SINGLE_NAME " nor " INDEX_NAME " is there; weights are read "
                      "from safetensors or GGUF files only",
                      directory);
}

int safetensors_open(Safetensors **outp, const char *directory, Reason *why) {
    CLEANUP(safetensors_free) Safetensors *st = calloc(1, sizeof(*st));
    int r = -ENOMEM;

    if (st)
        r = read_directory(st, directory, why);
    if (r == -ENOMEM)
        return reason_set(why, r, "%s: out of memory", directory);
    if (!r)
        *outp = TAKE(st);
    return r;
}

Safetensors *safetensors_free(Safetensors *st) {
    if (!st)
        return NULL;
    for (size_t i = 0; i < st->n_shards; i++) {
        json_unref(st->shards[i].header);
        mapped_file_close(&st->shards[i].file);
        free(st->shards[i].path);
    }
    free(st->shards);
    free(st->tensors);
    free(st);
    return NULL;
}

size_t safetensors_n_tensors(const Safetensors *st) {
    return st->n_tensors;
}

const SafetensorsTensor *safetensors_tensor(const Safetensors *st, size_t i) {
    assert(i < st->n_tensors);
    return &st->tensors[i];
}

const SafetensorsTensor *safetensors_find(const Safetensors *st, const char *name) {
    const SafetensorsTensor wanted = { .name = name };

    if (!st->n_tensors)
        return NULL;
    return bsearch(&wanted, st->tensors, st->n_tensors, sizeof(*st->tensors), compare_names);
}
