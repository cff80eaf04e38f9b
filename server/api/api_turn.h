/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The assistant's turn of a chat: messages become a prompt, and what the model writes is taken
 * apart into content, reasoning and calls of tools. What all forms of chats have in common.
 */

#include "server/api/api_call.h"

/* ApiJobKind.prepare of chats. */
int api_turn_prepare(ApiJob *job);

/* What the answer is to have of an event. 0, or -ENOMEM. */
typedef int (*ApiTurnSink)(ApiChoice *choice, const OutputEvent *event, void *userdata);

/* Gives `sink` what an event of the engine comes to; OUTPUT_CALL_END among it. Ends the choice
 * behind its only call where parallel ones are not wanted. 0, -ENOMEM or the sink's error. */
int api_turn_read(ApiChoice *choice, const EngineEvent *event, ApiTurnSink sink, void *userdata);

/* Keeps it: content in choice->text, the rest in choice->output. An ApiTurnSink. */
int api_turn_keep_piece(ApiChoice *choice, const OutputEvent *event, void *userdata);
/* ApiCallKind.keep_text of chats. */
int api_turn_keep(ApiChoice *choice, const EngineEvent *event);
