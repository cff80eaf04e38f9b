/* SPDX-License-Identifier: Apache-2.0 */
/* The config file. */
#include "tests/fuzz/fuzz.h"

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *const args[] = { "--config", fuzz_file("kvasird.json", data, size) };
    const ConfigInput input = { .command = COMMAND_CONFIG, .argc = 2, .argv = args };
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    if (config_load(&config, &input, &why))
        assert(why.text[0]);
    return 0;
}
