/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows. A row is
 *
 *     { NAME, ENDPOINTS, TYPE, WHO DEFINES IT, WHAT IT SAYS, ... }
 *
 * and then where its value goes, AT(field of ApiParams), its bounds, or its reader and the schema
 * of what that takes: SCHEMA({ "type" : "string" }), or REF(Name) for one of schemas/. A name may
 * have several rows, for different endpoints.
 *
 * Names and bounds are OpenAI's, and vLLM's for what OpenAI does not have. Hints are about who asks
 * and how to serve, and change no answer's meaning: their type is checked and their value dropped.
 * Rows of PARAM_FIXED are known but not supported: they may be sent with the values that change
 * nothing, as clients do.
 */
#include "server/api/api_param_table.h"

#include "server/api/api_param_readers.h"
#include "server/api/api_tools.h"
#include "util/nearest.h"

#include <assert.h>
#include <string.h>

#define GENERATES (API_COMPLETIONS | API_CHAT)
#define GENERATES_ANY (GENERATES | API_RESPONSES)
#define RENDERS (API_CHAT | API_TOKENIZE)
#define MESSAGES (API_MESSAGES | API_COUNT_TOKENS)

#define AT(_field) .offset = offsetof(ApiParams, _field)
#define SCHEMA(...) .schema = #__VA_ARGS__
#define REF(_name) .schema = "{\"$ref\": \"#/components/schemas/" #_name "\"}"
#define GRAMMAR(_name, _by, _help, _schema) \
    { _name, GENERATES, PARAM_CUSTOM, _by, _help, .read = api_read_grammar, REF(_schema) }
#define HINT(_name, _type, _by, _help) \
    { _name, GENERATES, _type, _by, _help, .is_hint = true }
#define HINT_OF_COMPLETIONS(_name, _type, _by) \
    { _name, API_COMPLETIONS, _type, _by, "Of chats; changes nothing here.", .is_hint = true }
#define HINT_OF_MESSAGES(_name, _endpoints, _type, _help) \
    { _name, _endpoints, _type, "Anthropic", _help, .is_hint = true }
#define HINT_OF_RESPONSES(_name, _help) \
    { _name, API_RESPONSES, PARAM_TEXT, "OpenAI", _help, .is_hint = true }
#define FIXED(_name, _endpoints, _by, _allowed) \
    { _name, _endpoints, PARAM_FIXED, _by, "Not supported.", .allowed = _allowed }
#define FIXED_FOR(_name, _endpoints, _by, _allowed, _why) \
    { _name, _endpoints, PARAM_FIXED, _by, "Not supported.", .allowed = _allowed, .why = _why }
#define NOT_STORED "no answer is stored; send the whole conversation as `input`"

static const ApiParam table[] = {
    { "model", ~0u, PARAM_MODEL, "OpenAI", "The model; the one that is served, if not given.",
      AT(model) },
    { "prompt", API_COMPLETIONS, PARAM_ANY, "OpenAI",
      "A text or its token ids, or several of either.", AT(prompt), .required_by = API_COMPLETIONS,
      REF(Prompt) },
    { "prompt", API_TOKENIZE, PARAM_STRING, "vLLM", "The text; instead of `messages`.", AT(prompt),
      .or_else = "messages" },
    { "messages", RENDERS, PARAM_ARRAY, "OpenAI", "The conversation so far.", AT(messages),
      .required_by = API_CHAT, REF(Messages) },
    { "tokens", API_DETOKENIZE, PARAM_ARRAY, "vLLM", "Token ids.", AT(tokens),
      .required_by = API_DETOKENIZE, REF(TokenIds) },

    /* how long answers are, and how many */
    { "max_tokens", API_CHAT, PARAM_I64, "OpenAI", "At most so many tokens are made.",
      AT(max_tokens), .min = 1, .max = UINT32_MAX },
    { "max_tokens", API_COMPLETIONS, PARAM_I64, "OpenAI",
      "At most so many tokens are made; 0 for `echo` alone.", AT(max_tokens), .min = 0,
      .max = UINT32_MAX },
    { "max_completion_tokens", GENERATES, PARAM_I64, "OpenAI",
      "At most so many tokens are made; goes before `max_tokens`.", AT(max_completion_tokens),
      .min = 1, .max = UINT32_MAX },
    { "min_tokens", GENERATES, PARAM_U32, "vLLM", "Answers do not end before so many tokens.",
      AT(min_tokens), .min = 0, .max = UINT32_MAX },
    { "n", GENERATES, PARAM_U32, "OpenAI", "Answers to each prompt.", AT(n), .min = 1,
      .max_named = "max_choices" },
    { "best_of", GENERATES, PARAM_U32, "OpenAI",
      "So many are made, and the `n` likeliest by token are the answer.", AT(best_of), .min = 1,
      .max_named = "max_choices" },
    { "stop", GENERATES_ANY, PARAM_CUSTOM, "OpenAI", "Texts at which an answer ends.",
      .read = api_read_stop, REF(Stop) },
    { "stop_token_ids", GENERATES_ANY, PARAM_CUSTOM, "vLLM", "Tokens at which an answer ends.",
      .read = api_read_stop_tokens, REF(StopTokenIds) },
    { "include_stop_str_in_output", GENERATES_ANY, PARAM_BOOL, "vLLM",
      "The answer has the text of `stop` that it ended at.", AT(include_stop_text) },
    { "ignore_eos", GENERATES_ANY, PARAM_BOOL, "vLLM",
      "The model's own end of an answer does not end it.", AT(ignore_eos) },
    { "skip_special_tokens", GENERATES_ANY, PARAM_BOOL, "vLLM",
      "Special tokens are left out of the answer's text.", AT(skip_special_tokens) },
    { "add_special_tokens", GENERATES | API_TOKENIZE, PARAM_FLAG, "vLLM",
      "The tokenizer puts its special tokens around the text.", AT(add_special_tokens) },
    { "cache_salt", GENERATES_ANY, PARAM_WORD, "vLLM",
      "Requests share cached prompts only with others of the same salt.", AT(cache_salt),
      .min = 1 },

    /* how tokens are chosen */
    { "temperature", GENERATES_ANY, PARAM_FLOAT, "OpenAI",
      "Above 1 choices are freer, below 1 less so; 0: always the likeliest token.",
      AT(sample.temperature), .min = 0, .max = 100 },
    { "top_p", GENERATES_ANY, PARAM_FLOAT, "OpenAI",
      "Only the likeliest tokens that have this probability together are chosen from.",
      AT(sample.top_p), .min = 0, .max = 1 },
    { "top_k", GENERATES_ANY, PARAM_CUSTOM, "vLLM",
      "Only so many of the likeliest tokens are chosen from; 0 and -1: all.",
      .read = api_read_top_k,
      SCHEMA({ "type" : "integer", "minimum" : -1, "maximum" : 4294967295 }) },
    { "min_p", GENERATES_ANY, PARAM_FLOAT, "vLLM",
      "Only tokens of at least this part of the likeliest one's probability are chosen from.",
      AT(sample.min_p), .min = 0, .max = 1 },
    { "seed", GENERATES_ANY, PARAM_CUSTOM, "OpenAI", "Makes the choices repeatable.",
      .read = api_read_seed, SCHEMA({
          "type" : "integer",
          "minimum" : -9223372036854775808,
          "maximum" : 9223372036854775807
      }) },
    { "repetition_penalty", GENERATES_ANY, PARAM_FLOAT, "vLLM",
      "Above 1, tokens of the prompt and the answer become less likely.",
      AT(sample.repetition_penalty), .min = 1e-5, .max = 100 },
    { "presence_penalty", GENERATES_ANY, PARAM_FLOAT, "OpenAI",
      "Above 0, tokens of the answer become less likely.", AT(sample.presence_penalty), .min = -2,
      .max = 2 },
    { "frequency_penalty", GENERATES_ANY, PARAM_FLOAT, "OpenAI",
      "Above 0, tokens of the answer become less likely each time.", AT(sample.frequency_penalty),
      .min = -2, .max = 2 },
    { "logit_bias", GENERATES_ANY, PARAM_CUSTOM, "OpenAI",
      "By token id, what is added to its logit.", .read = api_read_logit_bias, REF(LogitBias) },

    /* what is told of them */
    { "logprobs", API_COMPLETIONS, PARAM_INT, "OpenAI",
      "Tells the log probability of each token, and of so many likeliest ones in its place.",
      AT(n_logprobs), .min = 0, .max = SAMPLE_TOP_LOGPROBS_MAX },
    { "logprobs", API_CHAT, PARAM_BOOL, "OpenAI", "Tells the log probability of each token.",
      AT(wants_logprobs) },
    { "top_logprobs", API_CHAT, PARAM_INT, "OpenAI",
      "With `logprobs`, tells those of so many likeliest tokens in each place, too.",
      AT(n_top_logprobs), .min = 0, .max = SAMPLE_TOP_LOGPROBS_MAX },
    { "echo", API_COMPLETIONS, PARAM_BOOL, "OpenAI", "The answer begins with the prompt.",
      AT(echo) },
    { "stream", GENERATES_ANY, PARAM_BOOL, "OpenAI", "Sends the answer while it is made.",
      AT(stream) },
    { "stream_options", GENERATES, PARAM_CUSTOM, "OpenAI",
      "With `stream`: whether and where usage is told.", .read = api_read_stream_options,
      REF(StreamOptions) },

    /* tools and reasoning */
    { "tools", RENDERS, PARAM_ARRAY, "OpenAI", "Functions that the model may call.", AT(tools),
      REF(Tools) },
    { "tool_choice", API_CHAT, PARAM_ANY, "OpenAI", "Whether the model may, must or must not call.",
      AT(tool_choice), REF(ToolChoice) },
    { "parallel_tool_calls", API_CHAT | API_RESPONSES, PARAM_BOOL, "OpenAI",
      "There may be several calls.", AT(parallel_tool_calls) },
    { "tool_call_parser", API_CHAT | API_RESPONSES, PARAM_NAME, "Kvasir",
      "How the model writes calls.", AT(tool_call_parser), .name_at = api_tools_parser_at },
    { "reasoning_parser", API_CHAT | API_RESPONSES, PARAM_NAME, "Kvasir",
      "How the model marks its reasoning.", AT(reasoning_parser),
      .name_at = api_reasoning_parser_at },
    { "reasoning_effort", RENDERS, PARAM_STRING, "OpenAI",
      "How much to think, in the words of the model's chat template.", AT(reasoning_effort) },
    { "reasoning", API_CHAT, PARAM_CUSTOM, "OpenRouter",
      "How much to think, and whether the answer is to show it.", .read = api_read_reasoning,
      REF(Reasoning) },
    { "include_reasoning", API_CHAT, PARAM_BOOL, "vLLM", "The answer shows the reasoning.",
      AT(include_reasoning) },
    { "separate_reasoning", API_CHAT, PARAM_BOOL, "SGLang",
      "Reasoning stands apart from the content.", AT(separate_reasoning) },

    /* how chats are written */
    { "documents", RENDERS, PARAM_OBJECTS, "vLLM", "Texts for the chat template to cite.",
      AT(documents) },
    { "add_generation_prompt", RENDERS, PARAM_FLAG, "vLLM",
      "The prompt ends with the beginning of an answer.", AT(add_generation_prompt) },
    { "continue_final_message", RENDERS, PARAM_BOOL, "vLLM",
      "The answer goes on with the last message.", AT(continue_final_message) },
    { "chat_template_kwargs", RENDERS | API_RESPONSES, PARAM_OBJECT, "vLLM",
      "More variables for the chat template.", AT(template_kwargs) },
    { "return_token_strs", API_TOKENIZE, PARAM_BOOL, "vLLM", "Tells the text of each token, too.",
      AT(return_token_strs) },

    /* what form answers have */
    GRAMMAR("response_format", "OpenAI", "The answer is JSON, of a schema if one is given.",
            ResponseFormat),
    GRAMMAR("structured_outputs", "vLLM", "The answer is of a schema, expression or grammar.",
            StructuredOutputs),
    GRAMMAR("guided_choice", "vLLM", "The answer is one of these texts.", Choices),
    GRAMMAR("guided_grammar", "vLLM", "The answer is of this grammar.", Pattern),
    GRAMMAR("guided_json", "vLLM", "The answer is of this JSON schema.", JsonSchemaOrText),
    GRAMMAR("guided_regex", "vLLM", "The answer matches this regular expression.", Pattern),

    /* who asks, and how the answer is filed */
    HINT("user", PARAM_TEXT, "OpenAI", "Who asks; changes nothing."),
    HINT("safety_identifier", PARAM_TEXT, "OpenAI", "Who asks; changes nothing."),
    HINT("request_id", PARAM_TEXT, "vLLM", "A name of the request; changes nothing."),
    HINT("metadata", PARAM_OBJECT, "OpenAI", "Notes to the request; changes nothing."),
    HINT("store", PARAM_BOOL, "OpenAI", "Nothing is stored."),
    /* how to serve */
    HINT("service_tier", PARAM_TEXT, "OpenAI", "There is one; changes nothing."),
    HINT("prompt_cache_key", PARAM_TEXT, "OpenAI", "Prompts are cached by content."),
    HINT("prompt_cache_retention", PARAM_TEXT, "OpenAI", "Prompts are cached while there is room."),
    HINT("cache_prompt", PARAM_BOOL, "llama.cpp", "Prompts are cached by content."),
    HINT("prediction", PARAM_OBJECT, "OpenAI", "What the answer may be like; changes nothing."),
    /* how much to think and say, for models that were taught to listen, and where to put it */
    HINT("verbosity", PARAM_TEXT, "OpenAI", "How much to say; changes nothing."),
    HINT("stream_reasoning", PARAM_BOOL, "SGLang", "Reasoning is always streamed."),
    /* plain completions have neither tools nor a template */
    HINT_OF_COMPLETIONS("reasoning", PARAM_OBJECT, "OpenRouter"),
    HINT_OF_COMPLETIONS("reasoning_effort", PARAM_TEXT, "OpenAI"),
    HINT_OF_COMPLETIONS("include_reasoning", PARAM_BOOL, "vLLM"),
    HINT_OF_COMPLETIONS("separate_reasoning", PARAM_BOOL, "SGLang"),
    HINT_OF_COMPLETIONS("parallel_tool_calls", PARAM_BOOL, "OpenAI"),

    FIXED("suffix", API_COMPLETIONS, "OpenAI", "[\"\"]"),
    FIXED("audio", API_CHAT, "OpenAI", "[]"),
    FIXED("function_call", API_CHAT, "OpenAI", "[\"none\", \"auto\"]"),
    FIXED("functions", API_CHAT, "OpenAI", "[[]]"),
    FIXED("modalities", API_CHAT, "OpenAI", "[[\"text\"]]"),
    FIXED("web_search_options", API_CHAT, "OpenAI", "[]"),
    FIXED("allowed_token_ids", GENERATES, "vLLM", "[]"),
    FIXED("bad_words", GENERATES, "vLLM", "[[]]"),
    FIXED("chat_template", RENDERS, "vLLM", "[]"),
    FIXED("echo", API_CHAT, "vLLM", "[false]"),
    FIXED("early_stopping", GENERATES, "vLLM", "[false]"),
    FIXED("length_penalty", GENERATES, "vLLM", "[1.0, 1]"),
    FIXED("priority", GENERATES, "vLLM", "[0]"),
    FIXED("prompt_logprobs", GENERATES, "vLLM", "[]"),
    FIXED("return_token_ids", GENERATES, "vLLM", "[false]"),
    FIXED("return_tokens_as_token_ids", GENERATES, "vLLM", "[false]"),
    FIXED("spaces_between_special_tokens", GENERATES, "vLLM", "[true]"),
    FIXED("truncate_prompt_tokens", GENERATES, "vLLM", "[]"),
    FIXED("use_beam_search", GENERATES, "vLLM", "[false]"),

    /* Anthropic's messages, and the tokens of them */
    { "messages", MESSAGES, PARAM_ARRAY, "Anthropic", "The conversation so far.", AT(messages),
      .required_by = MESSAGES, REF(MessagesInput) },
    { "system", MESSAGES, PARAM_ANY, "Anthropic", "What stands before the conversation.",
      AT(system), REF(MessagesText) },
    { "max_tokens", API_MESSAGES, PARAM_I64, "Anthropic", "At most so many tokens are made.",
      AT(max_tokens), .min = 1, .max = UINT32_MAX, .required_by = API_MESSAGES },
    { "stop_sequences", API_MESSAGES, PARAM_CUSTOM, "Anthropic", "Texts at which an answer ends.",
      .read = api_read_stop_sequences, REF(StopSequences) },
    { "temperature", API_MESSAGES, PARAM_FLOAT, "Anthropic",
      "Below 1 choices are less free; 0: always the likeliest token.", AT(sample.temperature),
      .min = 0, .max = 1 },
    { "top_p", API_MESSAGES, PARAM_FLOAT, "Anthropic",
      "Only the likeliest tokens that have this probability together are chosen from.",
      AT(sample.top_p), .min = 0, .max = 1 },
    { "top_k", API_MESSAGES, PARAM_U32, "Anthropic",
      "Only so many of the likeliest tokens are chosen from; 0: all.", AT(sample.top_k), .min = 0,
      .max = UINT32_MAX },
    { "stream", API_MESSAGES, PARAM_BOOL, "Anthropic", "Sends the answer while it is made.",
      AT(stream) },
    { "tools", MESSAGES, PARAM_ARRAY, "Anthropic", "Functions that the model may call.", AT(tools),
      REF(MessagesTools) },
    { "tool_choice", MESSAGES, PARAM_OBJECT, "Anthropic",
      "Whether the model may, must or must not call.", AT(tool_choice), REF(MessagesToolChoice) },
    { "thinking", MESSAGES, PARAM_OBJECT, "Anthropic",
      "Whether to think first, where the model's chat template lets one say so.", AT(thinking),
      REF(Thinking) },
    { "output_config", MESSAGES, PARAM_OBJECT, "Anthropic",
      "How much effort to make, and the JSON schema of the answer.", AT(output_config),
      REF(OutputConfig) },
    HINT_OF_MESSAGES("cache_control", MESSAGES, PARAM_OBJECT, "Prompts are cached by content."),
    HINT_OF_MESSAGES("metadata", API_MESSAGES, PARAM_OBJECT, "Who asks; changes nothing."),
    HINT_OF_MESSAGES("service_tier", API_MESSAGES, PARAM_TEXT, "There is one; changes nothing."),
    HINT_OF_MESSAGES("speed", MESSAGES, PARAM_TEXT, "There is one; changes nothing."),
    FIXED("compaction", MESSAGES, "Anthropic", "[]"),
    FIXED("container", API_MESSAGES, "Anthropic", "[]"),
    FIXED("context_management", MESSAGES, "Anthropic", "[]"),
    FIXED("diagnostics", API_MESSAGES, "Anthropic", "[]"),
    FIXED("fallbacks", API_MESSAGES, "Anthropic", "[]"),
    FIXED("inference_geo", API_MESSAGES, "Anthropic", "[]"),
    FIXED("mcp_servers", MESSAGES, "Anthropic", "[[]]"),
    FIXED("thread", MESSAGES, "Anthropic", "[]"),

    /* OpenAI's responses, where they say it otherwise than chats */
    { "input", API_RESPONSES, PARAM_ANY, "OpenAI", "What the user says, or the items so far.",
      AT(input), .required_by = API_RESPONSES, REF(ResponsesInput) },
    { "instructions", API_RESPONSES, PARAM_STRING, "OpenAI",
      "What the system says, in front of the input.", AT(instructions) },
    { "max_output_tokens", API_RESPONSES, PARAM_I64, "OpenAI",
      "At most so many tokens are made, those of reasoning among them.", AT(max_tokens), .min = 1,
      .max = UINT32_MAX },
    { "top_logprobs", API_RESPONSES, PARAM_INT, "OpenAI",
      "Where `include` asks for log probabilities: those of so many likeliest tokens, too.",
      AT(n_top_logprobs), .min = 0, .max = SAMPLE_TOP_LOGPROBS_MAX },
    { "include", API_RESPONSES, PARAM_ARRAY, "OpenAI", "What else the answer is to have.",
      AT(include), REF(ResponsesInclude) },
    { "stream_options", API_RESPONSES, PARAM_OBJECT, "OpenAI", "Changes nothing.",
      AT(stream_options), SCHEMA({
          "type" : "object",
          "properties" : { "include_obfuscation" : { "type" : [ "boolean", "null" ] } },
          "additionalProperties" : { "type" : "null" }
      }) },
    { "tools", API_RESPONSES, PARAM_ARRAY, "OpenAI", "Functions that the model may call.",
      AT(tools), REF(ResponsesTools) },
    { "tool_choice", API_RESPONSES, PARAM_ANY, "OpenAI",
      "Whether the model may, must or must not call.", AT(tool_choice), REF(ResponsesToolChoice) },
    { "text", API_RESPONSES, PARAM_OBJECT, "OpenAI", "What form the answer's text has.", AT(text),
      REF(ResponsesText) },
    { "reasoning", API_RESPONSES, PARAM_OBJECT, "OpenAI", "How much to think.", AT(reasoning),
      REF(ResponsesReasoning) },
    { "metadata", API_RESPONSES, PARAM_OBJECT, "OpenAI", "Notes, which the answer repeats.",
      AT(metadata), SCHEMA({ "type" : "object", "additionalProperties" : { "type" : "string" } }) },
    HINT_OF_RESPONSES("user", "Who asks; the answer repeats it."),
    HINT_OF_RESPONSES("safety_identifier", "Who asks; the answer repeats it."),
    HINT_OF_RESPONSES("service_tier", "There is one, \"default\"."),
    HINT_OF_RESPONSES("prompt_cache_key", "Prompts are cached by content."),
    HINT_OF_RESPONSES("prompt_cache_retention", "Prompts are cached while there is room."),
    FIXED("background", API_RESPONSES, "OpenAI", "[false]"),
    FIXED("background_options", API_RESPONSES, "OpenAI", "[]"),
    FIXED("context_management", API_RESPONSES, "OpenAI", "[[]]"),
    FIXED_FOR("conversation", API_RESPONSES, "OpenAI", "[]", NOT_STORED),
    FIXED("max_tool_calls", API_RESPONSES, "OpenAI", "[]"),
    FIXED("moderation", API_RESPONSES, "OpenAI", "[]"),
    FIXED_FOR("previous_response_id", API_RESPONSES, "OpenAI", "[]", NOT_STORED),
    FIXED("prompt", API_RESPONSES, "OpenAI", "[]"),
    FIXED("prompt_cache_options", API_RESPONSES, "OpenAI", "[]"),
    FIXED_FOR("store", API_RESPONSES, "OpenAI", "[false]", NOT_STORED),
    FIXED("truncation", API_RESPONSES, "OpenAI", "[\"disabled\"]"),
};
#define N_PARAMS (sizeof(table) / sizeof(*table))

const ApiParam *api_param_table(size_t *np) {
    *np = N_PARAMS;
    return table;
}

const ApiParam *api_param_find(const json_t *name, unsigned endpoint) {
    for (size_t i = 0; i < N_PARAMS; i++)
        if ((table[i].endpoints & endpoint) && json_string_is(name, table[i].name))
            return &table[i];
    return NULL;
}

const char *api_param_nearest(const json_t *name, unsigned endpoint) {
    Nearest nearest = nearest_begin(json_string_value(name), json_string_length(name));

    for (size_t i = 0; i < N_PARAMS; i++)
        if ((table[i].endpoints & endpoint) && table[i].type != PARAM_FIXED)
            nearest_offer(&nearest, table[i].name);
    return nearest.name;
}

uint32_t api_limit_named(const ApiLimits *limits, const char *option) {
    const struct {
        const char *option;
        uint32_t limit;
    } named[] = { { "max_choices", limits->choices_max },
                  { "max_prompts", limits->prompts_max },
                  { "max_stops", limits->stops_max } };
    size_t i = 0;

    while (strcmp(named[i].option, option) != 0) {
        i++;
        assert(i < sizeof(named) / sizeof(*named));
    }
    return named[i].limit;
}
