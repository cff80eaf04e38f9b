/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a parameter is: one row a name and set of endpoints, from which requests are read
 * (api_params.c) and the description of the API is written (api_openapi.c). What no row has, and
 * what a row has as not supported, is refused by the one and absent from the other.
 */

#include "server/api/api_params.h"

typedef enum ParamType {
    PARAM_BOOL,    /* bool */
    PARAM_FLAG,    /* int: 0 or 1, -1 where not given */
    PARAM_U32,     /* uint32_t */
    PARAM_INT,     /* int */
    PARAM_I64,     /* int64_t */
    PARAM_FLOAT,   /* float */
    PARAM_TEXT,    /* const char *: a string; what stands behind a NUL in it is not seen */
    PARAM_WORD,    /* const char *: a string without NUL, of at least `min` bytes */
    PARAM_MODEL,   /* const char *: a string without NUL; other models than the one served: a 404 */
    PARAM_NAME,    /* const char *: "auto", "none" or a name of `name_at` */
    PARAM_STRING,  /* const json_t * */
    PARAM_ARRAY,   /* const json_t *: its items are looked at later */
    PARAM_OBJECTS, /* const json_t *: an array of them */
    PARAM_OBJECT,  /* const json_t *: likewise its members */
    PARAM_ANY,     /* const json_t *: looked at later */
    PARAM_CUSTOM,  /* `read` does it */
    PARAM_FIXED,   /* one of `allowed` only, which changes nothing: not supported */
} ParamType;

/* One parameter while it is read. */
typedef struct ApiReading {
    ApiParams *params;
    const ApiParamsContext *context;
    ApiError *error;
} ApiReading;

typedef struct ApiParam {
    const char *name;
    unsigned endpoints; /* API_X */
    ParamType type;
    const char *by;        /* who defines it: "OpenAI" */
    const char *help;      /* what it says, a sentence without a name in front */
    size_t offset;         /* in ApiParams */
    double min, max;       /* of numbers */
    const char *max_named; /* instead of max: the option that says it, "max_choices" */
    bool is_hint;          /* goes nowhere */
    unsigned required_by;  /* endpoints that it must be given to */
    const char *or_else;   /* either this one or that must be given */
    int (*read)(const ApiReading *reading, const char *name, const json_t *value);
    const char *(*name_at)(size_t i); /* NULL behind the last */
    const char *allowed;              /* a JSON array */
    const char *why; /* of PARAM_FIXED: it is not supported; NULL: there is no more to say */
    /* JSON Schema of its values, null aside, as JSON text; NULL where `type` says all. A string
     * that stands where a bound belongs names an option: {"maxItems": "max_stops"}; where a rule
     * for unknown members belongs, {"additionalProperties": "unknown_parameters"}. */
    const char *schema;
} ApiParam;

/* The rows, [*np]. */
const ApiParam *api_param_table(size_t *np);
const ApiParam *api_param_find(const json_t *name, unsigned endpoint);
/* A name of the table that a client may have meant, or NULL; what is not supported was not meant.
 */
const char *api_param_nearest(const json_t *name, unsigned endpoint);
/* A limit by the name of its option, as rows have it; it must be one. */
uint32_t api_limit_named(const ApiLimits *limits, const char *option);
