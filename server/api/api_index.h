/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What stands at "/": a page for a person with a browser, the same as JSON for a program.
 */

#include "server/api/api.h"

void api_index(HttpExchange *exchange, void *userdata);
