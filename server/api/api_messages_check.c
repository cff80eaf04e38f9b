/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_messages_check.h"

#include "util/json.h"

#include <errno.h>
#include <string.h>

#define PATH_BYTES_MAX 96
#define DESCRIPTION_BYTES_MAX 64
#define MEMBERS_MAX 7
/* Of a call's input: chat templates are given no more (chat_messages.py). */
#define INPUT_LEVELS_MAX 500
#define THINKING_BUDGET_MIN 1024 /* Anthropic's */

/* Where an object may stand. */
enum {
    IN_MESSAGES = 1u << 0,
    IN_SYSTEM = 1u << 1, /* from here on: among the blocks of ... */
    IN_USER = 1u << 2,
    IN_ASSISTANT = 1u << 3,
    IN_RESULT = 1u << 4,
    IN_TOOLS = 1u << 5,
    IN_TOOL_CHOICE = 1u << 6,
    IN_THINKING = 1u << 7,
    IN_OUTPUT_CONFIG = 1u << 8,
    IN_FORMAT = 1u << 9,

    IN_CONTENTS = IN_SYSTEM | IN_USER | IN_ASSISTANT | IN_RESULT,
};

typedef enum MemberType {
    MEMBER_STRING,
    MEMBER_FLAG,
    MEMBER_BUDGET, /* a whole number of tokens */
    MEMBER_OBJECT,
    MEMBER_ARRAY,
    MEMBER_INPUT,   /* an object that is not nested too deeply */
    MEMBER_CONTENT, /* a string, or an array of blocks that may stand at `place` */
    MEMBER_FORM,    /* an object that may stand at `place` */
} MemberType;

typedef struct Member {
    const char *name; /* NULL: no more */
    MemberType type;
    bool required;
    unsigned place;
} Member;

/* An object that may stand at these places. */
typedef struct Form {
    const char *type; /* what its `type`, of messages its `role`, says; NULL: it has none */
    unsigned places;
    Member members[MEMBERS_MAX + 1];
} Form;

#define MUST(_name, _type) \
    { .name = (_name), .type = (_type), .required = true }
#define MAY(_name, _type) \
    { .name = (_name), .type = (_type) }
#define CONTENT(_place) \
    { .name = "content", .type = MEMBER_CONTENT, .required = true, .place = (_place) }
#define RESULT_CONTENT \
    { .name = "content", .type = MEMBER_CONTENT, .place = IN_RESULT }
#define ANSWER_FORMAT \
    { .name = "format", .type = MEMBER_FORM, .place = IN_FORMAT }
#define CACHE_CONTROL MAY("cache_control", MEMBER_OBJECT) /* all is cached */
#define ONE_AT_A_TIME MAY("disable_parallel_tool_use", MEMBER_FLAG)
#define NOTHING MAY(NULL, MEMBER_FLAG)

static const Form forms[] = {
    { "user", IN_MESSAGES, { CONTENT(IN_USER) } },
    { "assistant", IN_MESSAGES, { CONTENT(IN_ASSISTANT) } },
    { "system", IN_MESSAGES, { CONTENT(IN_SYSTEM) } },

    { "text",
      IN_CONTENTS,
      { MUST("text", MEMBER_STRING), CACHE_CONTROL, MAY("citations", MEMBER_ARRAY) } },
    { "thinking",
      IN_ASSISTANT,
      { MUST("thinking", MEMBER_STRING), MAY("signature", MEMBER_STRING) } },
    { "tool_use",
      IN_ASSISTANT,
      { MUST("id", MEMBER_STRING), MUST("name", MEMBER_STRING), MUST("input", MEMBER_INPUT),
        CACHE_CONTROL, MAY("caller", MEMBER_OBJECT) } },
    { "tool_result",
      IN_USER,
      { MUST("tool_use_id", MEMBER_STRING), RESULT_CONTENT, MAY("is_error", MEMBER_FLAG),
        CACHE_CONTROL } },

    { "custom",
      IN_TOOLS,
      { MUST("name", MEMBER_STRING), MUST("input_schema", MEMBER_OBJECT),
        MAY("description", MEMBER_STRING), MAY("strict", MEMBER_FLAG), CACHE_CONTROL,
        MAY("eager_input_streaming", MEMBER_FLAG) } },

    { "auto", IN_TOOL_CHOICE, { ONE_AT_A_TIME } },
    { "any", IN_TOOL_CHOICE, { ONE_AT_A_TIME } },
    { "tool", IN_TOOL_CHOICE, { MUST("name", MEMBER_STRING), ONE_AT_A_TIME } },
    { "none", IN_TOOL_CHOICE, { NOTHING } },

    { "enabled",
      IN_THINKING,
      { MUST("budget_tokens", MEMBER_BUDGET), MAY("display", MEMBER_STRING) } },
    { "adaptive", IN_THINKING, { MAY("display", MEMBER_STRING) } },
    { "disabled", IN_THINKING, { NOTHING } },

    { NULL, IN_OUTPUT_CONFIG, { MAY("effort", MEMBER_STRING), ANSWER_FORMAT } },
    { "json_schema", IN_FORMAT, { MUST("schema", MEMBER_OBJECT) } },
};
#define N_FORMS (sizeof(forms) / sizeof(*forms))

static int check_form(const json_t *value, const char *path, unsigned place, ApiError *error);

static int wrong(const char *path, const json_t *value, const char *expected, ApiError *error) {
    char found[DESCRIPTION_BYTES_MAX];

    if (!value)
        return api_refuse(error, path, "`%s` is missing; it must be %s.", path, expected);
    return api_refuse(error, path, "`%s` must be %s; it is %s.", path, expected,
                      json_describe(value, found, sizeof(found)));
}

static bool is_deeper(const json_t *value, unsigned n_levels) {
    const json_t *key, *item;
    size_t i;

    if (!json_is_object(value) && !json_is_array(value))
        return false;
    if (!n_levels)
        return true;
    json_array_foreach(value, i, item)
        if (is_deeper(item, n_levels - 1))
            return true;
    json_object_foreach(value, key, item)
        if (is_deeper(item, n_levels - 1))
            return true;
    return false;
}

/* members */

static int check_content(const json_t *value, const char *path, unsigned place, ApiError *error) {
    const json_t *block;
    size_t i;

    if (json_is_string(value))
        return 0;
    if (!json_is_array(value))
        return wrong(path, value, "a string or an array of blocks", error);
    json_array_foreach(value, i, block) {
        char block_path[PATH_BYTES_MAX];

        snprintf(block_path, sizeof(block_path), "%s[%zu]", path, i);
        if (check_form(block, block_path, place, error))
            return -EINVAL;
    }
    return 0;
}

static int check_input(const json_t *value, const char *path, ApiError *error) {
    if (!json_is_object(value))
        return wrong(path, value, "an object", error);
    if (is_deeper(value, INPUT_LEVELS_MAX))
        return api_refuse(error, path, "`%s` is nested more than %d levels deep.", path,
                          INPUT_LEVELS_MAX);
    return 0;
}

static int check_value(const Member *member, const json_t *value, const char *path,
                       ApiError *error) {
    int64_t n;

    switch (member->type) {
    case MEMBER_STRING:
        return json_is_string(value) ? 0 : wrong(path, value, "a string", error);
    case MEMBER_FLAG:
        return json_is_boolean(value) ? 0 : wrong(path, value, "true or false", error);
    case MEMBER_BUDGET:
        return json_as_i64(value, THINKING_BUDGET_MIN, UINT32_MAX, &n)
                   ? 0
                   : wrong(path, value, "a whole number of at least 1024", error);
    case MEMBER_OBJECT:
        return json_is_object(value) ? 0 : wrong(path, value, "an object", error);
    case MEMBER_ARRAY:
        return json_is_array(value) ? 0 : wrong(path, value, "an array", error);
    case MEMBER_INPUT:
        return check_input(value, path, error);
    case MEMBER_CONTENT:
        return check_content(value, path, member->place, error);
    case MEMBER_FORM:
        return check_form(value, path, member->place, error);
    }
    return 0;
}

static const Member *find_member(const Form *form, const json_t *name) {
    for (const Member *member = form->members; member->name; member++)
        if (json_string_is(name, member->name))
            return member;
    return NULL;
}

/* `key`: the member that told the form. */
static int check_members(const Form *form, const json_t *object, const char *key, const char *path,
                         ApiError *error) {
    char member_path[2 * PATH_BYTES_MAX], shown[DESCRIPTION_BYTES_MAX];
    const json_t *name, *value;

    json_object_foreach(object, name, value) {
        const Member *member = find_member(form, name);

        if (json_is_null(value) || (form->type && json_string_is(name, key)))
            continue;
        if (!member)
            return api_refuse(error, path, "`%s` has a member %s, which is not supported here.",
                              path, json_describe(name, shown, sizeof(shown)));
        snprintf(member_path, sizeof(member_path), "%s.%s", path, member->name);
        if (check_value(member, value, member_path, error))
            return -EINVAL;
    }
    for (const Member *member = form->members; member->name; member++) {
        value = json_object_get(object, member->name);
        if (member->required && (!value || json_is_null(value)))
            return api_refuse(error, path, "`%s.%s` is missing.", path, member->name);
    }
    return 0;
}

/* forms */

/* "\"a\", \"b\" or \"c\"": the types that there are. */
static void list_types(unsigned place, char *text, size_t size) {
    size_t n_types = 0, n_put = 0;
    int n = 0;

    for (size_t i = 0; i < N_FORMS; i++)
        n_types += (forms[i].places & place) != 0;
    *text = 0;
    for (size_t i = 0; i < N_FORMS && n >= 0 && (size_t)n < size; i++) {
        const char *separator = !n_put ? "" : n_put + 1 < n_types ? ", " : " or ";

        if (!(forms[i].places & place))
            continue;
        n += snprintf(text + n, size - (size_t)n, "%s\"%s\"", separator, forms[i].type);
        n_put++;
    }
}

static const Form *find_form(const json_t *type, unsigned place) {
    bool is_plain_tool = place == IN_TOOLS && (!type || json_is_null(type)); /* "custom" */

    for (size_t i = 0; i < N_FORMS; i++)
        if ((forms[i].places & place) &&
            (!forms[i].type || is_plain_tool || json_string_is(type, forms[i].type)))
            return &forms[i];
    return NULL;
}

static int check_form(const json_t *value, const char *path, unsigned place, ApiError *error) {
    const char *key = place == IN_MESSAGES ? "role" : "type";
    const json_t *type = json_object_get(value, key);
    const Form *form = find_form(type, place);
    char types[128], found[DESCRIPTION_BYTES_MAX];

    if (!json_is_object(value))
        return wrong(path, value, "an object", error);
    if (form)
        return check_members(form, value, key, path, error);
    list_types(place, types, sizeof(types));
    if (!json_is_string(type))
        return api_refuse(error, path, "`%s` must have a `%s`: %s.", path, key, types);
    return api_refuse(error, path, "`%s` is of %s %s, which is not supported; here it may be %s.",
                      path, key, json_describe(type, found, sizeof(found)), types);
}

static int check_each(const json_t *array, const char *name, unsigned place, ApiError *error) {
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item) {
        char path[PATH_BYTES_MAX];

        snprintf(path, sizeof(path), "%s[%zu]", name, i);
        if (check_form(item, path, place, error))
            return -EINVAL;
    }
    return 0;
}

/* what several parameters say together */

/* An answer continues what the assistant has begun: text, behind which nothing stands. */
static int check_last(const json_t *messages, ApiError *error) {
    size_t n = json_array_size(messages);
    const json_t *last = json_array_get(messages, n - 1);
    const json_t *content = json_object_get(last, "content");
    const json_t *block = json_array_get(content, json_array_size(content) - 1);

    if (!json_string_is(json_object_get(last, "role"), "assistant") || json_is_string(content) ||
        json_string_is(json_object_get(block, "type"), "text"))
        return 0;
    return api_refuse(error, "messages",
                      "`messages[%zu]` is the last one and the assistant's, so the answer would "
                      "continue it; it must end with text, or be followed by what the user says.",
                      n - 1);
}

static int check_budget(const ApiParams *p, ApiError *error) {
    int64_t budget = 0;

    json_as_i64(json_object_get(p->thinking, "budget_tokens"), 0, UINT32_MAX, &budget);
    if (p->max_tokens < 0 || budget < p->max_tokens)
        return 0;
    return api_refuse(error, "thinking",
                      "`thinking.budget_tokens` must be less than `max_tokens`, of which it is a "
                      "part.");
}

int api_messages_check(const ApiParams *p, ApiError *error) {
    if (!p->messages)
        return api_refuse(error, "messages", "`messages` is missing.");
    if (!json_array_size(p->messages))
        return api_refuse(error, "messages", "`messages` must hold at least one message.");
    if (check_each(p->messages, "messages", IN_MESSAGES, error) || check_last(p->messages, error) ||
        check_each(p->tools, "tools", IN_TOOLS, error))
        return -EINVAL;
    if (p->system && check_content(p->system, "system", IN_SYSTEM, error))
        return -EINVAL;
    if (p->tool_choice && check_form(p->tool_choice, "tool_choice", IN_TOOL_CHOICE, error))
        return -EINVAL;
    if (p->thinking &&
        (check_form(p->thinking, "thinking", IN_THINKING, error) || check_budget(p, error)))
        return -EINVAL;
    return p->output_config ? check_form(p->output_config, "output_config", IN_OUTPUT_CONFIG, error)
                            : 0;
}
