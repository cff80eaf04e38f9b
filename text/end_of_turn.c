/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Two kinds of texts are well known. Those that end a turn stand between the messages of a chat,
 * are in no other kind of text, and always count. Those that end a text separate the documents a
 * model was trained on: they count where the files do not say how a text ends, that is, name
 * nothing credible, or only ends of turns. (GGUF has room for one end, and is given the turn's.)
 * What begins something, or separates the files of one repository, is in neither list.
 *
 * Texts are looked for among special tokens only, and those of a form that no text has among other
 * added ones, too: converters have given them that type. "</s>" is also HTML.
 *
 * A named end is credible if it is a special or an added token, or has a well-known text. Another
 * one is an ordinary word, at which answers would end at random; it counts only where there is
 * nothing else, since then the file's word is all that is known.
 */

#include "text/end_of_turn.h"

#include "util/utf8.h"

#include <string.h>

#define DESCRIBED_BYTES_MAX 64

static const char *const turn_ends[] = {
    "<|im_end|>",            /* ChatML: Qwen, SmolLM2, Yi, Hermes, InternLM, LFM2 */
    "<|eot_id|>",            /* Llama 3 */
    "<|eom_id|>",            /* Llama 3.1, before a tool's answer */
    "<|eot|>",               /* Llama 4 */
    "<|eom|>",               /* Llama 4 */
    "<|end_of_turn|>",       /* OpenChat */
    "<end_of_turn>",         /* Gemma */
    "<|END_OF_TURN_TOKEN|>", /* Command R */
    "<|end|>",               /* Phi 3; in gpt-oss it ends a part of an answer, see below */
    "<|return|>",            /* gpt-oss */
    "<|call|>",              /* gpt-oss, before a tool's answer */
    "<end_of_utterance>",    /* SmolVLM, Idefics */
    "[|endofturn|]",         /* EXAONE */
    "<|role_end|>",          /* Ling */
    "<|assistant_end|>",     /* Apertus */
    "<|turn_end|>",          /* Megrez */
};

static const char *const text_ends[] = {
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<EOS>",
    "[EOS]",
    "<|eos|>",
    "<EOT>",
    "\xe2\x96\x81<EOT>",
    ("<\xef\xbd\x9c"
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"), /* DeepSeek */
};

#define COUNT(_array) (sizeof(_array) / sizeof((_array)[0]))

static bool is_listed(const char *text, size_t size, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strlen(list[i]) == size && !memcmp(list[i], text, size))
            return true;
    return false;
}

static bool has(const EndOfTurn *ends, uint32_t id) {
    for (uint32_t i = 0; i < ends->n_ids; i++)
        if (ends->ids[i] == id)
            return true;
    return false;
}

/* Whether it is new. */
static bool add(EndOfTurn *ends, uint32_t id) {
    if (has(ends, id) || ends->n_ids == END_OF_TURN_IDS_MAX)
        return false;
    ends->ids[ends->n_ids++] = id;
    return true;
}

/* The token with this text if it can only be meant as a mark, or TOKEN_NONE. */
static uint32_t find_mark(const Tokenizer *tokenizer, const char *text) {
    size_t size = strlen(text);
    uint32_t id = tokenizer_find(tokenizer, text, size);
    bool is_unlike_text = size > 4 && text[1] == '|' && text[size - 2] == '|';

    if (id == TOKEN_NONE || tokenizer_is_special(tokenizer, id))
        return id;
    return is_unlike_text && tokenizer_is_added(tokenizer, id) ? id : TOKEN_NONE;
}

typedef struct Named {
    EndOfTurn credible, doubtful;
    bool ends_text; /* one of the credible ones is not known as a turn's end only */
} Named;

static void take_named(Named *named, const Tokenizer *tokenizer, uint32_t id) {
    size_t size;
    const char *text = tokenizer_token(tokenizer, id, &size);
    bool is_turn = text && is_listed(text, size, turn_ends, COUNT(turn_ends));
    bool is_text = text && is_listed(text, size, text_ends, COUNT(text_ends));

    if (is_turn || is_text || tokenizer_is_special(tokenizer, id) ||
        tokenizer_is_added(tokenizer, id)) {
        add(&named->credible, id);
        named->ends_text |= !is_turn;
    } else {
        add(&named->doubtful, id);
    }
}

/* Adds the marks of a list; the new ones to `found`, too. */
static void take_marks(EndOfTurn *ends, EndOfTurn *found, const Tokenizer *tokenizer,
                       const char *const *list, size_t n) {
    /* gpt-oss ends the parts of an answer with <|end|>, and the answer with <|return|>. */
    bool has_return = find_mark(tokenizer, "<|return|>") != TOKEN_NONE;

    for (size_t i = 0; i < n; i++) {
        uint32_t id = find_mark(tokenizer, list[i]);

        if (id == TOKEN_NONE || (has_return && !strcmp(list[i], "<|end|>")))
            continue;
        if (add(ends, id))
            add(found, id);
    }
}

/* Its first characters, without what a line of a log cannot hold. */
static void describe_token(Buffer *out, const Tokenizer *tokenizer, uint32_t id) {
    size_t size, n = 0;
    const char *text = tokenizer_token(tokenizer, id, &size);

    buffer_printf(out, "%u", id);
    if (!text) {
        buffer_append_text(out, " (no token)");
        return;
    }
    buffer_append_text(out, " (");
    for (; n < size && n < DESCRIBED_BYTES_MAX; n += utf8_size(text[n]))
        if ((uint8_t)text[n] < ' ' || text[n] == '"')
            buffer_append_char(out, '?');
        else
            buffer_append(out, text + n, utf8_size(text[n]));
    buffer_append_text(out, n < size ? "...)" : ")");
}

/* "5 (<|im_end|>), 7 (the)", or "none". */
static void describe(Buffer *out, const Tokenizer *tokenizer, const EndOfTurn *ends) {
    for (uint32_t i = 0; i < ends->n_ids; i++) {
        if (i)
            buffer_append_text(out, ", ");
        describe_token(out, tokenizer, ends->ids[i]);
    }
    if (!ends->n_ids)
        buffer_append_text(out, "none");
}

/* `found`: what no file names. */
static void tell(Reason *doubt, const Tokenizer *tokenizer, const Named *named,
                 const EndOfTurn *used, const EndOfTurn *found) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    EndOfTurn all = named->credible;

    for (uint32_t i = 0; i < named->doubtful.n_ids; i++)
        add(&all, named->doubtful.ids[i]);
    buffer_append_text(&text, "the model's files name as the end of an answer: ");
    describe(&text, tokenizer, &all);
    if (found->n_ids) {
        buffer_append_text(&text, "; known as such by their texts: ");
        describe(&text, tokenizer, found);
    }
    if (named->doubtful.n_ids) {
        buffer_append_text(&text, "; ordinary words, and hardly meant: ");
        describe(&text, tokenizer, &named->doubtful);
    }
    buffer_append_text(&text, "; answers end at: ");
    describe(&text, tokenizer, used);
    if (!used->n_ids)
        buffer_append_text(&text, ", that is at max_tokens or a stop string");
    reason_set(doubt, 0, "%s", buffer_text(&text));
}

void end_of_turn_find(EndOfTurn *ends, const Tokenizer *tokenizer,
                      const GenerationDefaults *generation, Reason *doubt) {
    Named named = { .credible = { .n_ids = 0 } };
    EndOfTurn turns = { .n_ids = 0 }, texts = { .n_ids = 0 };

    for (uint32_t i = 0; i < generation->n_eos_ids; i++)
        take_named(&named, tokenizer, generation->eos_ids[i]);
    if (tokenizer_eos(tokenizer) != TOKEN_NONE)
        take_named(&named, tokenizer, tokenizer_eos(tokenizer));
    *ends = named.credible;
    take_marks(ends, &turns, tokenizer, turn_ends, COUNT(turn_ends));
    if (!named.ends_text)
        take_marks(ends, &texts, tokenizer, text_ends, COUNT(text_ends));
    if (!ends->n_ids)
        *ends = named.doubtful;
    doubt->text[0] = 0;
    if (!named.credible.n_ids)
        for (uint32_t i = 0; i < texts.n_ids; i++)
            add(&turns, texts.ids[i]);
    if (turns.n_ids || named.doubtful.n_ids || !ends->n_ids)
        tell(doubt, tokenizer, &named, ends, &turns);
}
