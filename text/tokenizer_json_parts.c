/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Component by component, as Hugging Face's `tokenizers` 0.23 writes and understands them. Keys
 * that only matter for offsets (trim_offsets, type ids) are passed over.
 */

#include "text/tokenizer_json.h"

#include "util/utf8.h"

#include <errno.h>
#include <string.h>

#define COUNT(_array) (sizeof(_array) / sizeof((_array)[0]))
#define COMPONENT_TEXT_BYTES_MAX 4096

/* GPT-2's pattern, which a ByteLevel component with use_regex stands for. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

int tokenizer_json_copy(const json_t *component, const char *key, size_t size_max, char **outp,
                        size_t *size, Reason *why) {
    const char *text;
    int r = json_required(json_get_text(component, key, &text, size, why), key, why);

    if (r)
        return r;
    if (*size > size_max)
        return reason_set(why, -EINVAL, "key \"%s\": %zu bytes, at most %zu are taken", key, *size,
                          size_max);
    *outp = malloc(*size + 1);
    if (!*outp)
        return -ENOMEM;
    memcpy(*outp, text, *size);
    return 0;
}

int tokenizer_json_pattern(const json_t *component, TextPattern **outp, Reason *why) {
    const json_t *pattern;
    const char *text;
    size_t size;
    int r = json_required(json_get_object(component, "pattern", &pattern, why), "pattern", why);

    if (r)
        return r;
    r = json_get_text(pattern, "String", &text, &size, why);
    if (!r)
        return text_pattern_new_literal(outp, text, size, why);
    if (r == JSON_E_ABSENT)
        r = json_required(json_get_text(pattern, "Regex", &text, &size, why), "Regex", why);
    return r ? r : text_pattern_new_regex(outp, text, size, why);
}

/* Components by type. */

typedef struct ComponentKinds {
    const char *what, *list_key;
    const ComponentReader *readers;
    size_t n_readers;
} ComponentKinds;

static int component_read(Tokenizer *tokenizer, const json_t *component,
                          const ComponentKinds *kinds, int depth, Reason *why);

static int sequence_read(Tokenizer *tokenizer, const json_t *component, const ComponentKinds *kinds,
                         int depth, Reason *why) {
    const json_t *list, *item;
    size_t i;
    int r =
        json_required(json_get_array(component, kinds->list_key, &list, why), kinds->list_key, why);

    if (!r && depth >= TOKENIZER_JSON_DEPTH_MAX)
        return reason_set(why, -EINVAL, "sequences nested too deep");
    if (r)
        return r;
    json_array_foreach(list, i, item) {
        r = component_read(tokenizer, item, kinds, depth + 1, why);
        if (r)
            return r;
    }
    return 0;
}

static int component_read(Tokenizer *tokenizer, const json_t *component,
                          const ComponentKinds *kinds, int depth, Reason *why) {
    const char *type;
    char found[64];
    int r;

    if (!json_is_object(component))
        return reason_set(why, -EINVAL, "expected a component, found %s",
                          json_describe(component, found, sizeof(found)));
    r = json_required(json_get_word(component, "type", &type, why), "type", why);
    if (r)
        return r;
    if (!strcmp(type, "Sequence"))
        return sequence_read(tokenizer, component, kinds, depth, why);
    for (size_t i = 0; i < kinds->n_readers; i++) {
        if (strcmp(type, kinds->readers[i].type) != 0)
            continue;
        r = kinds->readers[i].read(tokenizer, component, why);
        return r ? reason_prefix(why, r, "%s: ", type) : 0;
    }
    return reason_set(why, -EINVAL, "type \"%.64s\" is not supported", type);
}

int tokenizer_json_component(Tokenizer *tokenizer, const json_t *component, const char *what,
                             const char *list_key, const ComponentReader *readers, size_t n_readers,
                             Reason *why) {
    ComponentKinds kinds = { what, list_key, readers, n_readers };
    int r;

    if (!component || json_is_null(component))
        return 0;
    r = component_read(tokenizer, component, &kinds, 0, why);
    return r ? reason_prefix(why, r, "%s: ", what) : 0;
}

/* Normalizers. */

static int read_form(Tokenizer *tokenizer, UnicodeForm form) {
    return normalizer_add(&tokenizer->normalizer,
                          (NormalizeStep){ .kind = NORMALIZE_UNICODE, .form = form });
}

static int read_nfc(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component, (void)why;
    return read_form(tokenizer, UNICODE_NFC);
}

static int read_nfd(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component, (void)why;
    return read_form(tokenizer, UNICODE_NFD);
}

static int read_nfkc(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component, (void)why;
    return read_form(tokenizer, UNICODE_NFKC);
}

static int read_nfkd(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component, (void)why;
    return read_form(tokenizer, UNICODE_NFKD);
}

static int read_lowercase(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component, (void)why;
    return normalizer_add(&tokenizer->normalizer, (NormalizeStep){ .kind = NORMALIZE_LOWERCASE });
}

static int read_prepend(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    NormalizeStep step = { .kind = NORMALIZE_PREPEND };
    int r = tokenizer_json_copy(component, "prepend", COMPONENT_TEXT_BYTES_MAX, &step.text,
                                &step.text_size, why);

    return r ? r : normalizer_add(&tokenizer->normalizer, step);
}

static int read_replace(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    NormalizeStep step = { .kind = NORMALIZE_REPLACE };
    int r = tokenizer_json_copy(component, "content", COMPONENT_TEXT_BYTES_MAX, &step.text,
                                &step.text_size, why);

    if (!r)
        r = tokenizer_json_pattern(component, &step.pattern, why);
    if (r) {
        free(step.text);
        return r;
    }
    return normalizer_add(&tokenizer->normalizer, step);
}

int tokenizer_json_normalizer(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    static const ComponentReader readers[] = {
        { "NFC", read_nfc },
        { "NFD", read_nfd },
        { "NFKC", read_nfkc },
        { "NFKD", read_nfkd },
        { "Prepend", read_prepend },
        { "Replace", read_replace },
        { "Lowercase", read_lowercase },
    };

    return tokenizer_json_component(tokenizer, component, "normalizer", "normalizers", readers,
                                    COUNT(readers), why);
}

/* Pre-tokenizers. */

static int cut_add(Tokenizer *tokenizer, CutStep step, Reason *why) {
    if (tokenizer->pretokenizer.n_steps == PRETOKENIZER_STEPS_MAX) {
        text_pattern_free(step.pattern);
        return reason_set(why, -EINVAL, "more than %d steps", PRETOKENIZER_STEPS_MAX);
    }
    return pretokenizer_add(&tokenizer->pretokenizer, step);
}

/* After bytes have become what the model sees, patterns over characters would not match. */
static int check_characters(const Tokenizer *tokenizer, Reason *why) {
    if (tokenizer->pretokenizer.byte_level)
        return reason_set(why, -EINVAL, "is not supported after ByteLevel");
    return 0;
}

static int read_behavior(const json_t *component, SplitBehavior *behavior, Reason *why) {
    static const char *const names[] = {
        [SPLIT_ISOLATED] = "Isolated",
        [SPLIT_REMOVED] = "Removed",
        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const char *name;
    int r = json_required(json_get_word(component, "behavior", &name, why), "behavior", why);

    for (size_t i = 0; !r && i < COUNT(names); i++) {
        if (!strcmp(name, names[i])) {
            *behavior = (SplitBehavior)i;
            return 0;
        }
    }
    return r ? r : reason_set(why, -EINVAL, "behavior \"%.64s\" is not supported", name);
}

/* A bool that has a default. */
static int read_bool(const json_t *component, const char *key, bool *value, Reason *why) {
    int r = json_get_bool(component, key, value, why);

    return r == JSON_E_ABSENT ? 0 : r;
}

static int read_split(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    CutStep step = { .kind = CUT_SPLIT };
    int r = check_characters(tokenizer, why);

    if (!r)
        r = read_behavior(component, &step.behavior, why);
    if (!r)
        r = read_bool(component, "invert", &step.invert, why);
    if (!r)
        r = tokenizer_json_pattern(component, &step.pattern, why);
    return r ? r : cut_add(tokenizer, step, why);
}

static int read_digits(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    CutStep step = { .kind = CUT_SPLIT };
    bool individual = false;
    int r = check_characters(tokenizer, why);

    if (!r)
        r = read_bool(component, "individual_digits", &individual, why);
    if (!r)
        r = text_pattern_new_regex(&step.pattern, "\\p{N}", strlen("\\p{N}"), why);
    step.behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return r ? r : cut_add(tokenizer, step, why);
}

static int read_byte_level(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    CutStep step = { .kind = CUT_SPLIT, .behavior = SPLIT_ISOLATED };
    bool prefix = true, use_regex = true;
    int r = check_characters(tokenizer, why);

    if (!r)
        r = read_bool(component, "add_prefix_space", &prefix, why);
    if (!r)
        r = read_bool(component, "use_regex", &use_regex, why);
    if (!r && prefix)
        r = cut_add(tokenizer, (CutStep){ .kind = CUT_PREFIX }, why);
    if (!r && use_regex) {
        r = text_pattern_new_regex(&step.pattern, gpt2_pattern, strlen(gpt2_pattern), why);
        if (!r)
            r = cut_add(tokenizer, step, why);
    }
    tokenizer->pretokenizer.byte_level = true;
    return r;
}

/* "replacement", one character; U+2581 where not given. */
static int read_mark(const json_t *component, char mark[4], size_t *mark_size, Reason *why) {
    const char *text = "\xe2\x96\x81";
    size_t size = 3;
    int r = json_get_text(component, "replacement", &text, &size, why);

    if (r && r != JSON_E_ABSENT)
        return r;
    if (!size || size != utf8_size(text[0]))
        return reason_set(why, -EINVAL, "replacement must be one character");
    memcpy(mark, text, size);
    *mark_size = size;
    return 0;
}

/* "prepend_scheme", or what older files say instead: "add_prefix_space". */
static int read_scheme(const json_t *component, CutPrefix *prefix, Reason *why) {
    const char *scheme = "always";
    bool add = true;
    int r = json_get_word(component, "prepend_scheme", &scheme, why);

    if (r == JSON_E_ABSENT) {
        r = read_bool(component, "add_prefix_space", &add, why);
        if (!add)
            scheme = "never";
    }
    if (r)
        return r;
    if (!strcmp(scheme, "always"))
        *prefix = CUT_PREFIX_ALWAYS;
    else if (!strcmp(scheme, "first"))
        *prefix = CUT_PREFIX_FIRST;
    else if (!strcmp(scheme, "never"))
        *prefix = CUT_PREFIX_NEVER;
    else
        return reason_set(why, -EINVAL, "prepend_scheme \"%.64s\" is not supported", scheme);
    return 0;
}

static int read_metaspace(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    CutStep step = { .kind = CUT_METASPACE };
    CutStep split = { .kind = CUT_SPLIT, .behavior = SPLIT_MERGED_WITH_NEXT };
    bool splits = true;
    int r = check_characters(tokenizer, why);

    if (!r)
        r = read_mark(component, step.mark, &step.mark_size, why);
    if (!r)
        r = read_scheme(component, &step.prefix, why);
    if (!r)
        r = read_bool(component, "split", &splits, why);
    if (!r)
        r = cut_add(tokenizer, step, why);
    if (r || !splits)
        return r;
    r = text_pattern_new_literal(&split.pattern, step.mark, step.mark_size, why);
    return r ? r : cut_add(tokenizer, split, why);
}

int tokenizer_json_pretokenizer(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    static const ComponentReader readers[] = {
        { "Split", read_split },
        { "ByteLevel", read_byte_level },
        { "Digits", read_digits },
        { "Metaspace", read_metaspace },
    };

    return tokenizer_json_component(tokenizer, component, "pre_tokenizer", "pretokenizers", readers,
                                    COUNT(readers), why);
}

/* Decoders. */

static int decode_add(Tokenizer *tokenizer, DecodeStep step, Reason *why) {
    int r = token_decoder_add(&tokenizer->decoder, step);

    if (r == TOKEN_DECODER_E_ORDER)
        return reason_set(why, -EINVAL, "is not supported after what makes all tokens one");
    return r;
}

static int read_decode_byte_level(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component;
    return decode_add(tokenizer, (DecodeStep){ .kind = DECODE_BYTE_LEVEL }, why);
}

static int read_decode_fallback(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component;
    return decode_add(tokenizer, (DecodeStep){ .kind = DECODE_BYTE_FALLBACK }, why);
}

static int read_decode_fuse(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)component;
    return decode_add(tokenizer, (DecodeStep){ .kind = DECODE_FUSE }, why);
}

static int read_decode_replace(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    DecodeStep step = { .kind = DECODE_REPLACE };
    int r = tokenizer_json_copy(component, "content", COMPONENT_TEXT_BYTES_MAX, &step.text,
                                &step.text_size, why);

    if (!r)
        r = tokenizer_json_pattern(component, &step.pattern, why);
    if (r) {
        free(step.text);
        return r;
    }
    return decode_add(tokenizer, step, why);
}

static int read_decode_strip(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    DecodeStep step = { .kind = DECODE_STRIP };
    uint32_t start = 0, stop = 0;
    int r = json_required(json_get_u32(component, "start", 0, 1 << 20, &start, why), "start", why);

    if (!r)
        r = json_required(json_get_u32(component, "stop", 0, 1 << 20, &stop, why), "stop", why);
    if (!r)
        r = tokenizer_json_copy(component, "content", 4, &step.text, &step.text_size, why);
    if (r)
        return r;
    if (!step.text_size || utf8_size(step.text[0]) != step.text_size) {
        free(step.text);
        return reason_set(why, -EINVAL, "content must be one character");
    }
    step.strip_start = start;
    step.strip_stop = stop;
    return decode_add(tokenizer, step, why);
}

static int read_decode_metaspace(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    DecodeStep step = { .kind = DECODE_METASPACE };
    CutPrefix prefix;
    char mark[4];
    int r = read_mark(component, mark, &step.text_size, why);

    if (!r)
        r = read_scheme(component, &prefix, why);
    if (r)
        return r;
    step.text = malloc(step.text_size);
    if (!step.text)
        return -ENOMEM;
    memcpy(step.text, mark, step.text_size);
    step.keep_first = prefix == CUT_PREFIX_NEVER;
    return decode_add(tokenizer, step, why);
}

int tokenizer_json_decoder(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    static const ComponentReader readers[] = {
        { "ByteLevel", read_decode_byte_level },
        { "ByteFallback", read_decode_fallback },
        { "Fuse", read_decode_fuse },
        { "Replace", read_decode_replace },
        { "Strip", read_decode_strip },
        { "Metaspace", read_decode_metaspace },
    };

    if (!component || json_is_null(component))
        return decode_add(tokenizer, (DecodeStep){ .kind = DECODE_JOIN }, why);
    return tokenizer_json_component(tokenizer, component, "decoder", "decoders", readers,
                                    COUNT(readers), why);
}

/* Post-processors. */

/* A special token of a template: its ids, from the template's own table. */
static int template_ids(const Tokenizer *tokenizer, const json_t *template, const json_t *special,
                        TokenIds *out, Reason *why) {
    const json_t *table, *entry, *ids, *item;
    const char *name;
    size_t size, i;
    char found[80];
    int r = json_required(json_get_text(special, "id", &name, &size, why), "id", why);

    if (!r)
        r = json_required(json_get_object(template, "special_tokens", &table, why),
                          "special_tokens", why);
    if (r)
        return r;
    json_describe(json_object_get(special, "id"), found, sizeof(found));
    entry = json_object_getn(table, name, size);
    if (!json_is_object(entry))
        return reason_set(why, -EINVAL, "key \"special_tokens\": expected an object for %s", found);
    r = json_required(json_get_array(entry, "ids", &ids, why), "ids", why);
    if (r)
        return r;
    json_array_foreach(ids, i, item) {
        int64_t value;
        uint32_t id;

        if (!json_as_i64(item, 0, (int64_t)tokenizer->tokens.n_ids - 1, &value))
            return reason_set(why, -EINVAL, "special token %s: an id is not in the vocabulary",
                              found);
        id = (uint32_t)value;
        r = token_ids_append(out, &id, 1);
        if (r)
            return r;
    }
    return 0;
}

/* One item of "single": a special token, or the place of the text. */
static int template_item(Tokenizer *tokenizer, const json_t *template, const json_t *item,
                         bool *text_seen, Reason *why) {
    const json_t *part;
    const char *name;
    int r;

    if (!json_is_object(item))
        return reason_set(why, -EINVAL, "an item of \"single\" is not an object");
    r = json_get_object(item, "SpecialToken", &part, why);
    if (!r)
        return template_ids(tokenizer, template, part,
                            *text_seen ? &tokenizer->after : &tokenizer->before, why);
    if (r == JSON_E_ABSENT)
        r = json_required(json_get_object(item, "Sequence", &part, why), "Sequence", why);
    if (!r)
        r = json_required(json_get_word(part, "id", &name, why), "id", why);
    if (r)
        return r;
    if (strcmp(name, "A") != 0 || *text_seen)
        return reason_set(why, -EINVAL, "\"single\" must hold the sequence A once, and no other");
    *text_seen = true;
    return 0;
}

static int read_template(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    const json_t *single, *item;
    bool text_seen = false;
    size_t i;
    int r = json_required(json_get_array(component, "single", &single, why), "single", why);

    if (!r && (tokenizer->before.n || tokenizer->after.n))
        return reason_set(why, -EINVAL, "a second one is not supported");
    if (r)
        return r;
    json_array_foreach(single, i, item) {
        r = template_item(tokenizer, component, item, &text_seen, why);
        if (r)
            return r;
    }
    if (!text_seen)
        return reason_set(why, -EINVAL, "\"single\" must hold the sequence A once, and no other");
    return 0;
}

/* Changes offsets only. */
static int read_post_byte_level(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    (void)tokenizer, (void)component, (void)why;
    return 0;
}

int tokenizer_json_postprocessor(Tokenizer *tokenizer, const json_t *component, Reason *why) {
    static const ComponentReader readers[] = {
        { "TemplateProcessing", read_template },
        { "ByteLevel", read_post_byte_level },
    };

    return tokenizer_json_component(tokenizer, component, "post_processor", "processors", readers,
                                    COUNT(readers), why);
}
