// SPDX-License-Identifier: Apache-2.0
//
// XGrammar behind core.h. Whatever it throws becomes an error code and a sentence here. What it
// would only warn of (a keyword it does not know, an anchor it would ignore) makes an answer that
// is not what was asked for, so while something is compiled a warning is an error too.

#include "grammar/core.h"

#include <support/logging.h>

#include <dlpack/dlpack.h>
#include <xgrammar/xgrammar.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

struct CoreVocab {
    xgrammar::TokenizerInfo info;
};

struct CoreGrammar {
    xgrammar::CompiledGrammar compiled;
};

struct CoreMatcher {
    xgrammar::GrammarMatcher matcher;
};

namespace {

thread_local std::string *warning = nullptr; // where the first one goes; null: nobody asks

// One line, without the file and line of XGrammar's sources in front.
void set_words(char *why, const std::string &text) {
    std::string words;

    for (char c : text)
        words += c == '\n' || c == '\r' || c == '\t' ? ' ' : c;
    while (!words.empty() && (words.back() == ' ' || words.back() == '.'))
        words.pop_back();
    snprintf(why, CORE_WHY_BYTES, "%s", words.c_str());
}

// Calls `f`, which returns an int, and turns what it throws into one.
template <typename F> int guard(int refused, char *why, F f) {
    try {
        return f();
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    } catch (const std::exception &e) {
        if (why)
            set_words(why, e.what());
        return refused;
    } catch (...) {
        return refused;
    }
}

class WarningsAreErrors {
  public:
    WarningsAreErrors() {
        warning = &first_;
    }
    ~WarningsAreErrors() {
        warning = nullptr;
    }
    void check() const {
        if (!first_.empty())
            throw std::runtime_error(first_);
    }

  private:
    std::string first_;
};

// Objects and arrays are written on one line, with ", " and ": " as Python's json has it: nothing
// is left open that says nothing, and a model cannot go astray in white space.
xgrammar::Grammar parse(GrammarKind kind, const std::string &text,
                        const xgrammar::TokenizerInfo &info) {
    switch (kind) {
    case GRAMMAR_JSON:
        return xgrammar::Grammar::FromJSONSchema("{\"type\":\"object\"}", false);
    case GRAMMAR_JSON_SCHEMA:
        return xgrammar::Grammar::FromJSONSchema(text, false);
    case GRAMMAR_REGEX:
        return xgrammar::Grammar::FromRegex(text);
    case GRAMMAR_EBNF:
        return xgrammar::Grammar::FromEBNF(text);
    case GRAMMAR_TAGS: {
        auto found = xgrammar::Grammar::FromStructuralTag(text, info);

        if (auto *grammar = std::get_if<xgrammar::Grammar>(&found))
            return *grammar;
        std::visit([](const auto &error) { throw std::runtime_error(error.what()); },
                   std::get<xgrammar::StructuralTagError>(found));
        throw std::runtime_error("not a structural tag");
    }
    default:
        throw std::runtime_error("not a kind of grammar");
    }
}

} // namespace

namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string &file, int line, const std::string &message) {
    (void)file, (void)line;
    throw std::runtime_error(message);
}

void LogMessageImpl(const std::string &file, int line, int level, const std::string &message) {
    (void)file, (void)line;
    // one_of.h proves more than XGrammar can: where alternatives exclude each other, oneOf is
    // anyOf.
    if (warning && warning->empty() && level >= XGRAMMAR_LOG_LEVEL_WARNING &&
        message.compare(0, 10, "oneOf with") != 0)
        *warning = message;
}

} // namespace xgrammar

bool core_is_built(void) {
    return true;
}

int core_vocab_new(CoreVocab **outp, const CoreVocabText *text, char *why) {
    return guard(-EINVAL, why, [&] {
        std::vector<std::string> tokens;
        std::vector<int32_t> stop_ids(text->stop_ids, text->stop_ids + text->n_stop_ids);
        uint32_t begin = 0;

        tokens.reserve(text->n_vocab);
        for (uint32_t i = 0; i < text->n_vocab; i++) {
            tokens.emplace_back(text->bytes + begin, text->ends[i] - begin);
            begin = text->ends[i];
        }
        *outp = new CoreVocab{ xgrammar::TokenizerInfo(tokens, xgrammar::VocabType::RAW,
                                                       static_cast<int>(text->n_vocab),
                                                       std::move(stop_ids)) };
        return 0;
    });
}

CoreVocab *core_vocab_free(CoreVocab *vocab) {
    delete vocab;
    return nullptr;
}

// Every token is there twice, in the order of ids and sorted, beside numbers of its place.
uint64_t core_vocab_bytes(const CoreVocab *vocab) {
    const uint64_t each = 2 * sizeof(std::string) + 6 * sizeof(int32_t);
    uint64_t n = 0;

    for (const std::string &token : vocab->info.GetDecodedVocab())
        n += each + (token.size() > 15 ? 2 * (token.size() + 1) : 0);
    return n;
}

int core_compile(const CoreVocab *vocab, GrammarKind kind, const char *text, size_t size,
                 char **outp, size_t *out_size, char *why) {
    return guard(GRAMMAR_E_INVALID, why, [&] {
        WarningsAreErrors warnings;
        xgrammar::GrammarCompiler compiler(vocab->info, 1, false);
        xgrammar::Grammar grammar = parse(kind, std::string(text, size), vocab->info);

        warnings.check();
        std::string json = compiler.CompileGrammar(grammar).SerializeJSON();

        *outp = static_cast<char *>(malloc(json.size() + 1));
        if (!*outp)
            return -ENOMEM;
        memcpy(*outp, json.c_str(), json.size() + 1);
        *out_size = json.size();
        return 0;
    });
}

int core_grammar_new(CoreGrammar **outp, const CoreVocab *vocab, const char *data, size_t size,
                     char *why) {
    return guard(-EINVAL, why, [&] {
        auto read =
            xgrammar::CompiledGrammar::DeserializeJSON(std::string(data, size), vocab->info);

        if (auto *compiled = std::get_if<xgrammar::CompiledGrammar>(&read)) {
            *outp = new CoreGrammar{ *compiled };
            return 0;
        }
        std::visit([](const auto &error) { throw std::runtime_error(error.what()); },
                   std::get<xgrammar::SerializationError>(read));
        return -EINVAL;
    });
}

CoreGrammar *core_grammar_free(CoreGrammar *grammar) {
    delete grammar;
    return nullptr;
}

uint64_t core_grammar_bytes(const CoreGrammar *grammar) {
    return grammar->compiled.MemorySizeBytes();
}

int core_matcher_new(CoreMatcher **outp, const CoreGrammar *grammar) {
    return guard(-ENOMEM, nullptr, [&] {
        *outp = new CoreMatcher{ xgrammar::GrammarMatcher(grammar->compiled) };
        return 0;
    });
}

CoreMatcher *core_matcher_free(CoreMatcher *matcher) {
    delete matcher;
    return nullptr;
}

int core_matcher_accept(CoreMatcher *matcher, uint32_t token) {
    return guard(GRAMMAR_E_REJECTED, nullptr, [&] {
        return matcher->matcher.AcceptToken(static_cast<int32_t>(token)) ? 0 : GRAMMAR_E_REJECTED;
    });
}

// All bits are set where XGrammar says that none is to be applied.
int core_matcher_fill(CoreMatcher *matcher, uint32_t *mask, uint32_t n_vocab) {
    return guard(-EINVAL, nullptr, [&] {
        int64_t n_words = grammar_mask_words(n_vocab), one = 1;
        DLTensor tensor = {};

        tensor.data = mask;
        tensor.device = DLDevice{ kDLCPU, 0 };
        tensor.ndim = 1;
        tensor.dtype = DLDataType{ kDLInt, 32, 1 };
        tensor.shape = &n_words;
        tensor.strides = &one;
        matcher->matcher.FillNextTokenBitmask(&tensor);
        if (n_vocab % 32)
            mask[n_words - 1] &= (UINT32_C(1) << n_vocab % 32) - 1;
        return 0;
    });
}

bool core_matcher_is_terminated(const CoreMatcher *matcher) {
    return matcher->matcher.IsTerminated();
}

bool core_matcher_is_complete(const CoreMatcher *matcher) {
    return matcher->matcher.IsCompleted();
}

int core_matcher_forced(const CoreMatcher *matcher, uint32_t *tokens, uint32_t n_max,
                        uint32_t *np) {
    *np = 0;
    return guard(-ENOMEM, nullptr, [&] {
        for (int32_t token : matcher->matcher.FindJumpForwardTokens()) {
            if (*np == n_max)
                break;
            tokens[(*np)++] = static_cast<uint32_t>(token);
        }
        return 0;
    });
}
