/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The input of OpenAI's responses, a text or items, as messages of a chat. What an assistant
 * thought, said and called one behind the other becomes one message, as chats have it.
 */

#include "util/json_tree.h"
#include "util/json_writer.h"

/* The member `messages` of an input that was checked. `instructions`, a string, or NULL, is a
 * system's message in front. Memory for what is put together comes from `account`. 0, or -ENOMEM;
 * the writer's Buffer may have failed, too. */
int api_responses_put_messages(JsonWriter *writer, const json_t *instructions, const json_t *input,
                               Account *account);

/* The item that became call `call` of message `i` of those, or began the message where `call` is
 * SIZE_MAX. SIZE_MAX where none did, as with `instructions` and an input that is a text. */
size_t api_responses_find_item(const json_t *instructions, const json_t *input, size_t i,
                               size_t call);
