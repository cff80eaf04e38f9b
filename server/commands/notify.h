/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tells the service manager how the process is: the protocol of sd_notify(3), one datagram to the
 * socket that NOTIFY_SOCKET names. Without that variable nothing happens. Any thread.
 */

/* Lines of "VARIABLE=value": "READY=1\nSTATUS=...". 0, also where nobody listens for it, or -errno.
 */
int notify_send(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));
