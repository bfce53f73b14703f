/* A server for the tests of containers, without a library at run time.
 *
 * POST /invoke runs its body as a script of the shell and answers what that wrote, or greets when
 * there is no body. The rest is told by the environment, since a test has no other way in. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static void nap(int millis) {
    struct timespec left = {millis / 1000, (millis % 1000) * 1000000L};
    while (nanosleep(&left, &left) && errno == EINTR) {}
}

static void terminated(int signal) {
    (void)signal;
    static const char text[] = "terminated\n";
    if (write(1, text, sizeof text - 1)) {}
    _exit(0);
}

static void asked_to_stop(int signal) {
    const char *text = signal == SIGQUIT ? "stopped by SIGQUIT\n" : "stopped by another signal\n";
    if (write(1, text, strlen(text))) {}
    _exit(0);
}

static void answer(int to, int status, const char *body, size_t length) {
    char head[128];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 %d X\r\nContent-Type: text/html\r\nContent-Length: %zu\r\n\r\n",
                        status, length);
    if (write(to, head, size) < 0) return;
    while (length) {
        ssize_t sent = write(to, body, length);
        if (sent <= 0) return;
        body += sent;
        length -= sent;
    }
}

static void run(int to, const char *script) {
    static char said[1 << 20];
    setenv("SCRIPT", script, 1);
    FILE *shell = popen("exec /bin/sh -c \"$SCRIPT\" 2>&1", "r");
    size_t length = shell ? fread(said, 1, sizeof said, shell) : 0;
    if (shell) pclose(shell);
    answer(to, 200, said, length);
}

static void note(const char *path) {
    char text[80];
    int size = snprintf(text, sizeof text, "%s\n", path);
    FILE *notes = fopen("/tmp/asked", "a");
    if (notes) { fwrite(text, 1, size, notes); fclose(notes); }
}

static void serve(int client) {
    static char request[1 << 20];
    for (;;) {
        size_t have = 0;
        char *body = NULL;
        do {
            ssize_t got = read(client, request + have, sizeof request - 1 - have);
            if (got <= 0) return;
            have += got;
            request[have] = 0;
            body = strstr(request, "\r\n\r\n");
        } while (!body);
        body += 4;
        char *length_at = strcasestr(request, "content-length:");
        size_t length = length_at && length_at < body ? strtoul(length_at + 15, NULL, 10) : 0;
        while (have < (size_t)(body - request) + length) {
            ssize_t got = read(client, request + have, sizeof request - 1 - have);
            if (got <= 0) return;
            have += got;
            request[have] = 0;
        }
        char head[16384] = "";
        strncat(head, request, (size_t)(body - request) < sizeof head - 1 ? (size_t)(body - request) : sizeof head - 1);
        if (!strncmp(request, "POST /init ", 11)) {
            note("/init");
            nap(number("INIT_MILLIS", 0));
            answer(client, number("INIT_STATUS", 200), "Hello init\n", 11);
        } else if (!strncmp(request, "POST /invoke", 12)) {
            if (!length) answer(client, 200, "Hello invoke\n", 13);
            else if (!strcmp(body, "\"headers\"")) answer(client, 200, head, strlen(head));
            else run(client, body);
        } else if (!strncmp(request, "GET /healthz ", 13)) {
            note("/healthz");
            answer(client, access("/tmp/ill", F_OK) ? number("HEALTH_STATUS", 200) : 500, "", 0);
        } else if (!strncmp(request, "POST /pre-stop ", 15)) {
            printf("asked to prepare with %s\n", body);
            fflush(stdout);
            nap(number("PRE_STOP_MILLIS", 0));
            answer(client, 500, "", 0);
        } else if (!strncmp(request, "GET /shutdown ", 14)) {
            printf("asked to shut down\n");
            fflush(stdout);
            answer(client, 200, "", 0);
        } else answer(client, 404, "no such path\n", 13);
    }
}

int main(void) {
    if (getenv("EXIT")) {
        fprintf(stderr, "cannot go on: no configuration\n");
        return number("EXIT", 0);
    }
    signal(SIGCHLD, SIG_IGN);
    if (!getenv("DEAF")) signal(SIGTERM, terminated);
    if (getenv("QUITS")) signal(SIGQUIT, asked_to_stop);
    nap(number("LISTEN_MILLIS", 0));
    int listener;
    int yes = 1;
    const char *bind_to = getenv("BIND") ? getenv("BIND") : "0.0.0.0";
    if (strchr(bind_to, ':')) {
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(8000)};
        listener = socket(AF_INET6, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(listener, (void *)&six, sizeof six)) { perror("bind"); return 1; }
    } else {
        struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(number("LISTEN_PORT", 8000))};
        inet_pton(AF_INET, bind_to, &four.sin_addr);
        listener = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(listener, (void *)&four, sizeof four)) { perror("bind"); return 1; }
    }
    listen(listener, 128);
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        if (!fork()) {
            signal(SIGCHLD, SIG_DFL);
            signal(SIGTERM, SIG_DFL);
            signal(SIGQUIT, SIG_DFL);
            close(listener);
            serve(client);
            _exit(0);
        }
        close(client);
    }
}
