// The consumer of batch_peer.py, in C: librabbitmq, jansson and libpq. Any error ends it.
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <err.h>
#include <jansson.h>
#include <libpq-fe.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFETCH 1000 // of each queue
#define MAX_BATCH 2000
#define COLUMNS 6
#define CHANNEL 1

// An array of PostgreSQL, as text.
struct column {
    char *text;
    size_t length, capacity;
};

struct event {
    json_t *json, *data;
    const char *type, *started_at;
    long long branch_id;
    int place;
};

enum statement { ATTEMPTS, BRANCHES, RUNS, STATEMENTS };
static const char *const names[] = {"attempts", "branches", "runs"};
static const int widths[] = {6, 6, 4};
static struct column columns[STATEMENTS][COLUMNS];

static void put(struct column *column, char byte) {
    if (column->length == column->capacity) {
        column->capacity = 2 * column->capacity + 4096;
        if (!(column->text = realloc(column->text, column->capacity))) err(1, "realloc");
    }
    column->text[column->length++] = byte;
}

static void add(struct column *column, const char *value) {
    put(column, column->length ? ',' : '{');
    if (!value) {
        for (const char *each = "NULL"; *each; each++) put(column, *each);
        return;
    }
    put(column, '"');
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') put(column, '\\');
        put(column, *value);
    }
    put(column, '"');
}

static void add_row(enum statement statement, const char *const values[]) {
    for (int place = 0; place < widths[statement]; place++)
        add(&columns[statement][place], values[place]);
}

static const char *get(json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static int by_branch(const void *one, const void *other) {
    const struct event *a = one, *b = other;
    if (a->branch_id != b->branch_id) return a->branch_id < b->branch_id ? -1 : 1;
    return a->place - b->place;
}

// Adds the rows of one branch, whose events are in order.
static void add_branch(const struct event *events, int count) {
    char id[24], failures[12];
    const char *mirrored_at = NULL, *revision_id = NULL, *reason = NULL;
    int failed = 0;
    snprintf(id, sizeof id, "%lld", events->branch_id);
    for (int i = 0; i < count; i++) {
        const struct event *event = &events[i];
        const char *outcome = event->type + strlen("mirror.");
        if (!strcmp(outcome, "completed")) {
            mirrored_at = event->started_at, revision_id = get(event->data, "revision_id");
            failed = 0, reason = NULL;
        } else if (!strcmp(outcome, "failed")) {
            failed++, reason = get(event->data, "reason");
        } else {
            outcome = NULL;
        }
        int later = i + 1;
        while (later < count && strcmp(events[later].started_at, event->started_at)) later++;
        if (later == count) // an attempt must not be in one statement twice
            add_row(ATTEMPTS, (const char *[]){
                id, event->started_at, outcome ? get(event->json, "time") : NULL, outcome,
                outcome ? get(event->data, "revision_id") : NULL,
                outcome ? get(event->data, "reason") : NULL});
    }
    snprintf(failures, sizeof failures, "%d", failed);
    add_row(BRANCHES, (const char *[]){
        id, events[count - 1].started_at, mirrored_at, revision_id, failures, reason});
}

// In one round trip, which is one transaction.
static void commit(PGconn *database) {
    for (int statement = 0; statement < STATEMENTS; statement++) {
        const char *values[COLUMNS];
        if (!columns[statement][0].length) continue;
        for (int place = 0; place < widths[statement]; place++) {
            struct column *column = &columns[statement][place];
            put(column, '}');
            put(column, '\0');
            column->length = 0;
            values[place] = column->text;
        }
        if (!PQsendQueryPrepared(database, names[statement], widths[statement], values, NULL, NULL, 0))
            errx(1, "%s", PQerrorMessage(database));
    }
    if (!PQpipelineSync(database)) errx(1, "%s", PQerrorMessage(database));
    for (ExecStatusType status = PGRES_COMMAND_OK; status != PGRES_PIPELINE_SYNC;) {
        PGresult *result = PQgetResult(database);
        if (!result) continue; // the end of one statement
        status = PQresultStatus(result);
        if (status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_SYNC)
            errx(1, "%s", PQerrorMessage(database));
        PQclear(result);
    }
}

static void apply(PGconn *database, struct event *events, int count) {
    qsort(events, count, sizeof *events, by_branch);
    for (int i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && events[end].branch_id == events[i].branch_id;) end++;
        if (events[i].branch_id) {
            add_branch(&events[i], end - i);
            continue;
        }
        for (int run = i; run < end; run++)
            add_row(RUNS, (const char *[]){
                get(events[run].data, "name"), get(events[run].data, "hostname"),
                events[run].started_at, get(events[run].data, "completed_at")});
    }
    commit(database);
    for (int i = 0; i < count; i++) json_decref(events[i].json);
}

static PGconn *open_database(void) {
    PGconn *database = PQconnectdb(getenv("MIRRORFEED_DATABASE_URL"));
    if (PQstatus(database) != CONNECTION_OK) errx(1, "%s", PQerrorMessage(database));
    for (int statement = 0; statement < STATEMENTS; statement++) {
        char path[32], text[4096] = "";
        snprintf(path, sizeof path, "%s.sql", names[statement]);
        FILE *file = fopen(path, "r");
        if (!file || !fread(text, 1, sizeof text - 1, file)) err(1, "%s", path);
        fclose(file);
        PGresult *result = PQprepare(database, names[statement], text, 0, NULL);
        if (PQresultStatus(result) != PGRES_COMMAND_OK) errx(1, "%s", PQerrorMessage(database));
        PQclear(result);
    }
    PQenterPipelineMode(database);
    return database;
}

static amqp_connection_state_t open_broker(char *queues[], int count) {
    struct amqp_connection_info at;
    amqp_connection_state_t broker = amqp_new_connection();
    if (amqp_parse_url(getenv("MIRRORFEED_AMQP_URL"), &at) != AMQP_STATUS_OK) errx(1, "the URL");
    if (amqp_socket_open(amqp_tcp_socket_new(broker), at.host, at.port)) errx(1, "no broker");
    if (amqp_login(broker, at.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, at.user, at.password)
            .reply_type != AMQP_RESPONSE_NORMAL) errx(1, "no login");
    amqp_channel_open(broker, CHANNEL);
    amqp_basic_qos(broker, CHANNEL, 0, PREFETCH, 0);
    for (int i = 0; i < count; i++)
        amqp_basic_consume(broker, CHANNEL, amqp_cstring_bytes(queues[i]), amqp_empty_bytes,
                           0, 0, 0, amqp_empty_table);
    if (amqp_get_rpc_reply(broker).reply_type != AMQP_RESPONSE_NORMAL) errx(1, "cannot consume");
    return broker;
}

static void leave(int number) {
    (void)number;
    _exit(0);
}

int main(int argc, char *argv[]) {
    static struct event events[MAX_BATCH];
    signal(SIGTERM, leave);
    if (argc < 3 || chdir(argv[1])) errx(1, "usage: consume FOLDER QUEUE...");
    PGconn *database = open_database();
    amqp_connection_state_t broker = open_broker(argv + 2, argc - 2);
    for (;;) {
        int count = 0;
        uint64_t tag = 0;
        while (count < MAX_BATCH) {
            struct timeval at_once = {0, 0};
            amqp_envelope_t envelope;
            amqp_maybe_release_buffers(broker);
            amqp_rpc_reply_t reply =
                amqp_consume_message(broker, &envelope, count ? &at_once : NULL, 0);
            if (count && reply.library_error == AMQP_STATUS_TIMEOUT) break;
            if (reply.reply_type != AMQP_RESPONSE_NORMAL) errx(1, "the broker is gone");
            struct event *event = &events[count];
            event->json = json_loadb(envelope.message.body.bytes, envelope.message.body.len, 0, NULL);
            event->data = json_object_get(event->json, "data");
            event->type = get(event->json, "type");
            event->started_at = get(event->data, "started_at");
            event->branch_id = json_integer_value(json_object_get(event->data, "branch_id"));
            event->place = count++;
            tag = envelope.delivery_tag;
            amqp_destroy_envelope(&envelope);
        }
        apply(database, events, count);
        if (amqp_basic_ack(broker, CHANNEL, tag, 1)) errx(1, "the broker is gone");
    }
}
