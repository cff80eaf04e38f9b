/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * JSON schemas of what has a form of its own, in requests and in answers: the files of schemas/,
 * built into the program. Each is a JSON object of schemas by name; no name is in two of them. They
 * become the components of the description of the API, where "#/components/schemas/NAME" finds
 * them. What api_param_table.h says of options in schemas holds in them, too.
 */

#include <stddef.h>

typedef struct ApiSchemaFile {
    const char *text;
    size_t size;
} ApiSchemaFile;

/* [*np] */
const ApiSchemaFile *api_schema_files(size_t *np);
