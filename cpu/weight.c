/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Packs a matrix into groups of 32 rows (cpu/weight_layout.h) and reads single rows back.
 *
 * Every block format passes through BlockValues, a block spelled out: one reader a format, one
 * writer for all. Rows may come in another order than they are stored (row_order).
 */

#include "cpu/weight.h"

#include "cpu/weight_layout.h"
#include "util/huge_pages.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_VALUES_MAX 256
#define GROUPS_PER_TASK 8
#define PLAIN_COLS 64

static_assert(HUGE_PAGES_ALIGN_BYTES % WEIGHT_ALIGN_BYTES == 0, "a weight's data is aligned");

typedef struct BlockValues {
    uint16_t d, min;                  /* f16: d and m, or d and dmin */
    uint8_t scales[16], mins[16];     /* of a k format's parts; q6_k's scales are signed */
    uint8_t quants[BLOCK_VALUES_MAX]; /* q as stored */
} BlockValues;

static uint16_t load_u16(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

static float f16_to_f32(const uint8_t *p) {
    float x;
    weight_to_f32(WEIGHT_F16, p, &x, 1);
    return x;
}

/* 16 bytes of nibbles: values 0 .. 15 in the low ones, 16 .. 31 in the high ones. */
static void read_nibbles(uint8_t *q, const uint8_t *src) {
    for (uint32_t i = 0; i < 16; i++) {
        q[i] = src[i] & 15;
        q[i + 16] = src[i] >> 4;
    }
}

/* 32 bits: the fifth of each value. */
static void read_fifth_bits(uint8_t *q, const uint8_t *src) {
    for (uint32_t i = 0; i < 32; i++)
        q[i] |= (src[i / 8] >> (i % 8) & 1) << 4;
}

/* 12 bytes hold eight 6-bit scales and eight 6-bit mins (ggml's get_scale_min_k4). */
static void read_k_scales(BlockValues *b, const uint8_t *src) {
    for (uint32_t i = 0; i < 4; i++) {
        b->scales[i] = src[i] & 63;
        b->mins[i] = src[i + 4] & 63;
        b->scales[i + 4] = (src[i + 8] & 15) | (src[i] >> 6) << 4;
        b->mins[i + 4] = src[i + 8] >> 4 | (src[i + 4] >> 6) << 4;
    }
}

/* 128 bytes: in each 32, the low nibbles are 32 values and the high nibbles the next 32. */
static void read_k_nibbles(uint8_t *q, const uint8_t *src) {
    for (uint32_t i = 0; i < 128; i++) {
        uint8_t *to = q + i / 32 * 64 + i % 32;
        to[0] = src[i] & 15;
        to[32] = src[i] >> 4;
    }
}

static void read_q6_k(BlockValues *b, const uint8_t *src) {
    const uint8_t *low = src, *high = src + 128;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t half = i / 128, quarter = i % 128 / 32, column = i % 32;
        uint8_t nibbles = low[half * 64 + quarter % 2 * 32 + column];
        uint8_t twos = high[half * 32 + column];
        uint8_t nibble = quarter < 2 ? nibbles & 15 : nibbles >> 4;
        b->quants[i] = nibble | (twos >> (2 * quarter) & 3) << 4;
    }
    memcpy(b->scales, src + 192, 16);
    b->d = load_u16(src + 208);
}

static void block_read(WeightFormat format, BlockValues *b, const uint8_t *src) {
    if (format == WEIGHT_Q6_K) {
        read_q6_k(b, src);
        return;
    }
    b->d = load_u16(src);
    src += 2;
    if (format_has_min(format)) {
        b->min = load_u16(src);
        src += 2;
    }
    switch (format) {
    case WEIGHT_Q8_0:
        memcpy(b->quants, src, 32);
        break;
    case WEIGHT_Q4_0:
    case WEIGHT_Q4_1:
        read_nibbles(b->quants, src);
        break;
    case WEIGHT_Q5_0:
    case WEIGHT_Q5_1:
        read_nibbles(b->quants, src + 4);
        read_fifth_bits(b->quants, src);
        break;
    case WEIGHT_Q4_K:
        read_k_scales(b, src);
        read_k_nibbles(b->quants, src + 12);
        break;
    case WEIGHT_Q5_K:
        read_k_scales(b, src);
        read_k_nibbles(b->quants, src + 44);
        for (uint32_t i = 0; i < 256; i++)
            b->quants[i] |= (src[12 + i % 32] >> (i / 32) & 1) << 4;
        break;
    default:
        assert(false);
    }
}

/* The field of (lane, column) in a plane: a 16-bit word and the shift within it. */
static uint16_t *plane_word(uint8_t *plane, uint32_t bits, uint32_t lane, uint32_t column,
                            uint32_t *shiftp) {
    uint32_t pair = column / 2, pairs_per_slice = 16 / bits;
    uint8_t *slice = plane + pair / pairs_per_slice * SLICE_BYTES;
    *shiftp = pair % pairs_per_slice * bits;
    return (uint16_t *)(void *)slice + lane * 2 + column % 2;
}

/* A lane of a plane: `bits` bits of each of a run's values, from bit from_bit on. */
static inline void plane_write(uint8_t *plane, uint32_t bits, uint32_t lane, const uint8_t *q,
                               uint32_t from_bit) {
    uint32_t per_word = 16 / bits, mask = (1u << bits) - 1;
    for (uint32_t slice = 0; slice < bits; slice++)
        for (uint32_t half = 0; half < 2; half++) {
            const uint8_t *first = q + 2 * slice * per_word + half;
            uint32_t word = 0;
            for (uint32_t i = 0; i < per_word; i++)
                word |= (first[2 * i] >> from_bit & mask) << (i * bits);
            uint16_t stored = (uint16_t)word;
            memcpy(plane + slice * SLICE_BYTES + lane * 4 + half * 2, &stored, sizeof(stored));
        }
}

static uint32_t plane_get(const uint8_t *plane, uint32_t bits, uint32_t lane, uint32_t column) {
    uint32_t shift;
    const uint16_t *word = plane_word((uint8_t *)plane, bits, lane, column, &shift);
    return *word >> shift & ((1u << bits) - 1);
}

static void run_put(WeightFormat format, uint8_t *run, uint32_t lane, const uint8_t *q) {
    if (format_low_bits(format) == 8)
        plane_write(run, 8, lane, q, 0);
    else
        plane_write(run, 4, lane, q, 0);
    if (format_high_bits(format) == 1)
        plane_write(run + plane_bytes(4), 1, lane, q, 4);
    else if (format_high_bits(format) == 2)
        plane_write(run + plane_bytes(4), 2, lane, q, 4);
}

/* column: of the block. */
static int32_t quant_get(WeightFormat format, const uint8_t *block, uint32_t lane,
                         uint32_t column) {
    uint32_t low_bits = format_low_bits(format), high_bits = format_high_bits(format);
    const uint8_t *run =
        block + format_header_bytes(format) + column / RUN_COLS * format_run_bytes(format);
    uint32_t q = plane_get(run, low_bits, lane, column % RUN_COLS);
    if (high_bits)
        q |= plane_get(run + plane_bytes(low_bits), high_bits, lane, column % RUN_COLS) << low_bits;
    return format == WEIGHT_Q8_0 ? (int8_t)q : (int32_t)q - format_zero(format);
}

static void header_put(WeightFormat format, uint8_t *block, uint32_t lane, const BlockValues *b) {
    memcpy(block + lane * 2, &b->d, 2);
    if (format_has_min(format))
        memcpy(block + HEADER_MIN + lane * 2, &b->min, 2);
    if (!format_is_k(format))
        return;
    for (uint32_t i = 0; i < 256 / format_scale_cols(format); i++) {
        block[header_part(format, i) + lane] = b->scales[i];
        if (format_has_min(format))
            block[header_part(format, i) + GROUP_ROWS + lane] = b->mins[i];
    }
}

typedef struct PackArgs {
    const Weight *weight;
    const WeightSource *source;
} PackArgs;

static const uint8_t *source_row(const WeightSource *source, uint32_t row) {
    uint32_t from = source->row_order ? source->row_order[row] : row;
    return (const uint8_t *)source->data + from * weight_row_bytes(source->format, source->n_cols);
}

/* Rows inside, blocks outside: what is written stays in the cache until it is whole. */
static void pack_block_group(const WeightSource *source, uint8_t *group, uint32_t row,
                             uint32_t n_rows) {
    WeightFormat format = source->format;
    const WeightFormatInfo *info = &weight_formats[format];
    BlockValues values = { 0 };
    for (uint32_t i = 0; i < source->n_cols / info->block_values; i++) {
        uint8_t *block = group + i * format_block_bytes(format);
        for (uint32_t lane = 0; lane < n_rows; lane++) {
            block_read(format, &values,
                       source_row(source, row + lane) + (size_t)i * info->block_bytes);
            header_put(format, block, lane, &values);
            for (uint32_t j = 0; j < format_block_runs(format); j++)
                run_put(format, block + format_header_bytes(format) + j * format_run_bytes(format),
                        lane, values.quants + j * RUN_COLS);
        }
    }
}

/* The same, with PLAIN_COLS columns for a block. */
static void pack_plain_group(const WeightSource *source, uint8_t *group, uint32_t row,
                             uint32_t n_rows) {
    bool wide = weight_formats[source->format].block_bytes == 4;
    for (uint32_t i = 0; i < source->n_cols; i += PLAIN_COLS) {
        uint32_t end = source->n_cols - i < PLAIN_COLS ? source->n_cols : i + PLAIN_COLS;
        for (uint32_t lane = 0; lane < n_rows; lane++) {
            const uint8_t *from = source_row(source, row + lane);
            for (uint32_t j = i; wide && j < end; j++)
                memcpy(group + ((size_t)j * GROUP_ROWS + lane) * 4, from + (size_t)j * 4, 4);
            for (uint32_t j = i; !wide && j < end; j++)
                memcpy(group + ((size_t)j * GROUP_ROWS + lane) * 2, from + (size_t)j * 2, 2);
        }
    }
}

static void pack_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    (void)i_thread;
    const PackArgs *args = arg;
    const Weight *weight = args->weight;
    uint32_t end = (i_task + 1) * GROUPS_PER_TASK;
    for (uint32_t i = i_task * GROUPS_PER_TASK; i < end && i < weight->n_groups; i++) {
        uint32_t row = i * GROUP_ROWS;
        uint32_t n_rows = weight->n_rows - row < GROUP_ROWS ? weight->n_rows - row : GROUP_ROWS;
        uint8_t *group = weight->data + i * weight->group_bytes;
        memset(group, 0, weight->group_bytes);
        if (format_is_block(weight->format))
            pack_block_group(args->source, group, row, n_rows);
        else
            pack_plain_group(args->source, group, row, n_rows);
    }
}

static int weight_check(const WeightSource *source, Reason *why) {
    if ((unsigned)source->format >= WEIGHT_FORMATS)
        return reason_set(why, -EINVAL, "unknown weight format %d", (int)source->format);
    const WeightFormatInfo *info = &weight_formats[source->format];
    if (source->n_rows == 0 || source->n_cols == 0)
        return reason_set(why, -EINVAL, "a weight of %u rows and %u columns is empty",
                          source->n_rows, source->n_cols);
    if (source->n_rows > UINT32_MAX - GROUPS_PER_TASK * GROUP_ROWS)
        return reason_set(why, -EINVAL, "a weight of %u rows: too many", source->n_rows);
    if (source->n_cols % info->block_values)
        return reason_set(why, -EINVAL,
                          "rows of %u values are not whole blocks of %s, which hold %u values",
                          source->n_cols, info->name, info->block_values);
    for (uint32_t i = 0; source->row_order && i < source->n_rows; i++)
        if (source->row_order[i] >= source->n_rows)
            return reason_set(why, -EINVAL, "row order: %u at %u, of %u rows", source->row_order[i],
                              i, source->n_rows);
    return 0;
}

/* A group's size. At most 2^32 columns of 4 bytes and 32 rows: no overflow in 64 bits. */
static void weight_measure(Weight *weight) {
    const WeightFormatInfo *info = &weight_formats[weight->format];
    weight->n_groups = (weight->n_rows - 1) / GROUP_ROWS + 1;
    if (!format_is_block(weight->format)) {
        weight->group_bytes = (size_t)weight->n_cols * info->block_bytes * GROUP_ROWS;
        return;
    }
    weight->group_bytes =
        (size_t)weight->n_cols / info->block_values * format_block_bytes(weight->format);
}

int cpu_weight_new(Weight **outp, CpuTeam *team, const WeightSource *source, Reason *why) {
    int r = weight_check(source, why);
    if (r < 0)
        return r;
    CLEANUP(cpu_weight_free) Weight *weight = calloc(1, sizeof(*weight));
    if (!weight)
        return reason_set(why, -ENOMEM, "no memory for a weight");
    weight->format = source->format;
    weight->n_rows = source->n_rows;
    weight->n_cols = source->n_cols;
    weight_measure(weight);

    size_t size;
    if (__builtin_mul_overflow(weight->group_bytes, weight->n_groups, &size))
        return reason_set(why, -ENOMEM, "a weight of %u rows and %u columns is too large",
                          source->n_rows, source->n_cols);
    weight->data_bytes = size;
    weight->data = huge_pages_alloc(size);
    if (!weight->data)
        return reason_set(why, -ENOMEM, "no memory for a weight of %zu bytes", size);

    PackArgs args = { .weight = weight, .source = source };
    cpu_team_run(team, pack_task, &args, (weight->n_groups - 1) / GROUPS_PER_TASK + 1);
    *outp = TAKE(weight);
    return 0;
}

Weight *cpu_weight_free(Weight *weight) {
    if (weight) {
        free(weight->data);
        free(weight);
    }
    return NULL;
}

uint32_t cpu_weight_rows(const Weight *weight) {
    return weight->n_rows;
}

uint32_t cpu_weight_cols(const Weight *weight) {
    return weight->n_cols;
}

size_t cpu_weight_bytes(const Weight *weight) {
    return weight->data_bytes + sizeof(*weight);
}

/* Scale and min of (lane, column), from a block's header. */
static float header_scale(WeightFormat format, const uint8_t *block, uint32_t lane, uint32_t column,
                          float *minp) {
    float d = f16_to_f32(block + lane * 2);
    *minp = format_has_min(format) ? f16_to_f32(block + HEADER_MIN + lane * 2) : 0;
    if (!format_is_k(format))
        return d;
    const uint8_t *part = block + header_part(format, column / format_scale_cols(format)) + lane;
    if (format == WEIGHT_Q6_K)
        return d * (float)(int8_t)*part;
    *minp = -(*minp * (float)part[GROUP_ROWS]);
    return d * (float)*part;
}

static void block_to_f32(WeightFormat format, const uint8_t *block, uint32_t lane, float *dst) {
    uint32_t scale_cols = format_scale_cols(format);
    for (uint32_t i = 0; i < weight_formats[format].block_values; i += scale_cols) {
        float min, scale = header_scale(format, block, lane, i, &min);
        for (uint32_t j = i; j < i + scale_cols; j++) {
            float product = scale * (float)quant_get(format, block, lane, j);
            dst[j] = format_has_min(format) ? product + min : product;
        }
    }
}

void cpu_weight_row_to_f32(const Weight *weight, uint32_t row, float *dst) {
    assert(row < weight->n_rows);
    const uint8_t *group = weight->data + row / GROUP_ROWS * weight->group_bytes;
    uint32_t lane = row % GROUP_ROWS;
    uint32_t block_values = weight_formats[weight->format].block_values;
    if (format_is_block(weight->format)) {
        for (uint32_t i = 0; i < weight->n_cols; i += block_values)
            block_to_f32(weight->format,
                         group + i / block_values * format_block_bytes(weight->format), lane,
                         dst + i);
        return;
    }
    size_t value_bytes = weight_formats[weight->format].block_bytes;
    for (uint32_t i = 0; i < weight->n_cols; i++)
        weight_to_f32(weight->format, group + ((size_t)i * GROUP_ROWS + lane) * value_bytes,
                      dst + i, 1);
}
