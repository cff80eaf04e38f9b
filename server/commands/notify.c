/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/notify.h"

#include "util/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MESSAGE_BYTES_MAX 1024

/* A path, or '@' and a name in the abstract namespace. */
static int make_address(const char *name, struct sockaddr_un *address, socklen_t *sizep) {
    size_t n = strlen(name);

    if ((*name != '/' && *name != '@') || n < 2)
        return -EAFNOSUPPORT;
    if (n >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    memcpy(address->sun_path, name, n);
    if (*name == '@')
        address->sun_path[0] = 0;
    *sizep = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (*name == '/'));
    return 0;
}

int notify_send(const char *format, ...) {
    const char *name = getenv("NOTIFY_SOCKET");
    CLEANUP(fd_close) int fd = -1;
    struct sockaddr_un address;
    char message[MESSAGE_BYTES_MAX];
    socklen_t size;
    va_list args;
    int r;

    if (!name)
        return 0;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    r = make_address(name, &address, &size);
    if (r)
        return r;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (sendto(fd, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0)
        return -errno;
    return 0;
}
