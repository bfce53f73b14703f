/* The server of a function, as small as one can be: POST /init and POST /invoke, and any other path
 * is told back. It needs no library at run time. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static char request[1 << 16];

/* Reads one request; returns where its body begins, or NULL at the end of the connection. */
static char *receive(int from) {
    size_t have = 0;
    for (;;) {
        ssize_t more = read(from, request + have, sizeof request - 1 - have);
        if (more <= 0) return NULL;
        request[have += more] = 0;
        char *body = strstr(request, "\r\n\r\n");
        if (!body) continue;
        body += 4;
        size_t length = 0;
        for (char *line = request; line < body; line = strchr(line, '\n') + 1)
            if (!strncasecmp(line, "content-length:", 15)) length = atoi(line + 15);
        if (request + have >= body + length) {
            body[length] = 0;
            return body;
        }
    }
}

int main(void) {
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {AF_INET, htons(8000), {htonl(INADDR_LOOPBACK)}, {0}};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 64)) return 1;
    printf("serving as %d:%d\n", getuid(), getgid());
    fflush(stdout);
    for (;;) {
        int caller = accept(listener, NULL, NULL);
        char *body;
        while ((body = receive(caller))) {
            static char answer[1 << 16], head[128];
            char *path = strchr(request, ' ') + 1;
            *strchr(path, ' ') = 0;
            const char *greeting = getenv("GREETING") ? getenv("GREETING") : "Hello";
            if (!strcmp(path, "/init")) sprintf(answer, "%s init\n", greeting);
            else if (!strcmp(path, "/invoke")) sprintf(answer, "%s invoke %s\n", greeting, body);
            else sprintf(answer, "%s at %s\n", greeting, path);
            int size = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
                                     "Content-Length: %zu\r\n\r\n", strlen(answer));
            if (write(caller, head, size) < 0 || write(caller, answer, strlen(answer)) < 0) break;
        }
        close(caller);
    }
}
