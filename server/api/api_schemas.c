/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_schemas.h"

#include "server/api/answers_schemas.h"
#include "server/api/chat_schemas.h"
#include "server/api/messages_schemas.h"
#include "server/api/params_schemas.h"
#include "server/api/responses_schemas.h"

#define FILE_OF(_name) \
    { (const char *)_name##_schemas, _name##_schemas_SIZE }

static const ApiSchemaFile files[] = {
    FILE_OF(params), FILE_OF(chat), FILE_OF(answers), FILE_OF(messages), FILE_OF(responses),
};

const ApiSchemaFile *api_schema_files(size_t *np) {
    *np = sizeof(files) / sizeof(*files);
    return files;
}
