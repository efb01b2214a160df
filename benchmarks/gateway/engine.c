/* A fake inference engine that is never the bottleneck: answers OpenAI chat requests with constants.
 *
 *     engine PORT        listens on 127.0.0.1:PORT, one thread, until it is killed
 *
 * POST /v1/chat/completions is answered with ANSWER_SIZE bytes of JSON or, when the body says "stream": true, with
 * server-sent events in vLLM's form, one chunk and one write each. How many and how fast is told by a mark anywhere in
 * the body (routers reshape bodies and drop unknown fields and headers, but leave a prompt alone):
 *
 *     [[events=500 rate=100 hold=0]]
 *
 * events: in all, the first names the role, the last the finish reason ("[DONE]" follows it in the same write);
 * rate: events per second, 0 for as fast as the reader takes them; hold=1: stay silent after the last but one event
 * until the client goes away. With "return_token_ids": true events carry token ids, as vLLM's do.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    ANSWER_SIZE = 600,
    MAX_EVENTS = 256,          /* of epoll_wait */
    MAX_REQUEST = 8 << 20,     /* bytes of head and body */
    PROMPT_IDS = 200,          /* token ids of a prompt of 1 KB, about */
    WORDS = 8,                 /* taken in turn: some routers take one repeated word for a model gone mad */
};

typedef struct conn {
    int fd;
    char *in;                  /* request bytes not yet dealt with */
    size_t in_length, in_size;
    char *out;                 /* response bytes the kernel did not take */
    size_t out_length, out_sent;
    int streaming, ids, hold;
    long left;                 /* events to come */
    long total;
    long long next, period;    /* ns; period 0: unpaced */
    int place;                 /* index in streams[] */
} conn;

typedef struct { char *data; size_t length; } text;

static text answer, head, first[2], middle[2][WORDS], last[2];
static text health, models, version, info, missing, too_large, bad;
static conn **streams;
static int stream_count, stream_size, epoll_fd, timer_fd;
static unsigned long long generated, finished;

static text format(const char *pattern, ...) {
    text made;
    va_list arguments;
    va_start(arguments, pattern);
    int length = vasprintf(&made.data, pattern, arguments);
    va_end(arguments);
    if (length < 0) abort();
    made.length = (size_t)length;
    return made;
}

static text response(const char *status, const char *type, const char *body) {
    return format("HTTP/1.1 %s\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                  "content-type: %s\r\ncontent-length: %zu\r\n\r\n%s", status, type, strlen(body), body);
}

static text chunk(const char *content) { return format("%zx\r\n%s\r\n", strlen(content), content); }

#define EVENT "data: {\"id\":\"chatcmpl-5f0c6d3a9b1e4c7d8e2f\",\"object\":\"chat.completion.chunk\"," \
              "\"created\":1767225600,\"model\":\"bench\",\"choices\":[{\"index\":0,"

static void prepare(void) {
    char prompt_ids[PROMPT_IDS * 8] = "", body[ANSWER_SIZE + 1];
    for (int i = 0; i < PROMPT_IDS; i++) sprintf(prompt_ids + strlen(prompt_ids), i ? ",%d" : "%d", 10000 + i * 37);
    const char *before = "{\"id\":\"chatcmpl-5f0c6d3a9b1e4c7d8e2f\",\"object\":\"chat.completion\",\"created\":1767225600,"
                         "\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    const char *after = "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":200,"
                        "\"total_tokens\":264,\"completion_tokens\":64}}";
    size_t filler = ANSWER_SIZE - strlen(before) - strlen(after);
    sprintf(body, "%s%*s%s", before, (int)filler, "", after);
    memset(body + strlen(before), 'x', filler);
    answer = response("200 OK", "application/json", body);
    head = format("HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                  "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    for (int ids = 0; ids < 2; ids++) {
        const char *token = ids ? ",\"token_ids\":[7592]" : "";
        text role = format(EVENT "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                           "\"finish_reason\":null}]%s%s%s}\n\n", ids ? ",\"prompt_token_ids\":[" : "",
                           ids ? prompt_ids : "", ids ? "]" : "");
        for (int word = 0; word < WORDS; word++) {
            text delta = format(EVENT "\"delta\":{\"content\":\" word%d\"},\"logprobs\":null,"
                                "\"finish_reason\":null%s}]}\n\n", word, token);
            middle[ids][word] = chunk(delta.data);
        }
        text stop = format(EVENT "\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"stop\","
                           "\"stop_reason\":null%s}]}\n\n", token);
        text end = chunk(stop.data);
        first[ids] = chunk(role.data);
        last[ids] = format("%s%s0\r\n\r\n", end.data, "e\r\ndata: [DONE]\n\n\r\n");
    }
    const char *json = "application/json";
    health = response("200 OK", json, "");
    models = response("200 OK", json, "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\","
                      "\"created\":1767225600,\"owned_by\":\"vllm\",\"root\":\"bench\",\"parent\":null,"
                      "\"max_model_len\":32768,\"permission\":[]}]}");
    version = response("200 OK", json, "{\"version\":\"0.32.0\"}");
    info = response("200 OK", json, "{\"model_path\":\"bench\",\"served_model_name\":\"bench\",\"is_generation\":true,"
                    "\"tp_size\":1,\"dp_size\":1,\"max_model_len\":32768,\"max_total_num_tokens\":1000000}");
    missing = response("404 Not Found", json, "{\"detail\":\"Not Found\"}");
    too_large = response("413 Content Too Large", json, "{\"detail\":\"Content Too Large\"}");
    bad = response("400 Bad Request", json, "{\"detail\":\"Bad Request\"}");
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void watch(conn *c) {
    struct epoll_event event = {.events = EPOLLIN | (c->out_length ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void unstream(conn *c) {
    if (!c->streaming) return;
    c->streaming = 0;
    streams[c->place] = streams[--stream_count];
    streams[c->place]->place = c->place;
}

static void discard(conn *c) {
    unstream(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* Send, keep what the kernel does not take. -1: the connection is gone. */
static int put(conn *c, text t) {
    size_t done = 0;
    if (!c->out_length) {
        ssize_t sent = send(c->fd, t.data, t.length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return -1;
        done = sent < 0 ? 0 : (size_t)sent;
        if (done == t.length) return 0;
    }
    c->out = realloc(c->out, c->out_length + t.length - done);
    if (!c->out) abort();
    memcpy(c->out + c->out_length, t.data + done, t.length - done);
    c->out_length += t.length - done;
    watch(c);
    return 0;
}

static int flush(conn *c) {
    if (!c->out_length) return 0;
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN ? 0 : -1;
    c->out_sent += (size_t)sent;
    if (c->out_sent == c->out_length) {
        free(c->out);
        c->out = NULL;
        c->out_length = c->out_sent = 0;
        watch(c);
    }
    return 0;
}

/* Send the next event of a stream. 1: that was the last one. */
static int next_event(conn *c) {
    int is_first = c->left == c->total, is_last = c->left == 1;
    if (put(c, is_first ? first[c->ids] : is_last ? last[c->ids] : middle[c->ids][c->left % WORDS])) return -1;
    c->left--;
    generated++;
    if (is_last) finished++;
    return is_last;
}

static long mark(const char *body, size_t length, const char *name, long otherwise) {
    const char *found = memmem(body, length < 4096 ? length : 4096, name, strlen(name));
    return found ? atol(found + strlen(name)) : otherwise;
}

static int truth(const char *body, size_t length, const char *field) {
    const char *found = memmem(body, length, field, strlen(field)), *end = body + length;
    if (!found) return 0;
    for (found += strlen(field); found < end && (*found == ':' || *found == ' '); found++) {}
    return end - found >= 4 && !memcmp(found, "true", 4);
}

static int chat(conn *c, const char *body, size_t length) {
    if (!truth(body, length, "\"stream\"")) {
        generated += 64;
        finished++;
        return put(c, answer);
    }
    long rate = mark(body, length, " rate=", 0);
    c->total = c->left = mark(body, length, "[[events=", 64);
    if (c->total < 2) c->total = c->left = 2;
    c->hold = (int)mark(body, length, " hold=", 0);
    c->ids = truth(body, length, "\"return_token_ids\"");
    c->period = rate > 0 ? 1000000000LL / rate : 0;
    c->next = now() + c->period;
    if (put(c, head) || next_event(c) < 0) return -1;
    if (stream_count == stream_size) {
        stream_size = stream_size ? 2 * stream_size : 64;
        streams = realloc(streams, (size_t)stream_size * sizeof *streams);
        if (!streams) abort();
    }
    c->streaming = 1;
    c->place = stream_count;
    streams[stream_count++] = c;
    return 0;
}

static int metrics(conn *c) {
    char body[1024];
    snprintf(body, sizeof body,
             "vllm:num_requests_running{engine=\"0\",model_name=\"bench\"} %d\n"
             "vllm:num_requests_waiting{engine=\"0\",model_name=\"bench\"} 0\n"
             "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"bench\"} 0.1\n"
             "vllm:prompt_tokens_total{engine=\"0\",model_name=\"bench\"} %llu\n"
             "vllm:generation_tokens_total{engine=\"0\",model_name=\"bench\"} %llu\n"
             "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"bench\"} %llu\n",
             stream_count, 200 * finished, generated, finished);
    text made = response("200 OK", "text/plain; version=0.0.4; charset=utf-8", body);
    int failed = put(c, made);
    free(made.data);
    return failed;
}

static int answer_to(conn *c, const char *method, const char *path, const char *body, size_t length) {
    if (!strcmp(method, "POST")) {
        int known = !strcmp(path, "/v1/chat/completions") || !strcmp(path, "/v1/completions");
        return known ? chat(c, body, length) : put(c, missing);
    }
    if (!strcmp(path, "/metrics")) return metrics(c);
    if (!strcmp(path, "/v1/models")) return put(c, models);
    if (!strcmp(path, "/version")) return put(c, version);
    if (strstr(path, "model_info") || strstr(path, "server_info")) return put(c, info);
    return put(c, strstr(path, "health") || !strcmp(path, "/ping") ? health : missing);
}

/* Decode the chunks from `from` on in place. Bytes they took, 0: more is needed, -1: they are wrong. */
static long unchunk(char *from, size_t available, size_t *length) {
    char *in = from, *end = from + available, *out = from;
    for (;;) {
        char *line = memmem(in, (size_t)(end - in), "\r\n", 2), *stop;
        if (!line) return 0;
        long size = strtol(in, &stop, 16);
        if (stop == in || size < 0 || size > MAX_REQUEST) return -1;
        if (end - line < size + 4) return 0;
        memmove(out, line + 2, (size_t)size);
        out += size;
        in = line + 2 + size + 2;
        if (!size) {
            *length = (size_t)(out - from);
            return in - from;
        }
    }
}

/* Answer the requests that are complete, one after the other. -1: the connection is to be closed. */
static int serve(conn *c) {
    while (c->in_length && !c->streaming && !c->out_length) {
        char *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
        if (!end) return 0;
        char *body = end + 4, method[16], path[256];
        size_t available = c->in_length - (size_t)(body - c->in), length = 0;
        long used, chunked = 0;
        if (sscanf(c->in, "%15s %255s", method, path) != 2) return put(c, bad), -1;
        for (char *line = strstr(c->in, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
            if (!strncasecmp(line + 2, "content-length:", 15)) length = strtoul(line + 17, NULL, 10);
            if (!strncasecmp(line + 2, "transfer-encoding:", 18)) chunked = 1;
        }
        if (length > MAX_REQUEST) return put(c, too_large), -1;
        if (chunked) {
            char *copy = malloc(available + 1); /* decoding is in place, and more of it may be to come */
            if (!copy) abort();
            memcpy(copy, body, available);
            used = unchunk(copy, available, &length);
            if (used > 0) memcpy(body, copy, length);
            free(copy);
            if (used < 0) return put(c, bad), -1;
            if (!used) return 0;
        } else {
            if (available < length) return 0;
            used = (long)length;
        }
        char *query = strchr(path, '?');
        if (query) *query = 0;
        if (answer_to(c, method, path, body, length)) return -1;
        size_t taken = (size_t)(body - c->in) + (size_t)used;
        memmove(c->in, c->in + taken, c->in_length - taken);
        c->in_length -= taken;
        c->in[c->in_length] = 0;
    }
    return 0;
}

static int receive(conn *c) {
    if (c->in_size - c->in_length < 16384) {
        c->in_size = c->in_size ? c->in_size * 2 : 32768;
        c->in = realloc(c->in, c->in_size + 1);
        if (!c->in) abort();
    }
    ssize_t got = recv(c->fd, c->in + c->in_length, c->in_size - c->in_length, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    c->in_length += (size_t)got;
    c->in[c->in_length] = 0;
    if (c->in_length > MAX_REQUEST) return -1;
    return serve(c);
}

static void ended(conn *c) {
    unstream(c);
    if (serve(c)) discard(c);
}

/* Send what is due on all streams; set the timer for what is due next. 1: there is more to send at once. */
static int play(void) {
    long long time = now(), soonest = 0;
    int busy = 0;
    for (int i = 0; i < stream_count; i++) {
        conn *c = streams[i];
        int holding = c->hold && c->left == 1, done = 0;
        if (!holding && !c->out_length && (!c->period || c->next <= time)) {
            done = next_event(c); /* one each: unpaced streams take turns */
            c->next += c->period;
            holding = c->hold && c->left == 1;
        }
        if (done < 0) {
            discard(c);
            i--;
        } else if (done) {
            i--;
            ended(c);
        } else if (!holding && !c->out_length) {
            if (!c->period || c->next <= time) busy = 1;
            else if (!soonest || c->next < soonest) soonest = c->next;
        }
    }
    struct itimerspec at = {.it_value = {soonest / 1000000000, soonest % 1000000000}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    return busy;
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        conn *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **arguments) {
    if (count != 2) return fprintf(stderr, "usage: engine PORT\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    prepare();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(arguments[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        return perror("engine"), 1;
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event of_listener = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event of_timer = {.events = EPOLLIN, .data.ptr = &timer_fd}, events[MAX_EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &of_listener);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &of_timer);
    for (int busy = 0;;) {
        int ready = epoll_wait(epoll_fd, events, MAX_EVENTS, busy ? 0 : -1);
        for (int i = 0; i < ready; i++) {
            void *what = events[i].data.ptr;
            if (!what) {
                accept_all(listener);
            } else if (what == &timer_fd) {
                unsigned long long expired;
                if (read(timer_fd, &expired, sizeof expired) < 0) continue;
            } else {
                conn *c = what;
                int failed = events[i].events & (EPOLLERR | EPOLLHUP);
                if (!failed && events[i].events & EPOLLOUT) failed = flush(c) || serve(c);
                if (!failed && events[i].events & EPOLLIN) failed = receive(c);
                if (failed) discard(c);
            }
        }
        busy = stream_count ? play() : 0;
    }
}
