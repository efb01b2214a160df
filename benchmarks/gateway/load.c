/* A load generator that counts exactly what it sent: one thread, keep-alive connections to 127.0.0.1.
 *
 *     load requests PORT REQUEST CONNECTIONS SECONDS COUNT LIMIT
 *     load streams  PORT REQUEST STREAMS STAGGER_US LIMIT
 *     load hold     PORT REQUEST STREAMS STAGGER_US LIMIT EVENTS
 *
 * REQUEST is a file with one complete HTTP request, sent as it is. The result is one line of JSON.
 *
 * requests: every connection sends the next request when the answer to the last is complete, until SECONDS have passed or
 *     COUNT requests were sent; those under way are waited for, so that the number answered is the number sent.
 * streams: one request on each connection, started STAGGER_US apart; counts server-sent events. Streams that still run
 *     after LIMIT seconds are broken off and reported as open, not as failed.
 * hold: like streams, but reports as soon as every stream has EVENTS events and keeps the connections open, silent,
 *     until its standard input closes.
 *
 * Nothing lasts longer than LIMIT seconds. What has not even begun to be answered then counts as failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_EVENTS = 256, MAX_HEAD = 16384, BUFFER = 1 << 18, MAX_SAMPLES = 4000000 };

/* Where in a response a connection is. */
typedef enum { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, CLOSE } state;

typedef struct {
    int fd, status, newline, written, keep;
    state state;
    size_t sent;               /* bytes of the request */
    long long begun, left;     /* ns; bytes of the body or chunk to come */
    long long last;            /* ns, the last event */
    long events;
    char line[MAX_HEAD];       /* head, or the line of a chunk's size */
    size_t line_length;
} conn;

static char *request, error_text[256];
static size_t request_length;
static int epoll_fd, streaming, connection_count;
static unsigned short port;
static conn *conns;
static double *samples;        /* microseconds: of a request, or to the first event of a stream */
static double *gaps;           /* microseconds between two events of a stream */
static long sample_count, gap_count, sent, completed, failed, events, held, hold_events, most;
static long long started, stop_sending, last_end;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sample(double microseconds) {
    if (sample_count < MAX_SAMPLES) samples[sample_count++] = microseconds;
}

static void fail(conn *c, const char *why) {
    if (!error_text[0]) {
        snprintf(error_text, sizeof error_text, "%s", why);
        for (char *p = error_text; *p; p++)
            if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ' || (unsigned char)*p > '~') *p = ' ';
    }
    failed++;
    close(c->fd);
    c->fd = -1;
    c->state = IDLE;
}

static void watch(conn *c, unsigned what, int operation) {
    struct epoll_event event = {.events = what, .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static int open_connection(conn *c) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) return -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) return -1;
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
    return 0;
}

static void write_request(conn *c) {
    ssize_t n = send(c->fd, request + c->sent, request_length - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != ENOTCONN) return fail(c, strerror(errno));
    c->sent += n < 0 ? 0 : (size_t)n;
    int written = c->sent == request_length;
    if (written != c->written) watch(c, written ? EPOLLIN : EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    c->written = written;
}

static void begin(conn *c) {
    sent++;
    c->begun = now();
    c->state = HEAD;
    c->sent = c->line_length = 0;
    c->events = c->newline = 0;
    c->written = 1;
    if (c->fd < 0 && open_connection(c)) return fail(c, strerror(errno));
    write_request(c);
}

static void end(conn *c) {
    long long time = now();
    last_end = time;
    if (c->status == 200) completed++;
    else failed++;
    if (!streaming) sample((double)(time - c->begun) / 1000);
    c->state = IDLE;
    if (!c->keep) {
        close(c->fd);
        c->fd = -1;
    }
    if (!streaming && sent < most && time < stop_sending) begin(c);
}

/* A server-sent event ends with an empty line, whatever the line ends are. */
static void count_events(conn *c, const char *data, size_t length) {
    for (const char *p = data, *stop = data + length; p < stop; p++) {
        if (*p == '\n') {
            if (c->newline++ != 1) continue;
            events++;
            long long time = now();
            if (++c->events == 1) sample((double)(time - c->begun) / 1000);
            else if (gap_count < MAX_SAMPLES) gaps[gap_count++] = (double)(time - c->last) / 1000;
            c->last = time;
            if (hold_events && c->events == hold_events) held++;
        } else if (*p != '\r') {
            c->newline = 0;
            p = memchr(p, '\n', (size_t)(stop - p));
            if (!p) return;
            p--;
        }
    }
}

static void parse_head(conn *c) {
    c->status = atoi(c->line + 9);
    c->keep = 1;
    c->state = CLOSE;
    for (char *line = strstr(c->line, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            c->left = atoll(line + 17);
            c->state = LENGTH;
        } else if (!strncasecmp(line + 2, "transfer-encoding:", 18)) {
            c->state = CHUNK_SIZE;
        } else if (!strncasecmp(line + 2, "connection: close", 17)) {
            c->keep = 0;
        }
    }
    c->line_length = 0;
    if (c->status != 200) snprintf(error_text, sizeof error_text, "status %d", c->status);
    if (c->state == LENGTH && !c->left) end(c);
}

/* Take bytes of a body. */
static size_t body(conn *c, const char *data, size_t length, state after) {
    size_t taken = c->state == CLOSE || (long long)length < c->left ? length : (size_t)c->left;
    if (streaming) count_events(c, data, taken);
    c->left -= (long long)taken;
    if (c->state != CLOSE && !c->left) {
        c->state = after;
        if (after == IDLE) end(c);
    }
    return taken;
}

/* Collect a line or a head up to `mark`; return the bytes taken. complete: whether it is there. */
static size_t collect(conn *c, const char *data, size_t length, const char *mark, int *complete) {
    size_t taken = 0, wanted = strlen(mark);
    *complete = 0;
    while (taken < length && c->line_length < MAX_HEAD - 1) {
        c->line[c->line_length++] = data[taken++];
        if (c->line_length >= wanted && !memcmp(c->line + c->line_length - wanted, mark, wanted)) {
            c->line[c->line_length] = 0;
            *complete = 1;
            break;
        }
    }
    if (!*complete && c->line_length == MAX_HEAD - 1) fail(c, "a head or chunk line without end");
    return taken;
}

static void take(conn *c, const char *data, size_t length) {
    int complete;
    while (length && c->state != IDLE) {
        size_t used = 0;
        switch (c->state) {
        case IDLE:
            break;
        case HEAD:
            used = collect(c, data, length, "\r\n\r\n", &complete);
            if (complete) parse_head(c);
            break;
        case LENGTH:
        case CLOSE:
            used = body(c, data, length, IDLE);
            break;
        case CHUNK_SIZE:
            used = collect(c, data, length, "\r\n", &complete);
            if (!complete) break;
            c->left = strtoll(c->line, NULL, 16);
            c->line_length = 0;
            c->state = c->left ? CHUNK : TRAILER;
            break;
        case CHUNK:
            used = body(c, data, length, CHUNK_END);
            break;
        case CHUNK_END:
        case TRAILER:
            used = collect(c, data, length, "\r\n", &complete);
            if (!complete) break;
            int last = c->state == TRAILER && c->line_length == 2;
            if (c->state == CHUNK_END) c->state = CHUNK_SIZE;
            c->line_length = 0;
            if (last) end(c);
            break;
        }
        data += used;
        length -= used;
    }
}

static void receive(conn *c) {
    static char buffer[BUFFER];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n > 0) return take(c, buffer, (size_t)n);
    if (n < 0 && errno == EAGAIN) return;
    if (c->state == CLOSE) {
        c->keep = 0;
        end(c);
    } else if (c->state == IDLE) { /* an idle connection was closed: a new one next time */
        close(c->fd);
        c->fd = -1;
    } else {
        fail(c, "the connection broke");
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, long count, double share) {
    return count ? sorted[(long)(share * (double)(count - 1) + 0.5)] : 0;
}

static void report(int open) {
    double seconds = (double)((last_end && !open ? last_end : now()) - started) / 1e9;
    qsort(samples, (size_t)sample_count, sizeof *samples, ascending);
    qsort(gaps, (size_t)gap_count, sizeof *gaps, ascending);
    printf("{\"sent\":%ld,\"completed\":%ld,\"failed\":%ld,\"events\":%ld,\"open\":%d,\"seconds\":%.6f,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f,\"gap_p99_us\":%.1f,\"error\":\"%s\"}\n",
           sent, completed, failed, events, open, seconds, percentile(samples, sample_count, 0.5),
           percentile(samples, sample_count, 0.99), percentile(gaps, gap_count, 0.99), error_text);
    fflush(stdout);
}

static int read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return -1;
    request = malloc(BUFFER * 16);
    if (!request) abort();
    request_length = fread(request, 1, BUFFER * 16, file);
    fclose(file);
    return 0;
}

int main(int count, char **a) {
    int requests = count == 8 && !strcmp(a[1], "requests"), hold = count == 8 && !strcmp(a[1], "hold");
    streaming = hold || (count == 7 && !strcmp(a[1], "streams"));
    if (!requests && !streaming) return fprintf(stderr, "usage: see load.c\n"), 2;
    port = (unsigned short)atoi(a[2]);
    if (read_request(a[3])) return perror(a[3]), 1;
    connection_count = atoi(a[4]);
    long long stagger = streaming ? atoll(a[5]) * 1000 : 0;
    double limit = atof(a[requests ? 7 : 6]);
    most = requests ? atol(a[6]) : connection_count;
    hold_events = hold ? atol(a[7]) : 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    conns = calloc((size_t)connection_count, sizeof *conns);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    gaps = malloc(MAX_SAMPLES * sizeof *gaps);
    if (!conns || !samples || !gaps) abort();
    epoll_fd = epoll_create1(0);
    started = now();
    stop_sending = started + (requests ? (long long)(atof(a[5]) * 1e9) : 0);
    long long give_up = started + (long long)(limit * 1e9);
    for (int i = 0; i < connection_count; i++) conns[i].fd = -1;
    int begun = 0;
    struct epoll_event ready[MAX_EVENTS];
    for (;;) {
        long long time = now();
        if (time >= give_up || (hold && held + failed >= connection_count)) break;
        while (begun < connection_count && time >= started + begun * stagger) {
            if (begun < most) begin(&conns[begun]);
            begun++;
        }
        if (begun == connection_count && completed + failed == sent) break;
        long long until = begun < connection_count ? started + begun * stagger : give_up;
        struct timespec patience = {(until - time) / 1000000000, (until - time) % 1000000000};
        if (until < time) patience.tv_sec = patience.tv_nsec = 0;
        int n = epoll_pwait2(epoll_fd, ready, MAX_EVENTS, &patience, NULL);
        for (int i = 0; i < n; i++) {
            conn *c = ready[i].data.ptr;
            if (c->fd >= 0 && ready[i].events & EPOLLOUT) write_request(c);
            if (c->fd >= 0 && ready[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) receive(c);
        }
    }
    int open = 0;
    for (int i = 0; i < connection_count; i++) open += conns[i].fd >= 0 && conns[i].state != IDLE && conns[i].events > 0;
    failed = sent - completed - (streaming ? open : 0);
    report(open);
    char byte;
    if (hold)
        while (read(0, &byte, 1) > 0) {}
    return 0;
}
