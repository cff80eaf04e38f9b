/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * JSON schemas of what the server takes, as its options and its model have them: of the files of
 * schemas/ (api_schemas.h) and of the rows of parameters (api_param_table.h).
 */

#include "server/api/api_params.h"
#include "util/json_writer.h"

typedef struct ApiSchemaWriter {
    JsonWriter json;
    const ApiLimits *limits; /* borrowed */
    const char *model;       /* name of the one that is served; borrowed */
} ApiSchemaWriter;

/* "schema": that of an endpoint's body. */
void api_schema_put_body(ApiSchemaWriter *writer, unsigned endpoint);
/* "schema": that of a model's name. */
void api_schema_put_model(ApiSchemaWriter *writer);
/* A member of a schema, or of a file of them, with the names of options in it replaced by what they
 * say. */
void api_schema_put_member(ApiSchemaWriter *writer, const json_t *key, const json_t *value);
