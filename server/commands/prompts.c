/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/prompts.h"

#include "model/checkpoint.h"
#include "util/json.h"

#include <errno.h>

static int read_prompt(Prompt *out, const json_t *ids, uint32_t n_vocab, uint32_t n_tokens_max,
                       Reason *why) {
    size_t n = json_array_size(ids), i;
    const json_t *id;

    if (!json_is_array(ids) || !n || n > n_tokens_max)
        return reason_set(why, -EINVAL, "expected an array of 1 to %u token ids", n_tokens_max);
    out->ids = malloc(n * sizeof(*out->ids));
    if (!out->ids)
        return reason_set(why, -ENOMEM, "out of memory");
    out->n = (uint32_t)n;
    json_array_foreach(ids, i, id) {
        int64_t value;
        char text[64];

        if (!json_as_i64(id, 0, (int64_t)n_vocab - 1, &value))
            return reason_set(why, -EINVAL, "token %zu is %s; the model has ids 0 to %u", i,
                              json_describe(id, text, sizeof(text)), n_vocab - 1);
        out->ids[i] = (uint32_t)value;
    }
    return 0;
}

int prompts_read(Prompts *out, const char *path, uint32_t n_vocab, uint32_t n_tokens_max,
                 Reason *why) {
    CLEANUP(prompts_deinit) Prompts prompts = PROMPTS_NULL;
    CLEANUP(json_unref) json_t *root = NULL;
    const json_t *list = NULL, *ids;
    size_t i;
    int r;

    r = json_load_path(&root, path, JSON_REJECT_DUPLICATES, why);
    if (r)
        return r;
    if (!json_is_object(root))
        return reason_set(why, -EINVAL, "%s: expected {\"input_ids\": [[...], ...]}", path);
    r = json_required(json_get_array(root, "input_ids", &list, why), "input_ids", why);
    if (r)
        return reason_prefix(why, r, "%s: ", path);
    prompts.items = calloc(json_array_size(list) + 1, sizeof(*prompts.items));
    if (!prompts.items)
        return reason_set(why, -ENOMEM, "out of memory");
    json_array_foreach(list, i, ids) {
        prompts.n++;
        r = read_prompt(&prompts.items[i], ids, n_vocab, n_tokens_max, why);
        if (r)
            return reason_prefix(why, r, "%s: prompt %zu: ", path, i);
    }
    *out = prompts;
    prompts = (Prompts)PROMPTS_NULL;
    return 0;
}

int prompts_read_for(Prompts *out, const char *path, const char *model_path, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    const ModelConfig *model;
    int r = checkpoint_open(&checkpoint, model_path, why);

    if (r)
        return r;
    model = checkpoint_config(checkpoint);
    return prompts_read(out, path, model->n_vocab, model->max_position, why);
}

void prompts_deinit(Prompts *prompts) {
    for (uint32_t i = 0; i < prompts->n; i++)
        free(prompts->items[i].ids);
    free(prompts->items);
    *prompts = (Prompts)PROMPTS_NULL;
}
